"""From canonical rows to training files and held-out cases: split by tool, choose a shape, write.

A shape is how one canonical dialogue becomes training rows of ms-swift (`tools` + `messages`):

- "wire": one row per request that AgentFabric's OpenAI path really sends. The summary's row holds the call and its
  observation inside the USER turn, and its reply is the summary alone.
- "trace": the whole dialogue turn in one assistant message, as the seed recipes train it.
- "react": the same trace in ms_agent's own words (Thought, Final Answer), for ms-swift's ReAct template.
- "hermes": roles as they are, for ms-swift's Hermes template.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

from helpers.agentfabric import (
    DEFAULT_INSTRUCTION,
    first_request,
    function_of,
    language_of,
    next_request,
    query_prefix,
    render_call,
    render_observation,
)


@dataclass(frozen=True)
class Turn:
    """One user turn of a dialogue: `query`, `calls` as ({"name", "arguments"}, result text) pairs, and `answer`."""

    query: str
    calls: tuple
    answer: str


@dataclass(frozen=True)
class Shape:
    """A rendering: the ms-swift agent template and loss scale that belong to it, and row → training rows."""

    agent_template: str
    loss_scale: str
    render: Callable[[dict], Iterator[dict]]


@dataclass(frozen=True)
class Split:
    """Rows by tool: no tool of a `heldout` row occurs in any prompt of a `train` row; `mixed` rows hold both kinds
    of tools and are used for neither."""

    train: list
    heldout: list
    mixed: list


def turns_of(row: dict) -> list[Turn]:
    """The user turns of a canonical row."""
    turns, query, calls = [], "", []
    for message in row["messages"]:
        content = message["content"]
        if message["role"] == "user":
            query, calls = content, []
        elif message["role"] == "tool_call":
            calls.append((json.loads(content), None))
        elif message["role"] == "tool_response":
            calls[-1] = (calls[-1][0], content)
        elif message["role"] == "assistant":
            turns.append(Turn(query, tuple(calls), content))
    return turns


def trace_text(turn: Turn) -> str:
    """A turn as AgentFabric keeps it in its history: calls, observations and answer in one text."""
    text = "".join(render_call(**call) + render_observation(result) for call, result in turn.calls)
    return text + turn.answer


def wire_requests(row: dict) -> Iterator[tuple[list[dict], dict | str]]:
    """Every (request, reply) pair of a row as the OpenAI path exchanges them: the request as AgentFabric's messages,
    the reply as a `{"name", "arguments"}` call or the answer text."""
    history = []
    for turn in turns_of(row):
        request = first_request(row["tools"], turn.query, history=history)
        for call, result in turn.calls:
            yield request, call
            request = next_request(request, render_call(**call), result)
        yield request, turn.answer
        history = [*history, {"role": "user", "content": turn.query},
                   {"role": "assistant", "content": trace_text(turn)}]


def _row(row: dict, instruction: str | None, messages: list[dict]) -> dict:
    """A training row; tools as JSON text, because Arrow would otherwise merge all schemas into one struct."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    return {"id": row["id"], "tools": json.dumps(row["tools"], ensure_ascii=False), "messages": system + messages}


def _instruction(row: dict) -> str:
    return DEFAULT_INSTRUCTION[language_of("".join(turn.query for turn in turns_of(row)))]


def _wire(row: dict) -> Iterator[dict]:
    for (_, *messages), reply in wire_requests(row):
        last = ({"role": "assistant", "content": reply} if isinstance(reply, str) else
                {"role": "tool_call", "content": json.dumps(reply, ensure_ascii=False)})
        yield _row(row, _instruction(row), [*messages, last])


def _trace(row: dict) -> Iterator[dict]:
    instruction, messages = _instruction(row), []
    for turn in turns_of(row):
        prefix = query_prefix(row["tools"], language_of(instruction))
        messages += [{"role": "user", "content": prefix + turn.query},
                     {"role": "assistant", "content": trace_text(turn)}]
    yield _row(row, instruction, messages)


def _react(row: dict) -> Iterator[dict]:
    messages = []
    for turn in turns_of(row):
        calls = "".join(f"{render_call(**call)}\nObservation: {result}\n" for call, result in turn.calls)
        messages += [{"role": "user", "content": turn.query}, {"role": "assistant", "content": (
            f"{calls}Thought: I now know the final answer\nFinal Answer: {turn.answer}")}]
    yield _row(row, None, messages)


def _hermes(row: dict) -> Iterator[dict]:
    yield _row(row, None, row["messages"])


SHAPES = {
    "wire": Shape("agentfabric", "last_round+agentfabric", _wire),
    "trace": Shape("agentfabric", "agentfabric", _trace),
    "react": Shape("react_en", "react", _react),
    "hermes": Shape("hermes", "hermes", _hermes),
}


def render_rows(rows: Iterable[dict], shape: str) -> Iterator[dict]:
    """Canonical rows → training rows of one of `SHAPES`."""
    for row in rows:
        yield from SHAPES[shape].render(row)


def tool_identity(tool: dict) -> tuple:
    """What makes two tools the same: the name and the sorted parameter names."""
    function = function_of(tool)
    return function["name"], *sorted(function["parameters"]["properties"])


def _identities(row: dict) -> set:
    return set(map(tool_identity, row["tools"]))


def split_by_tool(rows: list[dict], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out `share` of the tools of each language, and with them every row that offers one.

    Tools that ever stand in one prompt form a group and stay together, so authored rows (one domain per prompt) lose
    nothing. Where everything hangs together in one group, tools are drawn singly and the mixed rows set aside.
    """
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
    parts = {"train": [], "heldout": [], "mixed": []}
    for row in rows:
        inside = len(_identities(row) & heldout)
        parts["mixed" if 0 < inside < len(_identities(row)) else "heldout" if inside else "train"].append(row)
    return Split(**parts)


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


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write rows, one JSON object a line; the file appears under its name only when complete. Returns the count.

    Raises:
        OSError: disk full or folder not writable; a partial temporary file is removed.
    """
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_jsonl(path: str | Path) -> list[dict]:
    """All rows of a .jsonl file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
