"""The study's claims as paired contrasts: two arms, or two ways to ask one, compared on the same held-out cases."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from helpers.study_tables import BASE, SHOWN, values

SEEDS = 3  # fewer make no claim, however narrow the interval: it knows nothing of how much seeds differ
MARGIN = {"general_loss": 0.1}  # what counts as "no worse": nats per token; else 10 points
_THERE = {"native": " in its own prompt", "answer": " in the assistant turn"}  # where the left side is asked elsewhere


@dataclass(frozen=True)
class Contrast:
    """A claim about two sides, each (arm, measure): the left one is "more", "less" or "no worse" than the right."""

    hypothesis: str
    left: tuple
    expected: str
    right: tuple

    def __str__(self) -> str:
        there = "" if self.left[1] == self.right[1] else _THERE[self.left[1].split("_")[0]]
        return f"{self.left[0]}{there} {self.expected} than {self.right[0]}"


def _contrast(hypothesis: str, arm: str, expected: str, reference: str, measure: str) -> Contrast:
    return Contrast(hypothesis, (arm, measure), expected, (reference, measure))


CONTRASTS = (
    Contrast("a: the format", ("ms_agent", "native_tool_name"), "more", ("ms_agent", "tool_name")),
    Contrast("a: the format", ("ms_agent", "native_full_call"), "more", ("ms_agent", "first_call")),
    _contrast("a: the format", "trace", "more", "ms_agent", "first_call"),
    _contrast("a: the format", "trace", "more", "ms_agent", "visit_success"),
    _contrast("b: the script", "trace", "more", "seed", "argument_f1"),
    _contrast("b: the script", "trace", "more", "seed", "first_call"),
    _contrast("b: its lost parameters", "trace", "more", "trace_seed_tools", "argument_f1"),
    _contrast("b: its lost parameters", "trace", "more", "trace_seed_tools", "first_call"),
    _contrast("c: the loss mask", "trace", "more", "trace_loss_react", "faithful_answer"),
    _contrast("c: the loss mask", "trace", "more", "trace_loss_react", "clean_stop"),
    _contrast("c: the loss mask", "trace", "less", "trace_loss_react", "answer_loss_assistant"),
    _contrast("c: the loss mask", "trace", "more", "trace_loss_default", "first_call"),
    _contrast("c: max_length", "trace", "more", "trace_max_length_1500", "faithful_answer"),
    Contrast("c: the user turn", ("trace", "answer_loss_assistant"), "less", ("trace", "answer_loss_user")),
    _contrast("c: the user turn", "wire", "less", "trace", "answer_loss_user"),
    _contrast("c: the user turn", "wire", "more", "trace", "faithful_answer"),
    _contrast("c: the user turn", "wire", "more", "trace", "clean_stop"),
    _contrast("c: the user turn", "wire", "less", "trace", "repeated_call"),
    _contrast("d: wire needs no added rows", "wire", "more", "trace", "visit_success"),
    *(_contrast("d: wire needs no added rows", "wire", "no worse", "trace_addition", measure)
      for measure in ("visit_success", "first_call", "faithful_answer", "clean_stop")),
    *(_contrast("e: LoRA needs no general rows", "wire", "no worse", mixed, measure)
      for mixed in ("wire_general33", "wire_general67")
      for measure in ("visit_success", "first_call", "no_tool_accuracy", "general_loss")),
    _contrast("e: LoRA needs no general rows", "wire", "no worse", BASE, "general_loss"),
    _contrast("the learning rate", "trace", "more", "trace_lr_5e-5", "first_call"),
)


def table(records: list[dict], level: float = 0.95) -> pd.DataFrame:
    """Every claim whose two sides were run: the paired difference at the last step, its interval at that level
    (bootstrap over seeds and cases), McNemar's exact p over all pairs of verdicts, and what follows for the claim."""
    return pd.DataFrame([line for contrast in CONTRASTS if (line := _compare(records, contrast, level))])


def _compare(records: list[dict], contrast: Contrast, level: float) -> dict | None:
    left, right = (_by_seed(records, *side) for side in (contrast.left, contrast.right))
    seeds = sorted(left.keys() & right.keys()) if BASE not in (contrast.left[0], contrast.right[0]) else sorted(left)
    if not seeds or not right:
        return None
    sides = [[side.get(seed, side.get(0)) for seed in seeds] for side in (left, right)]
    cases = sorted(set.intersection(*(set(one) for side in sides for one in side)))
    pairs = np.array([[[one[case] for case in cases] for one in side] for side in sides])  # side × seed × case
    if not cases:
        return None
    low, high = bootstrap(pairs[0] - pairs[1], level)
    measure = contrast.left[1]
    return {"hypothesis": contrast.hypothesis, "measure": SHOWN[contrast.right[1]],
            "claim": str(contrast), "cases": len(cases), "seeds": len(seeds),
            "left": pairs[0].mean(), "right": pairs[1].mean(), "difference": (pairs[0] - pairs[1]).mean(),
            "low": low, "high": high, "p": mcnemar(*pairs),
            "verdict": verdict(contrast.expected, measure, low, high) if len(seeds) >= SEEDS else "too few seeds"}


def _by_seed(records: list[dict], arm: str, measure: str) -> dict[int, dict[str, float]]:
    """Seed → case → value at the last step, of one arm."""
    found = {record["seed"]: values(record["scores"][-1]).get(measure) for record in records if record["arm"] == arm}
    return {seed: cases for seed, cases in found.items() if cases}


def bootstrap(differences: np.ndarray, level: float = 0.95, times: int = 20_000) -> tuple[float, float]:
    """The percentile interval of the mean of a seeds × cases array, both drawn with replacement (fixed seed)."""
    rng = np.random.default_rng(0)
    seeds, cases = (rng.multinomial(n, np.full(n, 1 / n), size=times) / n for n in differences.shape)  # draws' weights
    means = (seeds @ differences * cases).sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(left: np.ndarray, right: np.ndarray) -> float | None:
    """McNemar's exact test on paired verdicts (a two-sided binomial test of the pairs that differ); None for other
    values. It takes a case's seeds as independent, which the bootstrap does not: where the two disagree, trust that."""
    if not np.isin(np.concatenate([left, right]), (0, 1)).all():
        return None
    better, worse = int((left > right).sum()), int((left < right).sum())
    return binomtest(better, better + worse).pvalue if better + worse else 1.0


def verdict(expected: str, measure: str, low: float, high: float) -> str:
    """What a difference's interval says of a claim: "confirmed", "refuted", or "open" where it allows both, and where
    no pair differs at all: resampling zeros gives an interval of no width, which is no certainty."""
    if low == high == 0:
        return "open"
    if measure == "general_loss":
        low, high = -high, -low  # less is better
    if expected == "less":
        low, high = -high, -low
    if expected == "no worse":
        low, high = low + MARGIN.get(measure, 0.1), high + MARGIN.get(measure, 0.1)
    return "confirmed" if low > 0 else "refuted" if high < 0 else "open"
