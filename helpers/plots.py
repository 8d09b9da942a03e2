"""Figures and tables. Each follows only from what it is handed or what is on disk."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import font_manager

from helpers.assets import whole_file
from helpers.evaluate import kept_scores, summarise
from helpers.train import Run

# colours that all eyes tell apart (Okabe and Ito)
COLOURS = {"episode": "#0072B2", "bfcl": "#D55E00", "token": "#009E73", "loss": "#555555"}
SHOWN = {  # metric → its name in tables
    "success": "success rate",
    "called": "called a tool",
    "tool_name": "right tool",
    "full_call": "exact call(s)",
    "faithful_answer": "faithful answer",
    "no_tool_accuracy": "no call where none is due",
    "clean_stop": "clean stop",
    "repeated_call": "repeated a call",
    "bfcl": "BFCL, its own checker",
}
CJK = "Noto Sans CJK SC|Noto Sans SC|Source Han Sans SC|WenQuanYi Micro Hei|WenQuanYi Zen Hei|"
CJK += "PingFang SC|Hiragino Sans GB|Microsoft YaHei|SimHei|Noto Sans CJK JP"


def style() -> str | None:
    """The kit's look for all figures. Returns the font for Chinese: the first of CJK that is
    installed, or None (then Chinese shows as boxes: install one, say Debian's fonts-noto-cjk)."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    cjk = next((name for name in CJK.split("|") if name in installed), None)
    mpl.rcParams["font.family"] = ["DejaVu Sans", *([cjk] if cjk else [])]
    mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 100})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    mpl.rcParams.update({"savefig.bbox": "tight", "svg.hashsalt": "agentfabric-kit"})
    return cjk


def save(figure: plt.Figure, path: str | Path) -> Path:
    """Save a figure as PNG without date or version in it: equal data give equal bytes."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=120, metadata={"Software": None})
    return Path(path)


def training_frame(log: list[dict]) -> pd.DataFrame:
    """ms-swift's log by `step`: loss and token_acc of training, eval_loss and eval_token_acc."""
    columns = ["loss", "token_acc", "eval_loss", "eval_token_acc"]
    frame = pd.DataFrame(log, columns=["global_step/max_steps", *columns])
    steps = frame.pop("global_step/max_steps").str.split("/").str[0].astype(int)
    return frame.groupby(steps.rename("step")).first()


def live() -> Callable[[list[dict]], None]:
    """A callback for `finetune(watch=…)`: the training curve, drawn again as the log grows."""
    from IPython.display import display

    handle = display(
        "waiting for the first step (ms-swift starts for about 20 s) …", display_id=True
    )
    seen = 0

    def watch(log: list[dict]) -> None:
        nonlocal seen
        if len(log) > seen:
            seen, figure = len(log), training_curve(log)
            handle.update(figure)
            plt.close(figure)

    return watch


def training_curve(log: list[dict]) -> plt.Figure:
    """Loss and token accuracy by optimizer step. Light points: each training batch. Line: the mean
    of the last ten of them (pandas' `rolling`). Green: rows with held-out tools."""
    frame = training_frame(log)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    titles = {"loss": "loss", "token_acc": "token accuracy (teacher-forced)"}
    for axis, (column, title) in zip(axes, titles.items()):
        batches, heldout = frame[column].dropna(), frame[f"eval_{column}"].dropna()
        mean = batches.rolling(10, min_periods=1).mean()
        axis.plot(batches, ".", color=COLOURS["loss"], alpha=0.25, label="training batch")
        axis.plot(mean, color=COLOURS["loss"], label="mean of ten")
        axis.plot(heldout, "o-", color=COLOURS["token"], label="held-out tools")
        axis.set(xlabel="optimizer step", title=title)
    axes[0].legend(frameon=False)
    last = {"elapsed_time": "", "remaining_time": "?", "global_step/max_steps": "?"}
    last |= log[-1] if log else {}
    now = "step {global_step/max_steps} · {elapsed_time} gone · {remaining_time} to go"
    figure.suptitle(now.format(**last), fontsize=9)
    figure.tight_layout()
    return figure


def score_frame(scores: list[dict]) -> pd.DataFrame:
    """`evaluate.kept_scores` as a frame, a line for each step and metric: n, k, rate, low, high
    (95 % Wilson interval). The metric "bfcl" is BFCL's own verdict."""
    lines = []
    for score in scores:
        summary = summarise([one["metrics"] for one in score["episodes"]])
        valid = [{"bfcl": case["valid"]} for case in score["bfcl"]]
        for metric, values in (summary | summarise(valid)).items():
            lines.append({"step": score["step"], "metric": metric, **values})
    return pd.DataFrame(lines)


def comparison(scores: list[dict]) -> pd.DataFrame:
    """Base model beside last checkpoint: each metric of SHOWN with 95 % Wilson interval and n."""
    frame = score_frame(scores).set_index(["metric", "step"])
    first, last = scores[0]["step"], scores[-1]["step"]

    def cell(metric: str, step: int) -> str:
        line = frame.loc[metric, step]
        return (
            f"{line.rate:.0%} [{line.low:.0%}, {line.high:.0%}] n={line.n:.0f}" if line.n else "–"
        )

    columns = {"base": first, f"tuned, step {last}": last}
    table = {name: [cell(metric, step) for metric in SHOWN] for name, step in columns.items()}
    return pd.DataFrame(table, index=SHOWN.values())


def caption(manifest: dict) -> str:
    """A run in one line: model, format, number format, hardware, rows, seed, n."""
    profile, machine = manifest["profile"], manifest["hardware"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    size = f"{profile['train_rows']} training rows, seed {profile['seed']}, n = {profile['cases']}"
    model = f"{manifest['model']}, {profile['format']} format, {manifest['number_format']}"
    return f"{model}; {where}; {size} cases; synthetic data; 95 % Wilson intervals"


def accuracy_by_step(log: list[dict], scores: list[dict], title: str = "") -> plt.Figure:
    """Token accuracy, success rate and BFCL by optimizer step, the latter two with 95 % Wilson
    intervals. Step 0 is the base model."""
    frame, tokens = score_frame(scores), training_frame(log)["eval_token_acc"].dropna()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    axes[0].plot(tokens, "o-", color=COLOURS["token"])
    axes[0].set(title="token accuracy\n(teacher-forced, held-out tools)", ylabel="share")
    names = {"success": "success rate\n(held-out tools)"}
    names["bfcl"] = "BFCL simple_python, multiple\n(its own checker)"
    for axis, (metric, name), colour in zip(axes[1:], names.items(), ("episode", "bfcl")):
        part = frame[frame.metric == metric].sort_values("step")
        rates = part.rate.astype(float)
        bars = [(rates - part.low).clip(lower=0), (part.high - rates).clip(lower=0)]
        options = {"fmt": "o-", "capsize": 3, "color": COLOURS[colour]}
        axis.errorbar(part.step, rates, yerr=bars, **options)
        axis.set_title(f"{name}, n = {int(part.n.iloc[0])}")
    for axis in axes:
        axis.set(xlabel="optimizer step", ylim=(-0.03, 1.03))
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    return figure


def redraw(record: Run, folder: str | Path) -> Path:
    """`accuracy_by_step` of a run or its record under data/runs, with its caption, as a file."""
    style()
    title = caption(record.manifest())
    figure = accuracy_by_step(record.log(), kept_scores(record), title)
    return save(figure, Path(folder) / "accuracy_by_step.png")
