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
FILES = {"cases": ("token_accuracy", "right"), "general": ("general_loss", "nats")}


def read(folder: Path) -> list[dict]:
    """All records of a folder, the base model's first. FileNotFoundError says what makes them."""
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
    given = []  # (metric, case, value)
    for one in score["episodes"]:
        metrics = one["metrics"]
        named = metrics["tool_name"]  # unlike full_call, first_call may be repeated after it
        first = None if named is None else named and metrics["argument_f1"] == 1
        given += [(metric, one["id"], value) for metric, value in metrics.items()]
        given.append(("first_call", one["id"], first))
    given += [(f"bfcl_{one['category']}", one["id"], one["valid"]) for one in score["bfcl"]]
    for number, one in enumerate(score["tokens"]):
        metric, key = FILES[one["file"]]
        given.append((metric, f"{one['id']} {number}", one[key] / one["tokens"]))
    for one in score["answers"]:
        given.append((f"answer_loss_{one['place']}", one["id"], one["nats"] / one["tokens"]))
    given += [("identity", one["id"], one["right"]) for one in score["identity"]]
    for metric in ("tool_name", "full_call"):
        given += [(f"native_{metric}", one["id"], one[metric]) for one in score.get("native", ())]
    found = defaultdict(dict)
    for metric, case, value in given:
        if value is not None:
            found[metric][case] = float(value)
    return dict(found)


def frame(records: list[dict]) -> pd.DataFrame:
    """One line per arm, seed, step and metric: n (cases) and rate (their mean). Every run's step 0
    is the base model."""
    (base,), lines = (record["scores"] for record in records if record["arm"] == BASE), []
    for record in records:
        for score in base + (record["scores"] if record["arm"] != BASE else []):
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
    """The 95 % Wilson interval of a mean share; `part`: lines of `frame`, one per seed."""
    n = int(part.n.iloc[0])
    return evaluate.wilson(round(part.rate.mean() * n), n)


def same_numbers(records: list[dict], others: list[dict]) -> dict[str, bool]:
    """Run → whether it has the same scores and losses in both, for the runs that are in both."""
    known = {(one["arm"], one["seed"]): (one["scores"], one["log"]) for one in others}
    both = [one for one in records if (one["arm"], one["seed"]) in known]
    numbers = [(one["scores"], one["log"]) == known[one["arm"], one["seed"]] for one in both]
    return {f"{one['arm']}-{one['seed']}": same for one, same in zip(both, numbers)}


def recomputed(record: dict, cases: dict[str, evaluate.Case]) -> bool:
    """Whether a record's verdicts on episodes follow from its raw replies."""
    for one in (one for score in record["scores"] for one in score["episodes"]):
        steps = [evaluate.step_of(step) for step in one["transcript"]]
        if evaluate.judge(cases[one["id"]], steps) != one["metrics"]:
            return False
    return True
