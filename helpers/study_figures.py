"""The study's figures: pure functions of its records, so equal records give equal bytes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import contrasts, curves, scoring, study_tables

LINES = {"visit_success": "#0072B2", "first_call": "#D55E00"}  # of the curves by step
ABLATIONS = {  # figure → arms and what they are called in it
    "loss_mask": {"trace": "ours", "trace_loss_react": "react\n(answer\nwiped)",
                  "trace_loss_default": "default\n(observation\ntrained)"},
    "learning_rate": {"trace_lr_5e-5": "5e-5\n(seed)", "trace_lr_1e-4": "1e-4", "trace_lr_2e-4": "2e-4",
                      "trace": "1e-3"},
}
PLACES = {"answer_loss_assistant": ("s", "#0072B2", "in the assistant turn, as a trace has them"),
          "answer_loss_user": ("o", "#D55E00", "in the user turn, as AgentFabric sends them")}
ABLATED = ("first_call", "faithful_answer", "clean_stop", "visit_success")
VERDICTS = {"confirmed": "#009E73", "refuted": "#D55E00", "open": "#777777", "too few seeds": "#56B4E9"}


def draw_all(records: list[dict], folder: Path, name: str) -> list[Path]:
    """Draw every figure whose arms were run into `folder` as study_<name>_<figure>.png; returns the paths."""
    curves.style()
    drawn = {"by_step": by_step(records), "contrasts": forest(records), "one_in_ten": one_in_ten(records)}
    drawn["answer_loss"] = answer_loss(records)
    drawn |= {title: ablation(records, title) for title in ablations(records)}
    paths = [curves.save(figure, folder / f"study_{name}_{title}.png") for title, figure in drawn.items()]
    for figure in drawn.values():
        plt.close(figure)
    return paths


def by_step(records: list[dict]) -> plt.Figure:
    """Visit success and exact first calls by step, a panel per arm: a thin line per seed, their mean, and the 95 %
    Wilson interval that the number of cases allows."""
    frame = study_tables.frame(records)
    arms = [arm for arm in dict.fromkeys(record["arm"] for record in records) if arm != study_tables.BASE]
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.5 * rows), sharey=True, squeeze=False)
    for axis, arm in zip(axes.flat, arms):
        part = frame[frame.arm == arm]
        for measure, colour in LINES.items():
            _curve(axis, part[part.measure == measure], colour, study_tables.SHOWN[measure])
        axis.set_title(f"{arm}\n{_seeds(part.seed.nunique())}", fontsize=9)
    for axis in axes.flat[len(arms):]:
        axis.axis("off")
    axes[0, 0].set(ylim=(-0.03, 1.03), ylabel="share of cases")
    axes[0, 0].legend(frameon=False, fontsize=8)
    cases = int(frame[frame.measure == "visit_success"].n.iloc[0])
    figure.supxlabel(f"optimizer step (0: the base model) · {cases} held-out cases, the same for all · synthetic data",
                     fontsize=9)
    figure.tight_layout()
    return figure


def _curve(axis: plt.Axes, part: pd.DataFrame, colour: str, label: str) -> None:
    for _, line in part.groupby("seed"):
        axis.plot(line.step, line.rate, color=colour, lw=0.6, alpha=0.6)
    mean = part.groupby("step").agg(rate=("rate", "mean"), n=("n", "first"))
    low, high = zip(*(study_tables.interval(one.rate, int(one.n)) for one in mean.itertuples()))
    axis.plot(mean.index, mean.rate, "o-", ms=3, color=colour, label=label)
    axis.fill_between(mean.index, low, high, color=colour, alpha=0.12, lw=0)


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n > 1)}"


def forest(records: list[dict]) -> plt.Figure:
    """Every claim's paired difference with its 95 % interval, coloured by what follows for the claim."""
    table = contrasts.table(records)[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(9, 0.36 * max(len(table), 2) + 1))
    for place, line in table.iterrows():
        axis.plot([line.low, line.high], [place, place], color=VERDICTS[line.verdict], lw=2)
        axis.plot(line.difference, place, "o", color=VERDICTS[line.verdict])
    axis.axvline(0, color="black", lw=0.8)
    names = [f"{line.hypothesis.split(':')[0]}  {line.claim}: {line.measure}" for line in table.itertuples()]
    axis.set_yticks(range(len(table)), names, fontsize=8)
    axis.set_xlabel("paired difference, left side minus right (losses in nats per token), with 95 % interval")
    handles = [plt.Line2D([], [], color=colour, label=name) for name, colour in VERDICTS.items()
               if name in set(table.verdict)]
    axis.legend(handles=handles, frameon=False, fontsize=8, loc="best")
    return figure


def ablations(records: list[dict]) -> list[str]:
    """The keys of ABLATIONS whose arms were all run."""
    run = {record["arm"] for record in records}
    return [title for title, arms in ABLATIONS.items() if arms.keys() <= run]


def ablation(records: list[dict], title: str) -> plt.Figure:
    """Arms that train on the same rows and differ in one setting, a key of ABLATIONS: four measures at the last step,
    with 95 % Wilson intervals."""
    frame, arms = study_tables.frame(records), ABLATIONS[title]
    figure, axes = plt.subplots(1, len(ABLATED), figsize=(11, 2.9), sharey=True)
    for axis, measure in zip(axes, ABLATED):
        for place, arm in enumerate(arms):
            part = frame[(frame.arm == arm) & (frame.measure == measure) & (frame.step == frame.step.max())]
            if len(part):
                _point(axis, place, part.rate.mean(), int(part.n.iloc[0]), curves.COLOURS["visit"])
                axis.plot([place] * len(part), part.rate, ".", color="black", ms=3)
        axis.set_xticks(range(len(arms)), arms.values(), fontsize=8)
        axis.set(title=study_tables.SHOWN[measure], ylim=(-0.03, 1.03), xlim=(-0.5, len(arms) - 0.5))
    axes[0].set_ylabel("share of cases (dots: seeds)")
    figure.tight_layout()
    return figure


def answer_loss(records: list[dict]) -> plt.Figure:
    """The loss of the gold answers behind the gold calls and observations, which stand in either turn, at the last
    step of every arm but the learning rates': means over the cases, a small mark per seed."""
    frame = study_tables.frame(records)
    last = frame[(frame.step == frame.groupby(["arm", "seed"]).step.transform("max")) & ~frame.arm.str.contains("_lr_")]
    arms = list(dict.fromkeys(last.arm))[::-1]
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(arms) + 1.2))
    for measure, (mark, colour, label) in PLACES.items():
        part = last[last.measure == measure]
        axis.plot(part.rate, part.arm.map(arms.index), mark, color=colour, ms=3, alpha=0.6)
        mean = part.groupby("arm").rate.mean()
        axis.plot(mean, mean.index.map(arms.index), mark, color=colour, ms=8, label=label)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_xlabel("loss of the gold answer, nats per token (less is better); its call and observation stand …")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _point(axis: plt.Axes, place: float, rate: float, n: int, colour: str) -> None:
    low, high = study_tables.interval(rate, n)
    axis.errorbar(place, rate, yerr=[[max(0, rate - low)], [max(0, high - rate)]], fmt="o", capsize=4, color=colour)


def one_in_ten(records: list[dict]) -> plt.Figure:
    """The seed's "1 visit of 10" as what ten visits can say, beside this study's arms."""
    frame = study_tables.frame(records)
    frame = frame[(frame.measure == "visit_success") & ~frame.arm.str.contains("_lr_|_loss_|max_length")]
    figure, axis = plt.subplots(figsize=(9, 3))
    low, high = scoring.wilson(1, 10)
    axis.errorbar(0, 0.1, yerr=[[0.1 - low], [high - 0.1]], fmt="s", capsize=4, color="black")
    names = ["seed document: 1 of 10\n(different model,\ndifferent protocol)"]
    for arm, part in frame.groupby("arm", sort=False):
        last = part[part.step == part.step.max()]
        _point(axis, len(names), last.rate.mean(), int(last.n.iloc[0]), curves.COLOURS["visit"])
        names.append(f"{arm}\nn = {int(last.n.iloc[0])}")
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="right")
    axis.set(ylim=(-0.03, 1.03), ylabel="visit success")
    return figure


def ten_visits(verdicts: list[float], draws: int = 1000, seed: int = 0) -> plt.Figure:
    """How many of ten visits succeed, if ten of the cases are drawn again and again: what one such count can say."""
    rng = np.random.default_rng(seed)
    counts = [int(sum(rng.choice(verdicts, 10, replace=False))) for _ in range(draws)]
    figure, axis = plt.subplots(figsize=(7, 2.6))
    axis.bar(range(11), np.bincount(counts, minlength=11) / draws, color=curves.COLOURS["visit"])
    axis.axvline(10 * np.mean(verdicts), color="black", lw=1, ls="--")
    axis.set(xticks=range(11), ylabel=f"share of {draws} draws",
             xlabel=f"successes in ten visits drawn from our {len(verdicts)} cases (dashed: their share)")
    return figure
