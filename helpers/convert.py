"""Canonical rows → training rows of ms-swift in a chosen format; a file → a file, nothing lost.

    python -m helpers.convert authored:30000 --to wire --out rows.jsonl

wire    one row per request of AgentFabric's OpenAI path, where call and observation stand in the
        USER turn that the summary answers
trace   call, observation and answer in one assistant turn
react   the same in ms_agent's own words; for ms-swift's ReAct template
hermes  roles as they are; for ms-swift's Hermes template
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from helpers import agentfabric, assets, data
from helpers.assets import processes

NO_TOOLS = "[]"  # with "" ms-swift's loader takes the row out, with a warning in its log


class Turn(NamedTuple):
    """A user turn. Where a data set has no results, the last result and the answer are None."""

    query: str
    calls: list  # pairs of {"name", "arguments"} and the result's text
    answer: str | None


class Format(NamedTuple):
    """The agent template and loss scale of ms-swift that fit, and row → training rows."""

    agent_template: str
    loss_scale: str
    render: Callable[[dict], Iterator[dict]]


class Report(NamedTuple):
    """What became of a file: `rows_in` = `converted` + the sum of `rejected` (reason → rows)."""

    source: str
    format: str
    out: str
    rows_in: int
    converted: int
    rows_out: int
    rejected: dict


def turns_of(row: dict) -> list[Turn]:
    """The user turns of a canonical row."""
    turns = []
    for message in row["messages"]:
        role, content = message["role"], message["content"]
        if role == "user":
            turns.append(Turn(content, [], None))
        elif role == "tool_call":
            turns[-1].calls.append((json.loads(content), None))
        elif role == "tool_response":
            turns[-1].calls[-1] = (turns[-1].calls[-1][0], content)
        else:
            turns[-1] = turns[-1]._replace(answer=content)
    return turns


def trace_text(turn: Turn, observation=agentfabric.render_observation, answer: str = "") -> str:
    """A turn as AgentFabric keeps it in its history: calls, observations and answer in one text."""
    text = ""
    for call, result in turn.calls:
        text += agentfabric.render_call(**call)
        text += "" if result is None else observation(result)
    return text if turn.answer is None else text + answer + turn.answer


def requests_of(row: dict) -> Iterator[tuple[list[dict], dict | str]]:
    """Every (request, reply) of a row on the OpenAI path: AgentFabric's messages, and a call as
    `{"name", "arguments"}` or the text of an answer."""
    history, parts = [], {key: row.get(key) for key in ("instruction", "role", "knowledge")}
    for turn in turns_of(row):
        request = agentfabric.first_request(row["tools"], turn.query, history=history, **parts)
        for call, result in turn.calls:
            yield request, call
            if result is not None:
                text = agentfabric.render_call(**call)
                request = agentfabric.next_request(request, text, result)
        if turn.answer is not None:
            yield request, turn.answer
        history.append({"role": "user", "content": turn.query})
        history.append({"role": "assistant", "content": trace_text(turn)})


def _wire(row: dict) -> Iterator[dict]:
    for (system, *messages), reply in requests_of(row):
        is_call, answer = isinstance(reply, dict), {"role": "assistant", "content": reply}
        messages.append(agentfabric.call_message(**reply) if is_call else answer)
        yield _training_row(row, messages, system["content"])


def _trace(row: dict) -> Iterator[dict]:
    queries = "".join(turn.query for turn in turns_of(row))  # one prompt, in the language of all
    parts = {key: row.get(key) for key in ("instruction", "role", "knowledge")}
    system, user = agentfabric.first_request(row["tools"], queries, **parts)
    yield _whole_turns(row, user["content"].removesuffix(queries), system["content"])


def _react(row: dict) -> Iterator[dict]:
    end = "Thought: I now know the final answer\nFinal Answer: "
    yield _whole_turns(row, observation="\nObservation: {}\n".format, answer=end)


def _whole_turns(row: dict, prefix: str = "", prompt: str = "", **words) -> dict:
    messages = []
    for turn in turns_of(row):
        messages.append({"role": "user", "content": prefix + turn.query})
        messages.append({"role": "assistant", "content": trace_text(turn, **words)})
    return _training_row(row, messages, prompt)


def _hermes(row: dict) -> Iterator[dict]:
    yield _training_row(row, row["messages"])


def _training_row(row: dict, messages: list[dict], prompt: str = "") -> dict:
    """A training row; with AgentFabric's system `prompt`, for its template. Tools are JSON text,
    because Arrow would otherwise merge all schemas into one struct."""
    tools, system = agentfabric.json_text(row["tools"]), row.get("instruction")
    if prompt and row.get("knowledge"):  # for which the template has no room
        tools, system = NO_TOOLS, prompt
    elif prompt and not system:  # the prompt's heading tells its language
        system = agentfabric.DEFAULT_INSTRUCTION[agentfabric.language_of(prompt[:10])]
    messages = [{"role": "system", "content": system}, *messages] if system else messages
    return {"id": row["id"], "tools": tools, "messages": messages}


FORMATS = {
    "wire": Format("agentfabric", "last_round+agentfabric", _wire),
    "trace": Format("agentfabric", "agentfabric", _trace),
    "react": Format("react_en", "react", _react),
    "hermes": Format("hermes", "hermes", _hermes),
}


def render_rows(rows: Iterable[dict], format: str) -> Iterator[dict]:
    """Canonical rows → training rows of a format. Rows without tools are plain chat in each."""
    for row in rows:
        yield from (FORMATS[format].render if row["tools"] else _hermes)(row)


def packed(rows: Iterable[dict], chars: int) -> Iterator[dict]:
    """Training rows → packs: consecutive rows of one prompt (system message and tools) as one row,
    as long as what a pack holds beside the prompt has at most `chars` characters. In a pack the
    dialogues stand one after the other, each behind its system message; `swift_plugin` reads it."""
    pack, size = {}, 0
    for row in rows:
        messages = row["messages"]
        if messages[0]["role"] != "system":  # what says where a dialogue begins
            messages = [{"role": "system", "content": ""}, *messages]
        own = sum(len(message["content"]) for message in messages[1:])
        prompt = (messages[0], row["tools"])
        if pack and prompt == (pack["messages"][0], pack["tools"]) and size + own <= chars:
            pack["messages"] += messages
            size += own
            continue
        if pack:
            yield pack
        pack, size = {**row, "messages": list(messages)}, own
    if pack:
        yield pack


def split_pack(messages: list[dict]) -> list[list[dict]]:
    """The dialogues of a pack's messages; of any other row's, they are one."""
    dialogues = []
    for message in messages:
        if message["role"] == "system" or not dialogues:
            dialogues.append([])
        if message["content"] or message["role"] != "system":  # no system message is no message
            dialogues[-1].append(message)
    return dialogues


def convert(source: str, format: str, out: str | Path, strict: bool = False) -> Report:
    """A data set (see `data.read_rows`) → the file `out` of training rows. Beside it stand
    `.rejected.jsonl` (line, id, reason, row) and `.report.json`; all appear when complete. KitError
    if there is no such source or format, no room, or, with `strict`, a rejected row."""
    if format not in FORMATS:
        raise assets.KitError(f"no format {format!r}; choose one of {', '.join(FORMATS)}")
    rows, rejected = data.load(source)
    if strict and rejected:
        raise assets.KitError(f"{source}, line {rejected[0].line}: {rejected[0].reason}")
    out, reasons = Path(out), Counter(one.reason for one in rejected)
    with (
        assets.whole_file(out) as rows_file,
        assets.whole_file(out.with_suffix(".rejected.jsonl")) as rejected_file,
        assets.whole_file(out.with_suffix(".report.json")) as report_file,
    ):
        rows_out = assets.write_jsonl(rows_file, render_rows(tqdm(rows, delay=2), format))
        rows_in = len(rows) + assets.write_jsonl(rejected_file, map(asdict, rejected))
        counts = rows_in, len(rows), rows_out, dict(reasons.most_common())
        report = Report(source, format, str(out), *counts)
        report_file.write_text(json.dumps(report._asdict(), indent=1, ensure_ascii=False), "utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser("python -m helpers.convert", description=convert.__doc__)
    parser.add_argument("source", help='"authored", "modelscope", … or a .jsonl or .json file')
    parser.add_argument("--to", choices=FORMATS, default="wire", help="the format")
    parser.add_argument("--out", required=True, help="the .jsonl file to write")
    parser.add_argument("--strict", action="store_true", help="stop if a row is rejected")
    asked = parser.parse_args(arguments)
    told = asked.source, asked.to, asked.out, asked.strict
    return processes.command(lambda: print(json.dumps(convert(*told)._asdict(), indent=1)))


if __name__ == "__main__":
    sys.exit(main())
