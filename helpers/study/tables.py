"""The study's numbers, from its records alone.

A record (`helpers.study.run`) holds the raw replies and verdicts of one arm with one seed. Every
metric is one value per held-out case, so that two arms can be compared case by case.
"""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import evaluate, plots
from helpers.study.arms import BASE

SHOWN = plots.SHOWN | {  # metric → its name in tables and figures
    "first_call": "exact first call",
    "argument_f1": "argument F1",
    "bfcl_simple_python": "BFCL simple",
    "bfcl_multiple": "BFCL multiple",
    "bfcl_parallel": "BFCL parallel",
    "bfcl_irrelevance": "BFCL irrelevance",
    "token_accuracy": "token accuracy",
    "general_loss": "general loss",
    "answer_loss_assistant": "answer loss, observation in the assistant turn",
    "answer_loss_user": "answer loss, observation in the user turn",
    "identity": "knows its name",
    "native_tool_name": "right tool, ms_agent's prompt",
    "native_full_call": "exact first call, ms_agent's prompt",
}


def read(folder: Path) -> list[dict]:
    """All records of a folder: the base model's first, then by arm and seed.

    Raises FileNotFoundError where there is none; it says what makes them.
    """
    records = [read_record(path) for path in folder.glob("*.json.gz")]
    if not records:
        raise FileNotFoundError(f"no records in {folder}: `make study` makes them")
    return sorted(records, key=lambda one: (one["arm"] != BASE, one["arm"], one["seed"]))


def read_record(path: Path) -> dict:
    """One record."""
    return json.loads(gzip.decompress(path.read_bytes()))


def values(score: dict) -> dict[str, dict[str, float]]:
    """Metric → case → value, from one checkpoint's scores: 1 or 0 for a verdict, a row's mean for
    token accuracy and for losses (nats per token). Each BFCL category is a metric of its own."""
    found = defaultdict(dict)
    for episode in score["episodes"]:
        metrics = episode["metrics"]
        named = metrics["tool_name"]  # unlike full_call, first_call may be repeated after it
        first = None if named is None else named and metrics["argument_f1"] == 1
        for metric, value in (metrics | {"first_call": first}).items():
            if value is not None:
                found[metric][episode["id"]] = float(value)
    for case in score["bfcl"]:
        found[f"bfcl_{case['category']}"][case["id"]] = float(case["valid"])
    for number, row in enumerate(score["tokens"]):
        accuracy = row["file"] == "cases"
        metric = "token_accuracy" if accuracy else "general_loss"
        value = row["right" if accuracy else "nats"] / row["tokens"]
        found[metric][f"{row['id']} {number}"] = value
    for row in score["answers"]:
        found[f"answer_loss_{row['place']}"][row["id"]] = row["nats"] / row["tokens"]
    for answer in score["identity"]:
        found["identity"][answer["id"]] = float(answer["right"])
    for first in score.get("native", ()):
        for metric in ("tool_name", "full_call"):
            found[f"native_{metric}"][first["id"]] = float(first[metric])
    return dict(found)


def frame(records: list[dict]) -> pd.DataFrame:
    """One line per arm, seed, step and metric: n (cases) and rate (their mean). Every run's step 0
    is the base model."""
    base = next(record for record in records if record["arm"] == BASE)
    lines = []
    for record in records:
        scores = base["scores"] + (record["scores"] if record is not base else [])
        for score in scores:
            key = {"arm": record["arm"], "seed": record["seed"], "step": score["step"]}
            for metric, cases in values(score).items():
                rate = float(np.mean(list(cases.values())))
                lines.append({**key, "metric": metric, "n": len(cases), "rate": rate})
    return pd.DataFrame(lines)


def last_step(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of `frame` at the last step of each run."""
    return frame[frame.step == frame.groupby(["arm", "seed"]).step.transform("max")]


def final(records: list[dict]) -> pd.DataFrame:
    """Metrics by arm at the last step: the mean over seeds, for a share with the 95 % Wilson
    interval of the number of cases. More seeds ask the same cases, so they do not narrow it."""
    table = {}
    for (arm, metric), part in last_step(frame(records)).groupby(["arm", "metric"], sort=False):
        if metric in SHOWN:
            name = arm if arm == BASE else f"{arm} ({counted(part.seed.nunique())})"
            cell = f"{part.rate.mean():.2f}"
            if metric not in ("argument_f1", "token_accuracy") and "loss" not in metric:
                cell = "{:.0%} [{:.0%}, {:.0%}]".format(part.rate.mean(), *interval(part))
            table.setdefault(SHOWN[metric], {})[name] = cell
    shown = [name for name in SHOWN.values() if name in table]
    return pd.DataFrame(table).fillna("–").T.reindex(shown)


def counted(seeds: int) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{seeds} seed{'s' * (seeds > 1)}"


def interval(part: pd.DataFrame) -> tuple[float, float]:
    """The 95 % Wilson interval of the mean share in lines of `frame`, one per seed."""
    n = int(part.n.iloc[0])
    return evaluate.wilson(round(part.rate.mean() * n), n)


def same_numbers(records: list[dict], others: list[dict]) -> dict[str, bool]:
    """Run → whether it has the same scores and losses in both, for the runs that are in both."""
    one, other = (
        {f"{record['arm']}-{record['seed']}": (record["scores"], record["log"]) for record in side}
        for side in (records, others)
    )
    return {run: one[run] == other[run] for run in one if run in other}


def recomputed(record: dict, cases: dict[str, evaluate.Case]) -> bool:
    """Whether a record's verdicts on episodes follow from its raw replies."""
    for one in (one for score in record["scores"] for one in score["episodes"]):
        steps = [evaluate.step_of(step) for step in one["transcript"]]
        if evaluate.judge(cases[one["id"]], steps) != one["metrics"]:
            return False
    return True
