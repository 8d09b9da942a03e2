"""The study's figures: pure functions of its records, so that equal records give equal bytes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import plots
from helpers.study import comparisons
from helpers.study.arms import BASE
from helpers.study.tables import SHOWN, counted, frame, interval, last_step

BLUE, ORANGE, GREEN, GREY, SKY = "#0072B2", "#D55E00", "#009E73", "#777777", "#56B4E9"
ABLATIONS = {  # figure → the setting of the recipe, and the arms that differ in it alone
    "loss_mask": ("loss_scale", ("trace", "trace_loss_react", "trace_loss_default")),
    "learning_rate": (
        "learning_rate",
        ("trace_lr_5e-5", "trace_lr_1e-4", "trace_lr_2e-4", "trace"),
    ),
}
ABLATED = ("first_call", "faithful_answer", "clean_stop", "success")
PLACES = {
    "answer_loss_assistant": ("s", BLUE, "in the assistant turn, as a trace has them"),
    "answer_loss_user": ("o", ORANGE, "in the user turn, as AgentFabric sends them"),
}
VERDICTS = {"confirmed": GREEN, "refuted": ORANGE, "open": GREY, "too few seeds": SKY}


def draw_all(records: list[dict], folder: Path, name: str) -> list[Path]:
    """Draw every figure whose arms were run, as study_<name>_<figure>.png; returns the paths."""
    plots.style()
    drawn = {"by_step": by_step(records), "comparisons": forest(records)}
    drawn |= {"one_in_ten": one_in_ten(records), "answer_loss": answer_loss(records)}
    run = {record["arm"] for record in records}
    wanted = [title for title, (_, arms) in ABLATIONS.items() if set(arms) <= run]
    drawn |= {title: ablation(records, title) for title in wanted}
    plt.close("all")
    paths = {folder / f"study_{name}_{title}.png": figure for title, figure in drawn.items()}
    return [plots.save(figure, path) for path, figure in paths.items()]


def by_step(records: list[dict]) -> plt.Figure:
    """Success rate and exact first calls by step, a panel per arm. Thin lines are seeds."""
    lines = frame(records)
    arms = [arm for arm in dict.fromkeys(lines.arm) if arm != BASE]
    rows, columns = -(-len(arms) // 4), min(4, len(arms))
    size = (3.1 * columns, 2.5 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axis, arm in zip(axes.flat, arms):
        part = lines[lines.arm == arm]
        for metric, colour in {"success": BLUE, "first_call": ORANGE}.items():
            _curve(axis, part[part.metric == metric], colour, SHOWN[metric])
        axis.set_title(f"{arm}\n{counted(part.seed.nunique())}", fontsize=9)
    for axis in axes.flat[len(arms) :]:
        axis.axis("off")
    axes[0, 0].set(ylim=(-0.03, 1.03), ylabel="share of cases")
    axes[0, 0].legend(frameon=False, fontsize=8)
    about = f"{lines[lines.metric == 'success'].n.iloc[0]} held-out cases · synthetic data"
    figure.supxlabel(f"optimizer step (0: the base model) · {about}", fontsize=9)
    figure.tight_layout()
    return figure


def _curve(axis: plt.Axes, part: pd.DataFrame, colour: str, label: str) -> None:
    for _, line in part.groupby("seed"):
        axis.plot(line.step, line.rate, color=colour, lw=0.6, alpha=0.6)
    steps = dict(list(part.groupby("step")))
    low, high = zip(*map(interval, steps.values()))
    mean = [one.rate.mean() for one in steps.values()]
    axis.plot(list(steps), mean, "o-", ms=3, color=colour, label=label)
    axis.fill_between(list(steps), low, high, color=colour, alpha=0.12, lw=0)


def forest(records: list[dict]) -> plt.Figure:
    """Every claim's paired difference with its 95 % interval, coloured by its verdict."""
    table = comparisons.table(records)[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(9, 0.36 * max(len(table), 2) + 1))
    for place, line in table.iterrows():
        axis.plot([line.low, line.high], [place, place], color=VERDICTS[line.verdict], lw=2)
        axis.plot(line.difference, place, "o", color=VERDICTS[line.verdict])
    axis.axvline(0, color="black", lw=0.8)
    names = table.hypothesis.str.split(":").str[0] + "  " + table.claim + ": " + table.metric
    axis.set_yticks(range(len(table)), names, fontsize=8)
    axis.set_xlabel("left side minus right (losses in nats per token), with 95 % interval")
    found = {name: colour for name, colour in VERDICTS.items() if name in set(table.verdict)}
    handles = [plt.Line2D([], [], color=colour, label=name) for name, colour in found.items()]
    axis.legend(handles=handles, frameon=False, fontsize=8, loc="best")
    return figure


def ablation(records: list[dict], title: str) -> plt.Figure:
    """Four metrics at the last step of arms that differ in one setting, a key of ABLATIONS."""
    lines, (setting, arms) = last_step(frame(records)), ABLATIONS[title]
    recipes = {record["arm"]: record["manifest"].get("recipe", {}) for record in records}
    figure, axes = plt.subplots(1, len(ABLATED), figsize=(11, 2.9), sharey=True)
    for axis, metric in zip(axes, ABLATED):
        for place, arm in enumerate(arms):
            part = lines[(lines.arm == arm) & (lines.metric == metric)]
            if len(part):
                _point(axis, place, part)
                axis.plot([place] * len(part), part.rate, ".", color="black", ms=3)
        axis.set_xticks(range(len(arms)), [recipes[arm][setting] for arm in arms], fontsize=8)
        axis.set(
            title=SHOWN[metric], xlabel=setting, ylim=(-0.03, 1.03), xlim=(-0.5, len(arms) - 0.5)
        )
    axes[0].set_ylabel("share of cases (dots: seeds)")
    figure.tight_layout()
    return figure


def _point(axis: plt.Axes, place: int, part: pd.DataFrame, colour: str = BLUE) -> None:
    """The mean over an arm's seeds, with the interval for its number of cases."""
    rate, (low, high) = part.rate.mean(), interval(part)
    spread = [[max(0, rate - low)], [max(0, high - rate)]]
    axis.errorbar(place, rate, yerr=spread, fmt="o", capsize=4, color=colour)


def answer_loss(records: list[dict]) -> plt.Figure:
    """Loss of the gold answers (`scorers.score_answers`) at the last step; small marks: seeds."""
    lines = last_step(frame(records))
    lines = lines[~lines.arm.str.contains("_lr_")]
    arms = list(dict.fromkeys(lines.arm))[::-1]
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(arms) + 1.2))
    for metric, (mark, colour, label) in PLACES.items():
        part = lines[lines.metric == metric]
        axis.plot(part.rate, part.arm.map(arms.index), mark, color=colour, ms=3, alpha=0.6)
        mean = part.groupby("arm").rate.mean()
        axis.plot(mean, mean.index.map(arms.index), mark, color=colour, ms=8, label=label)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_xlabel("loss of the gold answer, nats per token; its call and observation stand …")
    axis.legend(frameon=False, fontsize=8)
    return figure


def one_in_ten(records: list[dict]) -> plt.Figure:
    """The original document's "1 of 10" as what ten episodes can say, beside this study's arms."""
    lines = last_step(frame(records))
    lines = lines[(lines.metric == "success") & ~lines.arm.str.contains("_lr_|_loss_|max_length")]
    figure, axis = plt.subplots(figsize=(9, 3))
    _point(axis, 0, pd.DataFrame({"rate": [0.1], "n": [10]}), "black")
    names = ["original document: 1 of 10\n(different model,\ndifferent protocol)"]
    for arm, part in lines.groupby("arm", sort=False):
        _point(axis, len(names), part)
        names.append(f"{arm}\nn = {int(part.n.iloc[0])}")
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="right")
    axis.set(ylim=(-0.03, 1.03), ylabel=SHOWN["success"])
    return figure


def ten_episodes(verdicts: list[float], draws: int = 1000, seed: int = 0) -> plt.Figure:
    """How many of ten episodes succeed, if ten cases are drawn again and again."""
    rng = np.random.default_rng(seed)
    counts = [int(sum(rng.choice(verdicts, 10, replace=False))) for _ in range(draws)]
    figure, axis = plt.subplots(figsize=(7, 2.6))
    axis.bar(range(11), np.bincount(counts, minlength=11) / draws, color=BLUE)
    axis.axvline(10 * np.mean(verdicts), color="black", lw=1, ls="--")
    about = f"successes in ten episodes drawn from our {len(verdicts)} cases (dashed: their share)"
    axis.set(xticks=range(11), ylabel=f"share of {draws} draws", xlabel=about)
    return figure
