"""From canonical rows to training rows: choose a shape, render.

A shape is how one canonical dialogue becomes training rows of ms-swift (`tools` + `messages`):

- "wire": one row per request that AgentFabric's OpenAI path really sends. The summary's row holds the call and its
  observation inside the USER turn, and its reply is the summary alone.
- "trace": the whole dialogue turn in one assistant message, as the seed recipes train it.
- "react": the same trace in ms_agent's own words (Thought, Final Answer), for ms-swift's ReAct template.
- "hermes": roles as they are, for ms-swift's Hermes template.
- "ms_agent": ms_agent's rows as they are, their own prompt included; "seed": those after the seed recipe's script.
- "trace_seed_tools": "trace" with no more of each tool than that script leaves, to see what this alone does.

A canonical row may bring the prompt's other parts along: `instruction` (the role prompt), `role` and `knowledge`, as
for `agentfabric.first_request`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pydantic_core import from_json

from helpers.agentfabric import (
    DEFAULT_INSTRUCTION,
    language_of,
    next_request,
    render_call,
    render_observation,
    system_prompt,
    user_message,
)
from helpers.canonical import Unreadable, tools_text
from helpers.dialogues import to_ms_agent
from helpers.seed_converter import seed_row, seed_schemas

NO_TOOLS = "[]"  # with "" ms-swift's loader takes the row out, with a warning in its log


class Turn(NamedTuple):
    """One user turn of a dialogue: `query`, `calls` as ({"name", "arguments"}, result text) pairs, and `answer`. The
    last turn of a data set without results has None for both result and answer."""

    query: str
    calls: tuple
    answer: str | None


@dataclass(frozen=True)
class Shape:
    """A rendering: the ms-swift agent template and loss scale that belong to it, and row → training rows."""

    agent_template: str
    loss_scale: str
    render: Callable[[dict], Iterator[dict]]


def turns_of(row: dict) -> list[Turn]:
    """The user turns of a canonical row."""
    turns, query, calls = [], "", []
    for message in row["messages"]:
        role, content = message["role"], message["content"]
        if role == "user":
            query, calls = content, []
        elif role == "tool_call":
            calls.append((from_json(content), None))
        elif role == "tool_response":
            calls[-1] = (calls[-1][0], content)
        elif role == "assistant":
            turns.append(Turn(query, tuple(calls), content))
    if role == "tool_call":
        turns.append(Turn(query, tuple(calls), None))
    return turns


def trace_text(turn: Turn) -> str:
    """A turn as AgentFabric keeps it in its history: calls, observations and answer in one text."""
    text = "".join(render_call(**call) + (render_observation(result) if result is not None else "")
                   for call, result in turn.calls)
    return text + (turn.answer or "")


def wire_requests(row: dict) -> Iterator[tuple[list[dict], dict | str]]:
    """Every (request, reply) pair of a row as the OpenAI path exchanges them: the request as AgentFabric's messages,
    the reply as a `{"name", "arguments"}` call or the answer text."""
    for language, messages, reply in _exchanges(row):
        system = system_prompt(row["tools"], _instruction(row, language), language, knowledge=row.get("knowledge"))
        yield ([{"role": "system", "content": system}, *messages],
               from_json(reply["content"]) if reply["role"] == "tool_call" else reply["content"])


def _exchanges(row: dict) -> Iterator[tuple[str, list[dict], dict]]:
    """What `wire_requests` gives, with the prompt's language in place of the system message and the reply as the row's
    own message."""
    history = []
    for message in row["messages"]:
        role, content = message["role"], message["content"]
        if role == "user":
            language, first = user_message(row["tools"], content, history=history, role=row.get("role", ""),
                                           knowledge=row.get("knowledge"))
            messages, call, trace, history = [*history, first], "", "", [*history, message]
        elif role == "tool_response":
            messages = next_request(messages, call, content)
            trace += call + render_observation(content)
        else:
            yield language, messages, message
            if role == "tool_call":
                call = render_call(**from_json(content))
            else:
                history = [*history, {"role": "assistant", "content": trace + content}]


def _instruction(row: dict, language: str) -> str:
    return row.get("instruction") or DEFAULT_INSTRUCTION[language]


def _wire(row: dict) -> Iterator[dict]:
    head = _heads(row)
    for language, messages, reply in _exchanges(row):
        yield _row(row, head(language), [*messages, reply])


def _trace(row: dict) -> Iterator[dict]:
    messages, turns = [], turns_of(row)
    language = language_of("".join(turn.query for turn in turns) + (row.get("knowledge") or ""))
    for turn in turns:
        _, message = user_message(row["tools"], turn.query, role=row.get("role", ""), knowledge=row.get("knowledge"),
                                  language=language)
        messages += [message, {"role": "assistant", "content": trace_text(turn)}]
    yield _row(row, _heads(row)(language), messages)


def answer_rows(row: dict) -> dict[str, dict]:
    """A dialogue of one user turn up to its answer, its calls and observations standing in the "user" turn, as
    AgentFabric sends them, or in the "assistant" turn, as a trace has them. The last round of both is the answer."""
    *_, sent = _wire(row)
    (trace,) = _trace(row)
    prompt = [message for message in trace["messages"] if message["role"] in ("system", "user")]
    return {"user": sent, "assistant": {**trace, "messages": [*prompt, *row["messages"][1:]]}}


def _react(row: dict) -> Iterator[dict]:
    messages = []
    for turn in turns_of(row):
        calls = "".join(f"{render_call(**call)}\nObservation: {result}\n" for call, result in turn.calls)
        messages += [{"role": "user", "content": turn.query}, {"role": "assistant", "content": (
            f"{calls}Thought: I now know the final answer\nFinal Answer: {turn.answer}")}]
    yield _row(row, (tools_text(row["tools"]), row.get("instruction")), messages)


def _hermes(row: dict) -> Iterator[dict]:
    yield _row(row, (tools_text(row["tools"]), row.get("instruction")), row["messages"])


def _ms_agent(row: dict) -> Iterator[dict]:
    yield _text_row(to_ms_agent(row))


def _seed(row: dict) -> Iterator[dict]:
    """Nothing where the seed's script dies; `convert` counts those rows."""
    with suppress(Unreadable):
        yield _text_row(seed_row(to_ms_agent(row)))


def _trace_seed_tools(row: dict) -> Iterator[dict]:
    with suppress(Unreadable):
        yield from _trace({**row, "tools": seed_schemas(row["tools"])})


def _text_row(row: dict) -> dict:
    """A row whose tools stand in its system text: ms-swift adds no prompt of its own."""
    messages = [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]
    return _row(row, (NO_TOOLS, None), messages)


def _heads(row: dict) -> Callable[[str], tuple[str, str]]:
    """Language → (tools, system message) of an AgentFabric training row: the agent template writes both into one
    prompt. It has no room for a knowledge block, so a row with one brings its whole prompt and no tools."""
    if row.get("knowledge"):
        return lambda language: (NO_TOOLS, system_prompt(row["tools"], _instruction(row, language), language,
                                                   knowledge=row["knowledge"]))
    tools = tools_text(row["tools"])
    return lambda language: (tools, _instruction(row, language))


def _row(row: dict, head: tuple[str, str | None], messages: list[dict]) -> dict:
    """A training row; tools as JSON text, because Arrow would otherwise merge all schemas into one struct."""
    tools, instruction = head
    system = [{"role": "system", "content": instruction}] if instruction else []
    return {"id": row["id"], "tools": tools, "messages": system + messages}


SHAPES = {
    "wire": Shape("agentfabric", "last_round+agentfabric", _wire),
    "trace": Shape("agentfabric", "agentfabric", _trace),
    "react": Shape("react_en", "react", _react),
    "hermes": Shape("hermes", "hermes", _hermes),
    "ms_agent": Shape("react_en", "react", _ms_agent),
    "seed": Shape("react_en", "react", _seed),
    "trace_seed_tools": Shape("agentfabric", "agentfabric", _trace_seed_tools),
}


def render_rows(rows: Iterable[dict], shape: str) -> Iterator[dict]:
    """Canonical rows → training rows of one of `SHAPES`. Rows without tools are plain chat in every shape."""
    for row in rows:
        if row["tools"]:
            yield from SHAPES[shape].render(row)
        else:
            yield _row(row, (NO_TOOLS, row.get("instruction")), row["messages"])
