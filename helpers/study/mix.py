"""Rows that call no tool (general chat, questions about the model itself), mixed with rows that do.

A model that trains on tool prompts alone may forget what it knew, or answer everything with a call.
So the original recipes mix in general chat, two rows to one.

ms-swift trains such a row as plain chat, without a system message, and `swift deploy` asks the same
way. vLLM does not: there SmolLM2's chat template adds a system message that names SmolLM. Send one
of your own there, and train with it: `{**row, "instruction": text}`. Inside AgentFabric no question
arrives like this; not to call there is taught by dialogues that offer tools and need none.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

from helpers.assets import dataset_file, read_jsonl

LANGUAGES = ("zh", "en")
MODEL_NAME = ("小工", "Kit")  # taught by the self-cognition rows: Chinese, English
MODEL_AUTHOR = ("工具课", "the Tool Workshop")


def mix(
    agent_rows: Iterable[dict], general_rows: Iterable[dict], share: float, budget: int, seed: int
) -> list[dict]:
    """`budget` training rows in training order, of which `share` (0 to 1) is general.

    The draw depends on the rows and the seed, not on the rows' order. At one budget a larger share
    holds all general rows of a smaller one. Too small sets repeat, each row equally often, give or
    take one. Raises ValueError: share out of range, or no rows to repeat.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: it has to lie between 0 and 1 (only general rows)")
    general = round(budget * share)
    taken = _draw("agent", list(agent_rows), budget - general, seed)
    taken += _draw("general", list(general_rows), general, seed)
    return [row for _, row in sorted(taken, key=lambda pair: pair[0])]


def _draw(kind: str, rows: list[dict], wanted: int, seed: int) -> list[tuple[bytes, dict]]:
    """`wanted` rows, each behind the key that gives its place in the training order."""
    if wanted and not rows:
        raise ValueError(f"the mix needs {wanted} {kind} rows and there are none")
    ordered = sorted(rows, key=lambda row: _key(row, seed, kind))
    chosen = [(ordered[n % len(ordered)], n // len(ordered)) for n in range(wanted)]
    return [(_key(row, seed, kind, turn), row) for row, turn in chosen]


def _key(row: dict, *salt: object) -> bytes:
    """A row's place in a random order that the salt fixes."""
    text = json.dumps([*salt, row], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).digest()


def general(split: str = "train", languages: Sequence[str] = LANGUAGES) -> list[dict]:
    """The authored general chat as canonical rows; "heldout" shows what a model still knows."""
    rows = _read("general", "lang", split, languages)
    return [{"id": row["id"], "tools": [], "messages": row["messages"]} for row in rows]


def self_cognition(
    split: str = "train",
    languages: Sequence[str] = LANGUAGES,
    name: str | Sequence[str] = MODEL_NAME,
    author: str | Sequence[str] = MODEL_AUTHOR,
    source: str = "self_cognition",
) -> list[dict]:
    """Questions about the model itself as canonical rows, with name and author filled in as by
    ms-swift: one text for both languages, or (Chinese, English).

    source "swift/self-cognition" is ModelScope's own set; all of it is of split "train".
    """
    both = {
        key: dict(zip(LANGUAGES, (value, value) if isinstance(value, str) else value, strict=True))
        for key, value in {"{{NAME}}": name, "{{AUTHOR}}": author}.items()
    }
    found = []
    for number, row in enumerate(_read(source, "tag", split, languages)):
        messages = []
        for role, text in (("user", row["query"]), ("assistant", row["response"])):
            for key, values in both.items():
                text = text.replace(key, values[row["tag"]])
            messages.append({"role": role, "content": text})
        found.append({"id": row.get("id") or f"self-{number}", "tools": [], "messages": messages})
    return found


def _read(source: str, language: str, split: str, languages: Sequence[str]) -> list[dict]:
    """The rows of one split in these languages; rows that name no split are for training."""
    rows = [row for row in read_jsonl(dataset_file(source)) if row[language] in languages]
    rows = [row for row in rows if row.get("split", "train") == split]
    if not rows:
        raise ValueError(f"{source} has no rows of split {split!r} in {languages}")
    return rows
