"""Figures and tables that follow from a record; equal data give equal bytes."""

import pytest
from conftest import ROOT

from helpers import evaluate, plots
from helpers.train import Run

RECORD = Run(ROOT / "data" / "runs" / "laptop")


def test_the_smoothed_loss_stands_over_every_raw_point():
    loss = plots.training_frame(RECORD.log()).loss.dropna()
    raw, mean, heldout = plots.training_curve(RECORD.log()).axes[0].lines
    assert list(raw.get_ydata()) == list(loss) and len(mean.get_ydata()) == len(loss) == 176
    assert mean.get_ydata()[-1] == pytest.approx(loss[-10:].mean())
    assert list(heldout.get_xdata()) == [0, 88, 176], "step 0 is a point"


def test_table_and_caption_say_what_the_numbers_depend_on():
    table = plots.comparison(evaluate.kept_scores(RECORD))
    assert list(table.columns) == ["base", "tuned, step 176"]
    assert table.loc["success rate", "tuned, step 176"] == "31% [18%, 49%] n=32"
    assert table.loc["faithful answer", "base"] == "–", "nothing was called"
    words = ("smollm2", "wire", "float32", "2 cores", "176 synthetic rows", "seed 42", "n = 40")
    assert all(word in plots.caption(RECORD.manifest()) for word in words)
