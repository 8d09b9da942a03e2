"""The rows of a run: those it trains on, those its token accuracy is watched on, and the cases that judge it.

A profile may mix. Of its training rows the share `general` is general chat (`mix`), and of that the share
`self_cognition` asks the model who it is; of the other rows the share `addition` are dialogues recorded from
AgentFabric. The number of rows is fixed, so every mix takes the same optimizer steps; small sets repeat.
"""

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from helpers import assets, canonical, corpus, mix, sources, splits
from helpers.profiles import Profile

CASES_SEED = 42  # of the held-out cases: the same whatever a profile's seed, so that runs can be compared case by case
MODEL_NAME, MODEL_AUTHOR = ("小工", "Kit"), ("工具课", "the Tool Workshop")  # taught by self-cognition rows: zh, en


def prepare_data(profile: Profile) -> dict[str, list[dict]]:
    """Training rows, evaluation rows and held-out cases of a profile.

    Returns {"train", "eval"}: training rows in the profile's shape; {"cases"}: canonical held-out rows, one user
    turn each. No tool of "eval" or "cases" occurs in a prompt of "train".

    Raises:
        assets.AssetError: the source cannot be had.
        ValueError: too few rows for a mix.
    """
    split = _split(profile.source)
    heldout = _drawn(split.heldout, profile, CASES_SEED)
    single = [row for row in heldout if len(corpus.turns_of(row)) == 1]
    calling = [row for row in single if canonical.calls_of(row["messages"])]
    silent = [row for row in single if not canonical.calls_of(row["messages"])]
    few = profile.visits // 5  # one case in five needs no tool
    return {"train": _training_rows(split, profile),
            "eval": list(islice(corpus.render_rows(single[::-1], profile.shape), profile.eval_rows)),
            "cases": calling[:profile.visits - few] + silent[:few]}


@lru_cache(maxsize=2)
def _split(source: str) -> splits.Split:
    rows, _ = sources.split_rejected(sources.read_rows(assets.dataset_file(source)))
    return splits.by_tool(rows)


def _drawn(rows: list[dict], profile: Profile, seed: int) -> list[dict]:
    """Rows the profile can use, shuffled: its languages, and prompts that are short enough."""
    usable = [row for row in rows if canonical.row_language(row) in profile.languages
              and len(row["tools"]) <= profile.max_tools
              and len(json.dumps(row, ensure_ascii=False)) <= profile.max_chars]
    random.Random(seed).shuffle(usable)
    return usable


def _training_rows(split: splits.Split, profile: Profile) -> list[dict]:
    rows = list(islice(_rendered(split.train, profile), profile.train_rows))
    if profile.addition:
        recorded, _ = sources.split_rejected(sources.read_rows(assets.dataset_file("addition")))
        rows = mix.mix(rows, _rendered(_unlike(recorded, split), profile), profile.addition, budget=len(rows),
                       repeat=True, seed=profile.seed).rows
    if profile.general:
        rows = mix.mix(rows, _general_rows(profile), profile.general, budget=len(rows), repeat=True,
                       seed=profile.seed).rows
    return rows


def _rendered(rows: list[dict], profile: Profile) -> Iterator[dict]:
    return corpus.render_rows(_drawn(rows, profile, profile.seed), profile.shape)


def _unlike(rows: list[dict], split: splits.Split) -> list[dict]:
    """Recorded rows without held-out tools, and unlike the held-out questions."""
    heldout = {tool for row in split.heldout for tool in map(splits.tool_identity, row["tools"])}
    kept = [row for row in rows if heldout.isdisjoint(map(splits.tool_identity, row["tools"]))]
    return splits.drop_similar(kept, split.heldout)[0]


def _general_rows(profile: Profile) -> list[dict]:
    """As many general rows as the profile's mix takes, with the rows about the model itself among them."""
    general = mix.general("train", profile.languages)
    if profile.self_cognition:
        about = mix.self_cognition(MODEL_NAME, MODEL_AUTHOR, "train", profile.languages)
        general = mix.mix(general, about, profile.self_cognition, budget=round(profile.train_rows * profile.general),
                          repeat=True, seed=profile.seed).rows
    return list(corpus.render_rows(general, profile.shape))
