"""Which rows may train, and which judge: held out by tool; a profile's training rows and cases.

Held-out tools stand in no training prompt, and no training question reads like a held-out one. So
the scores say how a model calls tools that it has never seen.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

from datasketch import MinHash, MinHashLSH
from networkx.utils import UnionFind

from helpers import data
from helpers.agentfabric import function_of, json_text, language_of
from helpers.convert import packed, render_rows, turns_of
from helpers.profiles import Profile

CASES_SEED = 42  # draws the cases whatever a profile's seed, so that runs compare case by case
SIMILAR = 0.7  # Jaccard similarity of character 4-grams from which two texts are near-duplicates
_NOISE = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Split:
    """Rows that train, rows held out, and rows used for neither: `mixed` ones offer tools of both
    kinds, `similar` ones read like a held-out row. `dev` is held out, too: to choose with."""

    train: list
    heldout: list
    mixed: list
    similar: list
    dev: list = ()


def prepare_data(profile: Profile) -> dict[str, list[dict]]:
    """A profile's rows: {"train", "eval"} are training rows in its format (packs, if it packs),
    {"dev", "cases"} canonical held-out rows: everything is chosen on "dev" and reported on "cases".
    No tool of the other three stands in a prompt of "train"."""
    split = split_of(profile.source)
    test = drawn(split.heldout, profile, CASES_SEED)
    if split.dev:
        test, dev = by_prompt(test), by_prompt(drawn(split.dev, profile, CASES_SEED))
    else:
        test = [row for row in test if len(turns_of(row)) == 1]
        dev = test[::-1]
    cases = judged(test, profile.cases, silent=3 if split.dev else 5)

    def made(rows: list[dict], most: int) -> list[dict]:
        rows = by_prompt(rows) if profile.pack else rows
        rendered = islice(render_rows(rows, profile.format), most)
        return list(packed(rendered, profile.pack) if profile.pack else rendered)

    return {
        "train": made(drawn(split.train, profile, profile.seed), profile.train_rows),
        "eval": made(dev, profile.eval_rows),
        "dev": judged([row for row in dev if row not in cases], profile.dev, silent=3),
        "cases": cases,
    }


def judged(rows: list[dict], most: int, silent: int) -> list[dict]:
    """The first `most` rows, those first that call in their last turn; one in `silent` does not."""
    calling = [row for row in rows if turns_of(row)[-1].calls]
    quiet = [row for row in rows if not turns_of(row)[-1].calls]
    few = max(1, most // silent)
    return calling[: most - few] + quiet[:few]


def by_prompt(rows: list[dict]) -> list[dict]:
    """The same rows, those with the same tools and instruction next to each other."""
    together = {}
    for row in rows:
        together.setdefault((json_text(row["tools"]), row.get("instruction")), []).append(row)
    return list(chain.from_iterable(together.values()))


@lru_cache(maxsize=2)
def split_of(source: str) -> Split:
    """A data set, split by tool; kept, because every profile of one session splits the same.
    The practice rows come split, by whole domains."""
    rows, _ = data.load(source)
    if not source.startswith("practice:"):
        return by_tool(rows)
    dev, test = (data.load(f"practice-{part}")[0] for part in ("dev", "test"))
    train, similar = drop_similar(rows, dev + test)
    return Split(train=train, heldout=test, dev=dev, mixed=[], similar=similar)


def drawn(rows: list[dict], profile: Profile, seed: int) -> list[dict]:
    """Rows the profile can use, shuffled: in its languages, with prompts that are short enough."""
    rows = [row for row in rows if data.row_language(row) in profile.languages]
    rows = [row for row in rows if len(row["tools"]) <= profile.max_tools]
    rows = [row for row in rows if len(json_text(row)) <= profile.max_chars]
    random.Random(seed).shuffle(rows)
    return rows


def by_tool(rows: list[dict], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out `share` of the tools of each language, with every row that offers one, and rows that
    read like those. Tools that ever share a prompt stay together, so authored rows (one domain
    per prompt) lose nothing; where all hang together, tools are drawn singly."""
    heldout = _draw_tools(rows, share, seed)
    parts = {"train": [], "heldout": [], "mixed": []}
    for row in rows:
        offered = set(map(tool_identity, row["tools"]))
        inside = offered & heldout
        parts["train" if not inside else "heldout" if inside == offered else "mixed"].append(row)
    train, similar = drop_similar(parts.pop("train"), parts["heldout"])
    return Split(train=train, similar=similar, **parts)


def tool_identity(tool: dict) -> tuple:
    """What makes two tools the same: the name and the sorted parameter names."""
    function = function_of(tool)
    return function["name"], *sorted(function["parameters"]["properties"])


def _draw_tools(rows: list[dict], share: float, seed: int) -> set:
    together, language = UnionFind(), {}
    for row in rows:
        offered = {tool_identity(tool): function_of(tool)["description"] for tool in row["tools"]}
        together.union(*offered)
        language |= {tool: language_of(description) for tool, description in offered.items()}
    groups = sorted(map(sorted, together.to_sets()))
    heldout = set()
    for wanted in sorted(set(language.values())):
        of_it = [group for group in groups if language[group[0]] == wanted]
        heldout |= _draw_groups(of_it, share, random.Random(seed))
    return heldout


def _draw_groups(groups: list[list], share: float, rng: random.Random) -> set:
    """Whole groups at random until `share` of the tools is reached, at most half as much again."""
    wanted, drawn = share * sum(map(len, groups)), set()
    if max(map(len, groups)) > len(groups) * 5 and len(groups) < 4:
        groups = [[tool] for group in groups for tool in group]
    rng.shuffle(groups)
    for group in groups:
        if len(drawn) < wanted and len(drawn) + len(group) <= 1.5 * wanted:
            drawn |= set(group)
    return drawn


def drop_similar(rows: list[dict], others: Iterable[dict]) -> tuple[list, list]:
    """Rows whose questions and tool descriptions are unlike those of all `others`, and the rest.
    Similarity is the Jaccard similarity of character 4-grams, estimated by MinHash (64
    permutations): near the threshold it errs by a few hundredths.
    """
    index = MinHashLSH(threshold=SIMILAR, num_perm=64)
    for text in {text for other in others for text in _texts(other)}:
        index.insert(text, _sketch(text))
    kept, left = [], []
    for row in rows:
        similar = any(index.query(_sketch(text)) for text in _texts(row))
        (left if similar else kept).append(row)
    return kept, left


def _texts(row: dict) -> Iterator[str]:
    """A row's questions and tool descriptions, without case, numbers, spaces and punctuation."""
    texts = [one["content"] for one in row.get("messages", ()) if one["role"] == "user"]
    for text in texts + [function_of(tool)["description"] for tool in row["tools"]]:
        plain = _NOISE.sub(" ", re.sub(r"\d+", "0", text.casefold())).strip()
        if plain:
            yield plain


@lru_cache(maxsize=4096)  # descriptions recur from row to row
def _sketch(text: str) -> MinHash:
    sketch = MinHash(num_perm=64)
    sketch.update_batch({text[i : i + 4].encode("utf-8") for i in range(max(1, len(text) - 3))})
    return sketch
