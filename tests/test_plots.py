"""Figures and tables that follow from a record; equal data give equal bytes."""

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT

from helpers import evaluate, plots
from helpers.train import Run

RECORD = Run(ROOT / "data" / "runs" / "laptop")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_figures_are_redrawn_byte_equal(tmp_path):
    one, two = (plots.redraw(RECORD, tmp_path / name).read_bytes() for name in "ab")
    assert one == two == (ROOT / "figures" / "accuracy_by_step.png").read_bytes()


def test_the_smoothed_loss_stands_over_every_raw_point():
    frame = plots.training_frame(RECORD.log())
    assert list(frame.index) == list(range(177)) and frame.loss.notna().sum() == 176
    assert list(frame.eval_token_acc.dropna().index) == [0, 88, 176], "step 0 is a point"
    raw, mean, heldout = plots.training_curve(RECORD.log()).axes[0].lines
    assert list(raw.get_ydata()) == list(frame.loss.dropna())
    assert mean.get_ydata()[-1] == pytest.approx(frame.loss[-10:].mean())
    assert len(mean.get_ydata()) == 176 and list(heldout.get_xdata()) == [0, 88, 176]


def test_the_live_curve_is_drawn_when_the_log_grows(monkeypatch):
    import IPython.display

    drawn = []

    class Handle:
        update = staticmethod(drawn.append)

    monkeypatch.setattr(IPython.display, "display", lambda *shown, **options: Handle)
    watch, log = plots.live(), RECORD.log()
    for seen in (0, 0, 1, 1, 20):
        watch(log[:seen])
    assert len(drawn) == 2 and not plt.get_fignums()


def test_table_and_caption_say_what_the_numbers_depend_on():
    table = plots.comparison(evaluate.kept_scores(RECORD))
    assert list(table.columns) == ["base", "tuned, step 176"]
    assert table.loc["success rate", "tuned, step 176"] == "31% [18%, 49%] n=32"
    assert table.loc["faithful answer", "base"] == "–", "nothing was called"
    words = ("smollm2", "wire", "float32", "2 cores", "176 synthetic rows", "seed 42", "n = 40")
    assert all(word in plots.caption(RECORD.manifest()) for word in words)
