"""Rows that call no tool, general knowledge and self-cognition, and how they are mixed with rows that do.

A model that trains on tool prompts alone may forget what it knew, or answer everything with a call; so recipes mix.

What such a row looks like to the model: without tools, `corpus.render_rows` gives it the tools text "[]" and no
system message, and ms-swift's agent template writes its prompt only where there are tools, so it trains as plain chat.
One file may hold such rows beside rows with tools. ("[]", null and no key at all mean the same to ms-swift; an empty
text does not: its loader reads "" as one tool and then drops the row as faulty.)

The system message is the default of ms-swift's chat template: none for chatml and qwen3, "You are a helpful
assistant." for qwen. `swift deploy` asks in the same way. vLLM does not: it takes the tokenizer's own chat template,
and SmolLM2's begins "You are a helpful AI assistant named SmolLM, trained by Hugging Face", the prompt that the base
was tuned with and the opposite of self-cognition. There, send a system message of your own, and train with the same:
`{**row, "instruction": text}`.

Inside AgentFabric a question never arrives like this: the runtime writes its tools prompt around every one. Not
calling there is taught by dialogues in which tools are offered and none is needed, not by these rows.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from helpers import assets, storage

LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Mix:
    """Mixed rows in training order, and how often rows were taken: {"agent" or "general": {times: number of rows}}."""

    rows: list
    times: dict

    def __str__(self) -> str:
        parts = []
        for kind, times in self.times.items():
            taken = ", ".join(f"{n} rows × {often}" for often, n in sorted(times.items()))
            parts.append(f"{sum(often * n for often, n in times.items())} {kind} ({taken or 'none'})")
        return f"{len(self.rows)} rows: {' + '.join(parts)}"


def mix(agent_rows: Iterable[dict], general_rows: Iterable[dict], share: float, *, budget: int | None = None,
        repeat: bool = False, seed: int = 42) -> Mix:
    """Agent and general rows in one training set, of which `share` is general.

    The draw depends on the rows and the seed alone, not on the order of the rows. At one budget it is nested: a larger
    share holds the general rows of a smaller one, so that arms of a study differ by as little as they can.

    Args:
        agent_rows, general_rows: rows as they will train (from `corpus.render_rows`): one dialogue may give several of
            them, and the budget counts the rows it is handed.
        share: general rows as a part of all rows, 0 to 1. One agent row to two general ones is 2/3.
        budget: all rows together. A budget of optimizer steps is steps × rows per step (batch size × gradient
            accumulation × devices), trained for one epoch. None keeps every agent row and adds general rows on top:
            then a larger share also means more steps.
        repeat: whether rows may be taken several times where there are too few. All are then taken equally often,
            give or take one; `Mix.times` tells how often.

    Raises:
        ValueError: share or budget out of range, or too few rows.
    """
    agent_rows, general_rows = list(agent_rows), list(general_rows)
    agent, general = _wanted(len(agent_rows), share, budget)
    drawn = {"agent": _draw("agent", agent_rows, agent, repeat, seed),
             "general": _draw("general", general_rows, general, repeat, seed)}
    ordered = [(_key(row, seed, kind, turn), row) for kind, taken in drawn.items() for turn, row in taken]
    ordered.sort(key=lambda pair: pair[0])
    return Mix([row for _, row in ordered], {kind: _times(taken) for kind, taken in drawn.items()})


def _wanted(agents: int, share: float, budget: int | None) -> tuple[int, int]:
    """How many agent and general rows a mix takes."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: it has to lie between 0 (no general rows) and 1 (nothing but them)")
    if budget is None:
        if share == 1:
            raise ValueError("share is 1, which leaves no agent rows to add general ones to: give a budget")
        return agents, round(agents * share / (1 - share))
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget is {budget!r}: it has to be a whole number of rows, at least 1")
    return budget - round(budget * share), round(budget * share)


def _draw(kind: str, rows: list[dict], wanted: int, repeat: bool, seed: int) -> list[tuple[int, dict]]:
    """`wanted` rows, each with its turn: 0 where it is taken for the first time, 1 for the second, …"""
    if wanted > len(rows) and not (repeat and rows):
        raise ValueError(f"the mix needs {wanted} {kind} rows and there are {len(rows)}: give more rows, another "
                         "share or a smaller budget" + (", or allow repeat=True" if rows else ""))
    ordered = sorted(rows, key=lambda row: _key(row, seed, kind))
    return [(n // len(ordered), ordered[n % len(ordered)]) for n in range(wanted)]


def _key(row: dict, *salt: object) -> bytes:
    """A row's place in a random order that the salt fixes."""
    text = json.dumps([*salt, row], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).digest()


def _times(taken: list[tuple[int, dict]]) -> dict[int, int]:
    """How often rows were taken → how many rows were."""
    reached = Counter(turn + 1 for turn, _ in taken)  # rows taken at least so often
    exactly = {often: n - reached.get(often + 1, 0) for often, n in reached.items()}
    return {often: n for often, n in exactly.items() if n}


def general(split: str = "train", languages: Sequence[str] = LANGUAGES) -> list[dict]:
    """The authored general rows of one split as canonical rows without tools.

    Args:
        split: "train" or "heldout"; the held-out ones are for judging what a model still knows.
        languages: those wanted, of "zh" and "en".

    Raises:
        ValueError: no such rows.
    """
    rows = [row for row in storage.read_jsonl(assets.dataset_file("general")) if row["lang"] in languages]
    return [{"id": row["id"], "tools": [], "messages": row["messages"]} for row in _of_split(rows, split)]


def self_cognition(name: str | Sequence[str], author: str | Sequence[str], split: str = "train",
                   languages: Sequence[str] = LANGUAGES, source: str = "self_cognition") -> list[dict]:
    """Questions about the model itself, with its name and author filled in, as canonical rows without tools.

    Args:
        name, author: one value for both languages, or (Chinese, English), in the order of ms-swift's --model_name and
            --model_author.
        split: "train" or "heldout".
        languages: those wanted, of "zh" and "en".
        source: for `assets.dataset_file`; "swift/self-cognition" is ModelScope's own set, all of it for training.

    Raises:
        ValueError: no such rows, or a name or author that is neither one value nor two.
        assets.AssetError: the source cannot be had.
    """
    values = {"{{NAME}}": _by_language("name", name), "{{AUTHOR}}": _by_language("author", author)}

    def filled(text: str, language: str) -> str:
        for placeholder, value in values.items():
            text = text.replace(placeholder, value[language])
        return text

    rows = [row for row in storage.read_jsonl(assets.dataset_file(source)) if row["tag"] in languages]
    return [{"id": row.get("id") or f"self-{n}", "tools": [], "messages": [
        {"role": "user", "content": filled(row["query"], row["tag"])},
        {"role": "assistant", "content": filled(row["response"], row["tag"])}]}
        for n, row in enumerate(_of_split(rows, split))]


def _by_language(what: str, value: str | Sequence[str]) -> dict[str, str]:
    """A name as ms-swift takes it, one value or two, by language."""
    values = (value,) if isinstance(value, str) else tuple(value or ())
    values = values * 2 if len(values) == 1 else values
    if len(values) != 2 or not all(isinstance(one, str) and one.strip() for one in values):
        raise ValueError(f"{what} is {value!r}: give one text for both languages, or two, Chinese and English")
    return dict(zip(LANGUAGES, values))


def _of_split(rows: list[dict], split: str) -> list[dict]:
    """The rows of one split; rows that name none are for training."""
    chosen = [row for row in rows if row.get("split", "train") == split]
    if not chosen:
        raise ValueError(f'no rows of split {split!r} in these languages; splits are "train" and "heldout", '
                         'languages "zh" and "en"')
    return chosen
