"""Read runs, draw figures. Every function is a pure function of what is on disk or handed in."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import font_manager

from helpers import scoring

COLOURS = {"visit": "#0072B2", "bfcl": "#D55E00", "token": "#009E73", "loss": "#555555"}  # told apart by all eyes
SHOWN = {"visit_success": "visit success", "called": "called a tool", "tool_name": "right tool",
         "full_call": "exact call(s)", "faithful_answer": "faithful answer",
         "no_tool_accuracy": "no call where none is due",
         "clean_stop": "clean stop", "repeated_call": "repeated a call"}
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
              "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Noto Sans CJK JP")


def style() -> str | None:
    """The kit's look for all figures; Chinese text falls back to the first CJK font installed. Returns that font's
    name, or None where there is none (then Chinese shows as boxes: install one, say Debian's fonts-noto-cjk)."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    cjk = next((name for name in _CJK_FONTS if name in installed), None)
    mpl.rcParams.update({"font.family": ["DejaVu Sans", *([cjk] if cjk else [])], "axes.spines.top": False,
                         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 100,
                         "savefig.bbox": "tight", "svg.hashsalt": "agentfabric-kit"})
    return cjk


def save(figure: plt.Figure, path: str | Path) -> Path:
    """Save a figure as PNG without dates or versions in it, so that equal data give equal bytes; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return path


def training_frame(log: list[dict]) -> pd.DataFrame:
    """ms-swift's log records as a frame by `step`: loss and token_acc of training, eval_loss and eval_token_acc."""
    columns = ["loss", "token_acc", "eval_loss", "eval_token_acc"]
    rows = [{"step": int(str(record["global_step/max_steps"]).split("/")[0]),
             **{key: record[key] for key in columns if key in record}}
            for record in log]
    frame = pd.DataFrame(rows, columns=["step", *columns])
    return frame.groupby("step").first()


def live() -> Callable[[list[dict]], None]:
    """A callback for `finetune(watch=…)`: a progress line and a loss and accuracy curve that redraw in the cell."""
    from IPython.display import display

    handle, seen = display("waiting for the first step (ms-swift needs about 20 s to start) …", display_id=True), [0]

    def watch(log: list[dict]) -> None:
        if len(log) == seen[0]:
            return
        seen[0] = len(log)
        drawn = training_curve(log)
        handle.update(drawn)
        plt.close(drawn)

    return watch


def training_curve(log: list[dict]) -> plt.Figure:
    """Loss and token accuracy by optimizer step, training thin and held-out rows as points."""
    frame = training_frame(log)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    for axis, train, held, name in ((left, "loss", "eval_loss", "loss"),
                                    (right, "token_acc", "eval_token_acc", "token accuracy (teacher-forced)")):
        axis.plot(frame[train].dropna(), color=COLOURS["loss"], lw=1, label="training batch")
        axis.plot(frame[held].dropna(), "o-", color=COLOURS["token"], label="held-out tools")
        axis.set(xlabel="optimizer step", title=name)
    left.legend(frameon=False)
    last = log[-1] if log else {}
    figure.suptitle(f"step {last.get('global_step/max_steps', '?')} · {last.get('elapsed_time', '')} gone · "
                    f"{last.get('remaining_time', '?')} to go", fontsize=9, y=1.02)
    figure.tight_layout()
    return figure


def score_frame(scores: list[dict]) -> pd.DataFrame:
    """Scores of checkpoints (`evaluate.score_run`) → one line per step and measure: n, k, rate, low, high. The
    measure "bfcl" is BFCL's own verdict."""
    lines = []
    for score in scores:
        summary = scoring.summarise([visit["judged"] for visit in score["visits"]])
        summary["bfcl"] = scoring.summarise([{"valid": case["valid"]} for case in score["bfcl"]])["valid"]
        lines += [{"step": score["step"], "measure": measure, **values} for measure, values in summary.items()]
    return pd.DataFrame(lines)


def comparison(scores: list[dict]) -> pd.DataFrame:
    """Base model beside the last checkpoint: share, 95 % Wilson interval and n of the measures readers ask for."""
    frame = score_frame(scores)
    first, last = frame.step.min(), frame.step.max()
    table = {}
    for measure, name in {**SHOWN, "bfcl": "BFCL, its own checker"}.items():
        part = frame[frame.measure == measure].set_index("step")
        table[name] = {"base": _percent(part.loc[first]), f"tuned, step {last}": _percent(part.loc[last])}
    return pd.DataFrame(table).T


def _percent(line: pd.Series) -> str:
    if not line.n:
        return "–"
    return f"{line.rate:.0%} [{line.low:.0%}, {line.high:.0%}] n={line.n}"


def accuracy_by_step(log: list[dict], scores: list[dict], title: str = "") -> plt.Figure:
    """Three panels by optimizer step: teacher-forced token accuracy, visit success, BFCL; the latter two with 95 %
    Wilson intervals. Step 0 is the base model."""
    frame, tokens = score_frame(scores), training_frame(log)["eval_token_acc"].dropna()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    axes[0].plot(tokens, "o-", color=COLOURS["token"])
    axes[0].set_title("token accuracy\n(teacher-forced, held-out tools)")
    for axis, measure, colour, name in ((axes[1], "visit_success", "visit", "visit success\n(held-out tools)"),
                                        (axes[2], "bfcl", "bfcl", "BFCL simple_python, multiple\n(its own checker)")):
        part = frame[frame.measure == measure].sort_values("step")
        rates = part.rate.astype(float)
        spread = [(rates - part.low).clip(lower=0), (part.high - rates).clip(lower=0)]
        axis.errorbar(part.step, rates, yerr=spread, fmt="o-", capsize=3, color=COLOURS[colour])
        axis.set_title(f"{name}, n = {int(part.n.iloc[0])}")
    for axis in axes:
        axis.set(xlabel="optimizer step", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share")
    figure.suptitle(title, fontsize=10, y=1.04)
    figure.tight_layout()
    return figure
