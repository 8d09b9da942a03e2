"""The study's numbers, from its records alone.

A record (`helpers.study`) holds the raw replies and verdicts of one arm with one seed. Every measure is one value per
held-out case, so two arms, or two ways to ask, are compared case by case.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import scoring

BASE = "base"
SHOWN = {"visit_success": "visit success", "tool_name": "right tool", "first_call": "exact first call",
         "full_call": "exact call(s)", "argument_f1": "argument F1", "faithful_answer": "faithful answer",
         "clean_stop": "clean stop", "repeated_call": "repeated a call",
         "no_tool_accuracy": "no call where none is due", "bfcl_simple_python": "BFCL simple",
         "bfcl_multiple": "BFCL multiple", "bfcl_parallel": "BFCL parallel", "bfcl_irrelevance": "BFCL irrelevance",
         "token_accuracy": "token accuracy", "general_loss": "general loss",
         "answer_loss_assistant": "answer loss, observation in the assistant turn",
         "answer_loss_user": "answer loss, observation in the user turn", "identity": "knows its name",
         "native_tool_name": "right tool, ms_agent's prompt",
         "native_full_call": "exact first call, ms_agent's prompt"}


def read(folder: Path) -> list[dict]:
    """All records of a folder, the base model's first, then by arm and seed.

    Raises:
        FileNotFoundError: there is none; it says what makes them.
    """
    paths = sorted(folder.glob("*.json.gz"))
    if not paths:
        raise FileNotFoundError(f"no records in {folder}: `make study` makes them")
    records = [read_record(path) for path in paths]
    return sorted(records, key=lambda record: (record["arm"] != BASE, record["arm"], record["seed"]))


def read_record(path: Path) -> dict:
    """One record."""
    return json.loads(gzip.decompress(path.read_bytes()))


def values(score: dict) -> dict[str, dict[str, float]]:
    """Measure → case → value (1 or 0 for a verdict), of one checkpoint's scores. Token accuracy and losses (nats per
    token) are a row's means; BFCL's categories are measures of their own."""
    found = {}

    def add(measure: str, case: str, value: float | None) -> None:
        if value is not None:
            found.setdefault(measure, {})[case] = float(value)

    for visit in score["visits"]:
        for measure, value in visit["judged"].items():
            add(measure, visit["id"], value)
        if visit["judged"]["tool_name"] is not None:  # also where the call was then repeated, which full_call forbids
            add("first_call", visit["id"], visit["judged"]["tool_name"] and visit["judged"]["argument_f1"] == 1)
    for case in score["bfcl"]:
        add(f"bfcl_{case['category']}", case["id"], case["valid"])
    for number, row in enumerate(score["tokens"]):
        case = f"{row['id']} {number}"
        if row["file"] == "cases":
            add("token_accuracy", case, row["right"] / row["tokens"])
        else:
            add("general_loss", case, row["nats"] / row["tokens"])
    for answer in score.get("answers", ()):
        add(f"answer_loss_{answer['place']}", answer["id"], answer["nats"] / answer["tokens"])
    for answer in score["identity"]:
        add("identity", answer["id"], answer["right"])
    for first in score.get("native", ()):
        add("native_tool_name", first["id"], first["tool_name"])
        add("native_full_call", first["id"], first["full_call"])
    return found


def frame(records: list[dict]) -> pd.DataFrame:
    """One line per arm, seed, step and measure: n (cases) and rate (their mean). Every run's step 0 is the base."""
    base = next(record for record in records if record["arm"] == BASE)
    lines = []
    for record in records:
        for score in (*base["scores"], *(record["scores"] if record is not base else ())):
            lines += [{"arm": record["arm"], "seed": record["seed"], "step": score["step"], "measure": measure,
                       "n": len(cases), "rate": float(np.mean(list(cases.values())))}
                      for measure, cases in values(score).items()]
    return pd.DataFrame(lines)


def final(records: list[dict]) -> pd.DataFrame:
    """Measures by arm at the last step: the mean over seeds, with the 95 % Wilson interval that its number of cases
    allows (more seeds ask the same cases again, so they do not narrow it). Losses and F1 stand alone."""
    lines = frame(records)
    last = lines[lines.step == lines.groupby(["arm", "seed"]).step.transform("max")]
    table = {}
    for (arm, measure), part in last.groupby(["arm", "measure"], sort=False):
        if measure in SHOWN:
            table.setdefault(SHOWN[measure], {})[_named(arm, part.seed.nunique())] = _cell(
                measure, part.rate.mean(), int(part.n.iloc[0]))
    return pd.DataFrame(table).fillna("–").T.reindex([name for name in SHOWN.values() if name in table])


def _named(arm: str, seeds: int) -> str:
    return arm if arm == BASE else f"{arm} ({seeds} seed{'s' * (seeds > 1)})"


def _cell(measure: str, rate: float, n: int) -> str:
    if measure in ("argument_f1", "token_accuracy") or "loss" in measure:
        return f"{rate:.2f}"
    low, high = interval(rate, n)
    return f"{rate:.0%} [{low:.0%}, {high:.0%}]"


def interval(rate: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a mean share over `n` cases."""
    return scoring.wilson(round(rate * n), n)


def same_numbers(records: list[dict], others: list[dict]) -> tuple[int, int]:
    """(How many runs have the same scores and losses in both, how many are in both)."""
    numbers = [{(one["arm"], one["seed"]): (one["scores"], one["log"]) for one in side} for side in (records, others)]
    both = numbers[0].keys() & numbers[1].keys()
    return sum(numbers[0][run] == numbers[1][run] for run in both), len(both)


def recomputed(record: dict, cases: dict[str, scoring.Case], replay: Callable) -> bool:
    """Whether a record's visit verdicts follow from its raw replies: `replay` makes a transcript of kept steps."""
    return all(scoring.judge(cases[visit["id"]], [replay(step) for step in visit["transcript"]]) == visit["judged"]
               for score in record["scores"] for visit in score["visits"])
