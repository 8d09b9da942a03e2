"""Which rows may train, and which may judge.

- `by_tool`: held-out tools stand in no training prompt, and no training question reads like a held-out one. This is
  the kit's measure of calling tools never seen.
- `in_distribution`: a share of the rows at random, as the seed recipes' 1 %. Its tools were all trained on: accuracy
  on it says how well the data set was learned, not how well tools are called.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx
from datasketch import MinHash, MinHashLSH

from helpers.agentfabric import function_of, language_of

SIMILAR = 0.7  # Jaccard similarity of character 4-grams from which two texts count as near-duplicates
_NOISE = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Split:
    """Rows that train, rows held out, and rows used for neither: `mixed` ones offer tools of both kinds, `similar`
    ones read like a held-out row."""

    train: list
    heldout: list
    mixed: list
    similar: list


def by_tool(rows: list[dict], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out `share` of the tools of each language, and with them every row that offers one; then take what reads
    like a held-out row out of training.

    Tools that ever stand in one prompt form a group and stay together, so authored rows (one domain per prompt) lose
    nothing. Where everything hangs together in one group, tools are drawn singly and the mixed rows set aside.
    """
    heldout = _draw_tools(rows, share, seed)
    parts = {"train": [], "heldout": [], "mixed": []}
    for row in rows:
        inside = len(_identities(row) & heldout)
        parts["mixed" if 0 < inside < len(_identities(row)) else "heldout" if inside else "train"].append(row)
    train, similar = drop_similar(parts.pop("train"), parts["heldout"])
    return Split(train=train, similar=similar, **parts)


def in_distribution(rows: list[dict], share: float = 0.01, seed: int = 0) -> Split:
    """Hold out `share` of the rows at random (at least one), as the seed recipes did; nothing is set aside."""
    chosen = set(random.Random(seed).sample(range(len(rows)), max(1, round(share * len(rows)))))
    return Split(train=[row for i, row in enumerate(rows) if i not in chosen],
                 heldout=[rows[i] for i in sorted(chosen)], mixed=[], similar=[])


def tool_identity(tool: dict) -> tuple:
    """What makes two tools the same: the name and the sorted parameter names."""
    function = function_of(tool)
    return function["name"], *sorted(function["parameters"]["properties"])


def _identities(row: dict) -> set:
    return set(map(tool_identity, row["tools"]))


def _draw_tools(rows: list[dict], share: float, seed: int) -> set:
    graph, language = nx.Graph(), {}
    for row in rows:
        names = sorted(_identities(row))
        nx.add_path(graph, names)
        graph.add_nodes_from(names)
        language.update((tool_identity(tool), language_of(function_of(tool)["description"])) for tool in row["tools"])
    heldout = set()
    for wanted in sorted(set(language.values())):
        groups = [sorted(group) for group in nx.connected_components(graph) if language[min(group)] == wanted]
        heldout |= _draw_groups(sorted(groups), share, random.Random(seed))
    return heldout


def _draw_groups(groups: list[list], share: float, rng: random.Random) -> set:
    """Whole groups at random until `share` of the tools is reached, never more than half as much again."""
    wanted = share * sum(map(len, groups))
    if max(map(len, groups)) > len(groups) * 5 and len(groups) < 4:
        groups = [[tool] for group in groups for tool in group]
    rng.shuffle(groups)
    drawn = set()
    for group in groups:
        if len(drawn) < wanted and len(drawn) + len(group) <= 1.5 * wanted:
            drawn |= set(group)
    return drawn


def drop_similar(rows: list[dict], others: Iterable[dict], threshold: float = SIMILAR) -> tuple[list, list]:
    """Rows whose questions and tool descriptions are unlike those of all `others`, and the rows that are left out.

    Similarity is the Jaccard similarity of character 4-grams, numbers and punctuation aside, estimated by MinHash
    (64 permutations, fixed seed): near the threshold it errs by a few hundredths.
    """
    index, seen = MinHashLSH(threshold=threshold, num_perm=64), {}
    for text in {text for other in others for text in _texts(other)}:
        index.insert(text, _sketch(text))

    def similar(text: str) -> bool:
        if text not in seen:  # descriptions recur from row to row
            seen[text] = bool(index.query(_sketch(text)))
        return seen[text]

    kept, left = [], []
    for row in rows:
        (left if any(map(similar, _texts(row))) else kept).append(row)
    return kept, left


def _texts(row: dict) -> Iterator[str]:
    """A row's questions and tool descriptions, plain: case, digits, spaces and punctuation do not tell texts apart."""
    texts = [message["content"] for message in row.get("messages", ()) if message["role"] == "user"]
    texts += [function_of(tool)["description"] for tool in row["tools"]]
    for text in texts:
        plain = _NOISE.sub(" ", re.sub(r"\d+", "0", text.casefold())).strip()
        if plain:
            yield plain


def _sketch(text: str) -> MinHash:
    sketch = MinHash(num_perm=64)
    sketch.update_batch({text[i:i + 4].encode("utf-8") for i in range(max(1, len(text) - 3))})
    return sketch
