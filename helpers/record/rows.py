"""Recordings → canonical rows: group the requests, keep what is good, say why the rest is not.

Input: lines of `helpers.record.proxy`, or rows whose `conversations` are in AgentFabric's prompt
(`AI-ModelScope/ms_agent_for_agentfabric`). A recorded conversation is one row, with all its turns.
What a model writes before a call ("工具调用", "Thought: …") has no place in a row and is left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic_core import from_json, to_json

from helpers import agent, agentfabric, assets, data, ms_agent
from helpers.agentfabric import Unreadable, function_of, render_observation
from helpers.record.prompts import read_query, read_system

OBSERVATION = re.compile(re.escape(render_observation("\0")).replace("\0", "(.*?)"), re.S)
_URL = re.compile(r"https?://[^\s\"'<>()\[\]{}，。；、！？（）]+")
_INVENTED = re.compile(r"Observation:\s*\S")  # more than the stop word, which some servers keep
_CALL_WORDS = re.compile(r"Action(?: Input)?\s*[:：]")


@dataclass(eq=False)
class Episode:
    """A user turn as recorded. `text` is its newest user message and the reply to that."""

    messages: list[tuple[str, str]]  # (role, text)
    text: str = ""
    fault: str = ""  # what is wrong with a reply
    lines: list[int] = field(default_factory=list)
    prompt: dict | None = None
    row: dict | None = None


def rows_of(lines: Iterable[str]) -> tuple[list[tuple[list[int], dict]], list[data.Rejected]]:
    """Recordings → (line numbers, row) for each good conversation, and all other lines."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    recordings = {number: _read(line, from_json) or line for number, line in numbered}
    rows, reasons, episodes, waiting = [], {}, [], {}
    for number, recorded in recordings.items():
        try:
            if isinstance(recorded, dict) and "conversations" in recorded:
                rows.append(([number], from_conversation(recorded)))
            else:
                _add(recorded, number, episodes, waiting)
        except Unreadable as problem:
            reasons[number] = str(problem)
    rows += _conversations(episodes, reasons)
    used = {number for numbers, _ in rows for number in numbers}
    assert used | reasons.keys() == recordings.keys(), "a recording is neither in a row nor bad"
    bad = sorted(reasons.keys() - used)
    return rows, [data.Rejected(line, "", reasons[line], recordings[line]) for line in bad]


def _add(recorded: object, number: int, episodes: list[Episode], waiting: dict) -> None:
    """Add a recording to the episode that it carries on with a result, or begin a new one. In
    `waiting` the episodes stand by the messages before the last."""
    try:
        status, reply = recorded["status"], recorded["reply"]
        if status != 200 or "error" in reply:
            raise Unreadable(f"the server answered with an error (HTTP {status})")
        asked, choice = recorded["request"]["messages"], reply["choices"][0]
        messages = [(one["role"], one["content"]) for one in asked]
        said = choice["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise Unreadable("not a line of the recorder") from None
    texts = [said, *(text for message in messages for text in message)]
    if len(messages) < 2 or not all(isinstance(text, str) for text in texts):
        raise Unreadable("not a chat of texts with a system message")
    text, begun = messages[-1][1], waiting.setdefault(to_json(messages[:-1]), [])
    for episode in begun:
        if text.startswith(episode.text) and OBSERVATION.fullmatch(text, len(episode.text)):
            break
    else:
        episode = Episode(messages)
        begun.append(episode)
        episodes.append(episode)
    episode.text = text + said
    episode.lines.append(number)
    if choice.get("finish_reason") != "stop":
        episode.fault = "a reply was cut off"
    elif _INVENTED.search(said):
        episode.fault = "the model wrote an observation itself"


def _conversations(episodes: list[Episode], reasons: dict) -> list[tuple[list[int], dict]]:
    """The rows of good episodes that no other continues. The others' lines go to `reasons`."""
    heard, rows, continued = {}, {}, set()  # heard: turns so far → the episodes that end with them
    for one in episodes:
        trace = one.text.removeprefix(one.messages[-1][1])
        try:
            one.prompt, role, turns = _turns([*one.messages, ("assistant", trace)])
            tools = one.prompt["tools"]
            earlier = heard.get(to_json([tools, turns[:-1]]), [])[::-1]
            # the rest of a prompt may change: the first Chinese words make it a Chinese one
            before = max(earlier, key=lambda it: it.prompt == one.prompt, default=Episode([]))
            heard.setdefault(to_json([tools, turns]), []).append(one)
            if earlier and not before.row:
                raise Unreadable("an earlier turn was rejected")
            if one.fault:
                raise Unreadable(one.fault)
            one.row = _row(one.prompt, role, turns)
            one.lines = before.lines + one.lines
            continued.add(before)
        except Unreadable as problem:
            reasons.update(dict.fromkeys(one.lines, str(problem)))
    for one in episodes:
        if one.row and one not in continued:
            if rows.setdefault(to_json(one.row), (one.lines, one.row))[1] is not one.row:
                reasons.update(dict.fromkeys(one.lines, "the same conversation again"))
    return list(rows.values())


def from_conversation(row: dict) -> dict:
    """A row with `conversations` in AgentFabric's prompt → a canonical row; else Unreadable."""
    listed = row["conversations"]
    listed = ms_agent.read_literal(listed) if isinstance(listed, str) else listed  # of the hub
    try:
        said = [(turn["from"], "" + turn["value"]) for turn in listed]
    except (KeyError, TypeError):
        raise Unreadable("conversations are not a list of from and value") from None
    made = _row(*_turns(said))
    for message in made["messages"]:
        if message["role"] == "assistant":  # behind "Answer:" stands a space
            message["content"] = message["content"].strip()
    return made | ({"id": str(row["id"])} if row.get("id") else {})


def _turns(said: list[tuple[str, str]]) -> tuple[dict, str, list[tuple[str, str]]]:
    """(role, text) of a conversation, a turn's whole trace in one text → the prompt, the role that
    the assistant plays, and (query, trace) of each turn."""
    texts = [text for _, text in said]
    if len(said) < 3 or [who for who, _ in said[1:]] != ["user", "assistant"] * (len(said) // 2):
        raise Unreadable("turns are not system, user, assistant, user, assistant, …")
    prompt = read_system(texts[0])
    role, query = read_query(texts[-2], prompt)
    turns = []
    for asked, trace in zip(texts[1:-2:2], texts[2:-2:2]):
        with suppress(Unreadable):  # as only the newest question has the prefix
            _, asked = read_query(asked, prompt)
        turns.append((asked, trace))
    return prompt, role, [*turns, (query, texts[-1])]


def _row(prompt: dict, role: str, turns: list[tuple[str, str]]) -> dict:
    """The canonical row of a conversation, without id; Unreadable with what is wrong with it."""
    row = {"tools": prompt["tools"], "messages": []}
    for query, trace in turns:
        row["messages"] += _messages(query, trace, prompt["tools"])
    parts = {**prompt, "role": role}
    row |= {key: parts[key] for key in ("instruction", "role", "knowledge") if parts[key]}
    data.check(row)
    return row


def _messages(query: str, trace: str, tools: list[dict]) -> list[dict]:
    """The canonical messages of a user turn; Unreadable with the first rule that it breaks."""
    if OBSERVATION.search(query):
        raise Unreadable("the first request of the turn is missing")
    *steps, answer = OBSERVATION.split(trace)
    calls, answer = [_call(reply, tools) for reply in steps[::2]], _checked(answer)
    if agentfabric.read_calls(answer):
        raise Unreadable("the episode ends in a call")
    if _CALL_WORDS.search(answer):
        raise Unreadable("the answer holds a call that the runtime does not see")
    texts = [call["content"] for call in calls]
    if len(set(texts)) < len(texts):
        raise Unreadable("a call is made twice")
    messages = [{"role": "user", "content": query}]
    for number, (call, result) in enumerate(zip(calls, steps[1::2]), 1):
        _check_used(result, query, "\n".join([*texts[number:], answer]))
        messages += [call, {"role": "tool_response", "content": result}]
    return [*messages, {"role": "assistant", "content": answer}]


def _checked(reply: str) -> str:
    """A reply up to the stop word; Unreadable if it goes on behind that."""
    if _INVENTED.search(reply):
        raise Unreadable("the model wrote an observation itself")
    return agentfabric.cut_at_stop(reply)


def _call(reply: str, tools: list[dict]) -> dict:
    """The tool_call message of a reply that a result follows."""
    calls = agentfabric.read_calls(_checked(reply))
    if len(calls) != 1:
        raise Unreadable("a reply with several calls" if calls else "a result without a call")
    schemas = {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in tools}
    if calls[0].name not in schemas:
        raise Unreadable("a call names a tool that the prompt does not list")
    # plain JSON first: json5 rounds large numbers
    arguments = _read(calls[0].arguments, from_json, agentfabric.parse_arguments)
    if not isinstance(arguments, dict):
        raise Unreadable("a call's arguments are not a JSON object on one line")
    try:
        agent.check_arguments(schemas[calls[0].name], arguments)
    except ValueError:
        raise Unreadable("a call's arguments do not fit the tool's schema") from None
    return agentfabric.call_message(calls[0].name, arguments)


def _read(text: str, *readers: Callable) -> object:
    """What the first reader makes of a text that can read it; None if none can."""
    for read in readers:
        with suppress(ValueError, RecursionError):
            return read(text)
    return None


def _check_used(result: str, query: str, after: str) -> None:
    """A result is no error, and it is used: its addresses, and a value that the question does not
    give, stand in what comes `after` it, in later calls or in the answer."""
    value = _read(result, from_json, ms_agent.read_literal)
    failed = result.startswith("Tool api ") and " failed to call. Args: " in result
    if failed or isinstance(value, dict) and "error" in value:
        raise Unreadable("a tool failed")
    if not all(url in after for url in _URL.findall(result)):
        raise Unreadable("the answer leaves out or changes an address from a result")
    new = [one for one in _leaves(result if value is None else value) if one not in query]
    if new and not any(one in after for one in new):
        raise Unreadable("the answer states nothing of a result")


def _leaves(value: object) -> list[str]:
    """The values in a result; of a sentence its addresses or numbers, as its words may change."""
    if isinstance(value, dict | list):
        values = value.values() if isinstance(value, dict) else value
        return [leaf for one in values for leaf in _leaves(one)]
    if isinstance(value, str) and re.search(r"\s|[，。]|https?://", value):
        return _URL.findall(value) or re.findall(r"\d+(?:\.\d+)?", value)
    return [] if isinstance(value, bool) or value is None else [str(value)]


def convert(source: str | Path, out: str | Path, made_by: str = "recorded") -> dict:
    """A file of recordings, or a data set of conversations (see `assets.dataset_file`) → the file
    `out` of canonical rows, whose `source` is `made_by`. Beside it `.rejected.jsonl`."""
    path, out, rows = assets.dataset_file(str(source)), Path(out), []
    with open(path, encoding="utf-8", errors="backslashreplace") as lines:
        made, rejected = rows_of(lines)
    for number, (_, row) in enumerate(made, 1):
        rows.append({"id": f"{out.stem}-{number:04d}", **row, "source": made_by})
    with assets.whole_file(out) as part:
        assets.write_jsonl(part, rows)
        assets.write_jsonl(out.with_suffix(".rejected.jsonl"), map(asdict, rejected))
    recordings = len({number for numbers, _ in made for number in numbers}) + len(rejected)
    reasons = Counter(one.reason for one in rejected).most_common()
    return {"recordings": recordings, "rows": len(rows), "rejected": dict(reasons)}
