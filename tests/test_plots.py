"""Figures and tables that follow from a record; equal data give equal bytes."""

from unittest.mock import Mock

import pytest
from conftest import ROOT

from helpers import evaluate, plots
from helpers.train import Run

RECORD = Run(ROOT / "data" / "runs" / "laptop")


def test_the_smoothed_loss_stands_over_every_raw_point():
    loss = plots.training_frame(RECORD.log()).loss.dropna()
    raw, mean, heldout = plots.training_curve(RECORD.log()).axes[0].lines
    steps = [score["step"] for score in evaluate.kept_scores(RECORD)]
    assert list(raw.get_ydata()) == list(loss) and len(mean.get_ydata()) == len(loss) == steps[-1]
    assert mean.get_ydata()[-1] == pytest.approx(loss[-10:].mean())
    assert list(heldout.get_xdata()) == steps, "the points of the scores; step 0 is one"


def test_the_live_curve_is_drawn_seldom_and_at_the_end(monkeypatch):
    log, drawn = RECORD.log(), []
    monkeypatch.setattr(plots, "training_curve", lambda log: drawn.append(len(log)))
    monkeypatch.setattr(plots.plt, "close", lambda figure: None)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: Mock())
    watch = plots.live(pause=3600)
    for end in (5, 6, len(log), len(log)):
        watch(log[:end])
    assert drawn == [5, len(log)]


def test_table_and_caption_say_what_the_numbers_depend_on():
    scores, profile = evaluate.kept_scores(RECORD), RECORD.manifest()["profile"]
    table = plots.comparison(scores)
    columns = ["base", "base, two examples", "base, grammar", "tuned", "tuned, grammar"]
    assert list(table.columns) == columns
    made = [one["metrics"]["success"] for one in scores[-1]["episodes"]]
    k, n = made.count(True), len(made) - made.count(None)
    assert table.loc["success rate", "tuned"].startswith(f"{k / n:.0%} [")
    assert table.loc["success rate", "tuned"].endswith(f" n={n}")
    words = ("smollm2", "wire", "2 cores", f"{profile['train_rows']} synthetic rows", "seed 42")
    assert all(word in plots.caption(RECORD.manifest()) for word in words)
