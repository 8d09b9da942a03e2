"""Figures and tables. Each follows only from what it is handed or what is on disk."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import font_manager

from helpers.assets import whole_file
from helpers.evaluate import summarise

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


def style() -> None:
    """The kit's look for all figures. Chinese is shown with the first font of CJK that is
    installed; without any, as boxes: install one, say Debian's fonts-noto-cjk."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    cjk = [name for name in CJK.split("|") if name in installed]
    mpl.rcParams["font.family"] = ["DejaVu Sans", *cjk[:1]]
    spines = {"axes.spines.top": False, "axes.spines.right": False}
    mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "savefig.bbox": "tight", **spines})


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

    handle = display("waiting for ms-swift, which takes about 20 s to start …", display_id=True)
    seen = 0

    def watch(log: list[dict]) -> None:
        nonlocal seen
        if len(log) > seen:
            seen, figure = len(log), training_curve(log)
            handle.update(figure)
            plt.close(figure)

    return watch


def training_curve(log: list[dict]) -> plt.Figure:
    """Loss and token accuracy by step: each batch, the mean of the last ten, and held-out tools."""
    frame = training_frame(log)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    titles = {"loss": "loss", "token_acc": "token accuracy (teacher-forced)"}
    for axis, (column, title) in zip(axes, titles.items()):
        batches, heldout = frame[column].dropna(), frame[f"eval_{column}"].dropna()
        mean, grey = batches.rolling(10, min_periods=1).mean(), COLOURS["loss"]
        axis.plot(batches, ".", color=grey, alpha=0.25, label="training batch")
        axis.plot(mean, color=grey, label="mean of ten")
        axis.plot(heldout, "o-", color=COLOURS["token"], label="held-out tools")
        axis.set(xlabel="optimizer step", title=title)
    axes[0].legend(frameon=False)
    if log:
        now = "step {global_step/max_steps} · {elapsed_time} gone · {remaining_time} to go"
        last = {"elapsed_time": "?", "remaining_time": "?"} | log[-1]
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
    table = {}
    for column, score in {"base": scores[0], "tuned, step {step}": scores[-1]}.items():
        lines = score_frame([score]).set_index("metric").loc[list(SHOWN)]
        table[column.format(**score)] = [
            f"{one.rate:.0%} [{one.low:.0%}, {one.high:.0%}] n={one.n}" if one.n else "–"
            for one in lines.itertuples()
        ]
    return pd.DataFrame(table, index=SHOWN.values())


def caption(manifest: dict) -> str:
    """A run in one line: model, format, number format, hardware, rows, seed, n."""
    profile, machine = manifest["profile"], manifest["hardware"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    source = "synthetic" if profile["source"].startswith("authored") else profile["source"]
    size = f"{profile['train_rows']} {source} rows, seed {profile['seed']}"
    model = f"{manifest['model']}, {profile['format']} format, {manifest['number_format']}"
    return f"{model}; {where}; {size}; n = {profile['cases']} cases; 95 % Wilson intervals"


def accuracy_by_step(log: list[dict], scores: list[dict], title: str = "") -> plt.Figure:
    """Token accuracy, success rate and BFCL by step (0: the base model); bars: 95 % Wilson."""
    frame = score_frame(scores).set_index("metric")
    figure, (first, *others) = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    first.plot(training_frame(log)["eval_token_acc"].dropna(), "o-", color=COLOURS["token"])
    first.set(title="token accuracy\n(teacher-forced, held-out tools)", ylabel="share")
    names = {"success": "success rate\n(held-out tools)"}
    names["bfcl"] = "BFCL simple_python, multiple\n(its own checker)"
    for axis, (metric, name), colour in zip(others, names.items(), ("episode", "bfcl")):
        part = frame.loc[metric].astype(float)
        bars = [(part.rate - part.low).clip(lower=0), (part.high - part.rate).clip(lower=0)]
        axis.errorbar(part.step, part.rate, bars, fmt="o-", capsize=3, color=COLOURS[colour])
        axis.set_title(f"{name}, n = {part.n.iloc[0]:.0f}")
    for axis in (first, *others):
        axis.set(xlabel="optimizer step", ylim=(-0.03, 1.03))
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    return figure
