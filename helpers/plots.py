"""Figures and tables. Each follows only from what it is handed or what is on disk."""

import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import font_manager

from helpers.assets import whole_file
from helpers.evaluate import summarise

# colours that all eyes tell apart (Okabe and Ito)
COLOURS = {"episode": "#0072B2", "token": "#009E73", "loss": "#555555"}
SHOWN = {  # metric → its name in tables
    "success": "success rate",
    "called": "called a tool where one is due",
    "tool_name": "right tool",
    "full_call": "exact call(s)",
    "full_call_no_arguments": "exact calls without arguments",
    "faithful_answer": "faithful answer",
    "no_call": "no call where none is due",
    "clean_stop": "clean stop",
    "repeated_call": "repeated a call",
}
BFCL = {"simple_python": "BFCL simple_python", "multiple": "BFCL multiple"}
COLUMNS = {  # ending of a kind of score → its name in tables
    "": "{model}",
    "_examples": "{model}, two examples",
    "_grammar": "{model}, grammar",
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


def live(pause: float = 15) -> Callable[[list[dict]], None]:
    """A callback for `finetune(watch=…)`: the training curve, drawn again as the log grows. Drawing
    takes a core from the training, so between two pictures are at least `pause` seconds; the end
    of the training is drawn in any case."""
    from IPython.display import display

    handle = display("waiting for ms-swift, which takes about 20 s to start …", display_id=True)
    seen, drawn = 0, -pause

    def watch(log: list[dict]) -> None:
        nonlocal seen, drawn
        over = "train_runtime" in log[-1] if log else False
        if len(log) > seen and (over or time.monotonic() - drawn >= pause):
            seen, drawn, figure = len(log), time.monotonic(), training_curve(log)
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


def score_frame(scores: list[dict], kind: str = "episodes") -> pd.DataFrame:
    """`evaluate.kept_scores` as a frame, a line for each step and metric: n, k, rate, low, high
    (95 % intervals, see `evaluate.summarise`). kind: "episodes", "dev" (first calls), … The metrics
    of BFCL are its own checker's verdicts, by category."""
    lines = []
    for score in (one for one in scores if kind in one):
        clusters = [one.get("cluster") for one in score[kind]]
        clusters = clusters if all(clusters) else None
        found = summarise([one["metrics"] for one in score[kind]], clusters)
        bfcl = score.get(kind.replace("episodes", "bfcl"), ()) if "episodes" in kind else ()
        for category in BFCL if bfcl else ():
            valid = [one["valid"] for one in bfcl if one["category"] == category]
            found |= summarise([{category: one} for one in valid])
        for metric, values in found.items():
            lines.append({"step": score["step"], "metric": metric, **values})
    return pd.DataFrame(lines)


def comparison(scores: list[dict]) -> pd.DataFrame:
    """Base model and its baselines beside the last checkpoint: each metric of SHOWN, and BFCL, with
    95 % interval and n."""
    table, names = {}, SHOWN | BFCL
    for model, score in {"base": scores[0], "tuned": scores[-1]}.items():
        for ending, name in COLUMNS.items():
            if (kind := f"episodes{ending}") in score:
                lines = score_frame([score], kind).set_index("metric").reindex(list(names))
                table[name.format(model=model)] = [
                    f"{one.rate:.0%} [{one.low:.0%}, {one.high:.0%}] n={one.n:.0f}"
                    if one.n > 0
                    else "–"
                    for one in lines.itertuples()
                ]
    return pd.DataFrame(table, index=names.values())


def caption(manifest: dict) -> str:
    """A run in one line: model, format, number format, hardware, rows, seed."""
    profile, machine = manifest["profile"], manifest["hardware"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    authored = profile["source"].startswith(("authored", "practice"))
    source = "synthetic" if authored else profile["source"]
    size = f"{profile['train_rows']} {source} rows, seed {profile['seed']}"
    model = f"{manifest['model']}, {profile['format']} format, {manifest['number_format']}"
    return f"{model}; {where}; {size}; 95 % intervals"


def accuracy_by_step(log: list[dict], scores: list[dict], title: str = "") -> plt.Figure:
    """By step (0: the base model): token accuracy, and of the first calls on development cases how
    often one is made, the tool is right, the call is exact, and none is made where none is due.
    Bars: 95 % intervals."""
    frame = score_frame(scores, "dev").set_index("metric")
    panels = ("called", "tool_name", "full_call", "no_call")
    figure, (tokens, *others) = plt.subplots(1, 5, figsize=(15, 3.2), sharey=True)
    tokens.plot(training_frame(log)["eval_token_acc"].dropna(), "o-", color=COLOURS["token"])
    tokens.set(title="token accuracy\n(teacher-forced)", ylabel="share, with held-out tools")
    for axis, metric in zip(others, panels):
        part = frame.loc[[metric]].astype(float)
        bars = [(part.rate - part.low).clip(lower=0), (part.high - part.rate).clip(lower=0)]
        axis.errorbar(part.step, part.rate, bars, fmt="o-", capsize=3, color=COLOURS["episode"])
        axis.set_title(f"{SHOWN[metric]}\n(first reply, n = {part.n.iloc[0]:.0f})")
    for axis in (tokens, *others):
        axis.title.set_fontsize(9)
        axis.set(xlabel="optimizer step", ylim=(-0.03, 1.03))
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    return figure
