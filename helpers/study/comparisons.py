"""The study's claims as paired comparisons: two arms, or two ways to ask one, on the same cases."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from helpers.study.arms import BASE
from helpers.study.tables import SHOWN, values

SEEDS = 3  # fewer make no claim: their interval does not know how much seeds differ
MARGIN = {"general_loss": 0.1}  # what counts as "no worse", in nats per token; else 10 points
# How a claim says that its left side is asked in another place than its right side.
_THERE = {"native": " in its own prompt", "answer": " in the assistant turn"}


class Comparison(NamedTuple):
    """A claim: the left (arm, metric) is "more", "less" or "no worse" than the right one."""

    hypothesis: str
    left: tuple
    expected: str
    right: tuple

    def __str__(self) -> str:
        (left, metric), (right, other) = self.left, self.right
        there = "" if metric == other else _THERE[metric.split("_")[0]]
        return f"{left}{there} {self.expected} than {right}"


def _each(hypothesis: str, left: str, expected: str, right: str, *metrics: str) -> list[Comparison]:
    """The same claim for each metric."""
    return [Comparison(hypothesis, (left, one), expected, (right, one)) for one in metrics]


_A, _B = "a: the format", "b: its lost parameters"
_MASK, _TURN = "c: the loss mask", "c: the user turn"
_D, _E = "d: wire needs no added rows", "e: LoRA needs no general rows"
_KEPT = ("success", "first_call", "no_call", "general_loss")
COMPARISONS = (
    Comparison(_A, ("ms_agent", "native_tool_name"), "more", ("ms_agent", "tool_name")),
    Comparison(_A, ("ms_agent", "native_full_call"), "more", ("ms_agent", "first_call")),
    *_each(_A, "trace", "more", "ms_agent", "first_call", "success"),
    *_each("b: the script", "trace", "more", "original", "argument_f1", "first_call"),
    *_each(_B, "trace", "more", "trace_original_tools", "argument_f1", "first_call"),
    *_each(_MASK, "trace", "more", "trace_loss_react", "faithful_answer", "clean_stop"),
    *_each(_MASK, "trace", "less", "trace_loss_react", "answer_loss_assistant"),
    *_each(_MASK, "trace", "more", "trace_loss_default", "first_call"),
    *_each("c: max_length", "trace", "more", "trace_max_length_1500", "faithful_answer"),
    Comparison(_TURN, ("trace", "answer_loss_assistant"), "less", ("trace", "answer_loss_user")),
    *_each(_TURN, "wire", "less", "trace", "answer_loss_user"),
    *_each(_TURN, "wire", "more", "trace", "faithful_answer", "clean_stop"),
    *_each(_TURN, "wire", "less", "trace", "repeated_call"),
    *_each(_D, "wire", "more", "trace", "success"),
    *_each(_D, "wire", "no worse", "trace_addition", "success", "first_call"),
    *_each(_D, "wire", "no worse", "trace_addition", "faithful_answer", "clean_stop"),
    *_each(_E, "wire", "no worse", "wire_general33", *_KEPT),
    *_each(_E, "wire", "no worse", "wire_general67", *_KEPT),
    *_each(_E, "wire", "no worse", BASE, "general_loss"),
    *_each("the learning rate", "trace", "more", "trace_lr_5e-5", "first_call"),
)


def table(records: list[dict], level: float = 0.95) -> pd.DataFrame:
    """Every claim whose two sides were run: the paired difference at the last step, its interval
    (bootstrap), McNemar's exact p over all pairs of verdicts, and what follows for the claim."""
    lines = [_compare(records, comparison, level) for comparison in COMPARISONS]
    return pd.DataFrame([line for line in lines if line])


def _compare(records: list[dict], comparison: Comparison, level: float) -> dict | None:
    left, right = _by_seed(records, *comparison.left), _by_seed(records, *comparison.right)
    if comparison.right[0] == BASE:  # the base model has no seeds
        right = right.reindex([0] * len(left)).set_axis(left.index)
    left, right = left.align(right, join="inner")
    if left.empty:
        return None
    left, right = (side.sort_index().sort_index(axis=1) for side in (left, right))
    one, other = np.ascontiguousarray(left), np.ascontiguousarray(right)
    low, high = bootstrap(one - other, level)
    found = verdict(comparison.expected, comparison.left[1], low, high)
    line = {"hypothesis": comparison.hypothesis, "metric": SHOWN[comparison.right[1]]}
    line |= {"claim": str(comparison), "cases": one.shape[1], "seeds": len(one)}
    line |= {"left": one.mean(), "right": other.mean(), "difference": (one - other).mean()}
    line |= {"low": low, "high": high, "p": mcnemar(one, other)}
    return line | {"verdict": found if len(one) >= SEEDS else "too few seeds"}


def _by_seed(records: list[dict], arm: str, metric: str) -> pd.DataFrame:
    """The values of one arm at the last step, seeds × cases; a case has a value in every seed."""
    last = {one["seed"]: values(one["scores"][-1]) for one in records if one["arm"] == arm}
    found = {seed: metrics[metric] for seed, metrics in last.items() if metric in metrics}
    return pd.DataFrame.from_dict(found, orient="index").dropna(axis=1)


def bootstrap(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of the mean of a seeds × cases array, from 20,000 draws of seeds and
    of cases with replacement (with a fixed random seed)."""
    rng = np.random.default_rng(0)
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=20_000) / n for n in differences.shape]
    means = (weights[0] @ differences * weights[1]).sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(left: np.ndarray, right: np.ndarray) -> float | None:
    """McNemar's exact test on paired verdicts, a binomial test of the pairs that differ; None for
    other values. It takes a case's seeds as independent: where the bootstrap differs, trust it."""
    if not np.isin(np.concatenate([left, right]), (0, 1)).all():
        return None
    better, worse = int((left > right).sum()), int((left < right).sum())
    return binomtest(better, better + worse).pvalue if better + worse else 1.0


def verdict(expected: str, metric: str, low: float, high: float) -> str:
    """What a difference's interval says of a claim: "confirmed", "refuted", or "open" if it allows
    both. Where no pair differs the interval has no width; that is no certainty, so "open" too."""
    if low == high == 0:
        return "open"
    if (metric == "general_loss") != (expected == "less"):
        low, high = -high, -low  # less is better, or was expected
    if expected == "no worse":
        low, high = low + MARGIN.get(metric, 0.1), high + MARGIN.get(metric, 0.1)
    return "confirmed" if low > 0 else "refuted" if high < 0 else "open"
