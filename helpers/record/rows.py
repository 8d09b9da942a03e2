"""Recordings → canonical rows: group the requests, keep what is good, say why the rest is not.

Input: lines of `helpers.record.proxy`, or rows with `conversations` in AgentFabric's own prompt, such
as `AI-ModelScope/ms_agent_for_agentfabric`. A recorded conversation becomes one row, with all turns.
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
from helpers.convert import turns_of
from helpers.record.prompts import Prompt, read_query, read_system

# a result as it is fed back
OBSERVATION = re.compile(re.escape(render_observation("\0")).replace("\0", "(.*?)"), re.S)
_URL = re.compile(r"https?://[^\s\"'<>()\[\]{}，。；、！？（）]+")
_FAILED = re.compile(r"Tool api .* failed to call\. Args: ", re.S)
_CALL_WORDS = re.compile(r"Action(?: Input)?\s*[:：]")


@dataclass(eq=False)
class Episode:
    """A user turn as recorded: its first request, (reply, result) pairs, the last reply. `complete`:
    no reply was cut off. `before`: the episode before it in its conversation."""

    messages: list[dict]
    reply: str = ""
    complete: bool = True
    lines: list[int] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    before: "Episode | None" = None
    prompt: Prompt | None = None
    row: dict | None = None

    def messages_now(self, query: str) -> list[dict]:
        """The conversation up to here, as the app keeps it: a turn's whole trace in one message."""
        trace = "".join(reply + render_observation(result) for reply, result in self.pairs)
        turn = [{"role": "user", "content": query}]
        turn.append({"role": "assistant", "content": trace + self.reply})
        return [*self.messages[1:-1], *turn]

    def all_lines(self) -> list[int]:
        """The lines of the conversation up to here."""
        return [*(self.before.all_lines() if self.before else ()), *self.lines]


def rows_of(
    lines: Iterable[bytes | str],
) -> tuple[list[tuple[list[int], dict]], list[data.Rejected]]:
    """Recordings → (line numbers, row without id) for each good conversation, and the other lines."""
    texts = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    rows, reasons, episodes, waiting = [], {}, [], {}
    for number, line in texts.items():
        recorded = _read(line, from_json)
        try:
            if isinstance(recorded, dict) and "conversations" in recorded:
                rows.append(([number], from_conversation(recorded)))
            else:
                _add(recorded, number, episodes, waiting)
        except Unreadable as problem:
            reasons[number] = str(problem)
    rows += _conversations(episodes, reasons)
    used = {number for numbers, _ in rows for number in numbers}
    assert used | reasons.keys() == texts.keys(), "a recording is neither in a row nor rejected"
    rejected = []
    for number in sorted(reasons.keys() - used):
        text = texts[number]
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        rejected.append(data.Rejected(number, "", reasons[number], _read(text, from_json) or text))
    return rows, rejected


def _add(recorded: object, number: int, episodes: list[Episode], waiting: dict) -> None:
    """Add a recording to the episode that it carries on, with that episode's reply and a result; else
    begin a new one. `waiting`: messages before the last → text of user and reply → Episode."""
    messages, said, complete = _chat(recorded)
    asked, begun = messages[-1]["content"], waiting.setdefault(to_json(messages[:-1]), {})
    for before in begun:
        if asked.startswith(before) and (found := OBSERVATION.fullmatch(asked, len(before))):
            episode = begun.pop(before)
            episode.pairs.append((episode.reply, found[1]))
            break
    else:
        episode = Episode(messages)
        episodes.append(episode)
    episode.reply, episode.complete = said, episode.complete and complete
    episode.lines.append(number)
    begun[asked + said] = episode


def _chat(recorded: object) -> tuple[list[dict], str, bool]:
    """A recording's messages, the reply's text, and whether it ended by itself."""
    try:
        status, reply = recorded["status"], recorded["reply"]
        if status != 200 or "error" in reply:
            raise Unreadable(f"the server answered with an error (HTTP {status})")
        asked, choice = recorded["request"]["messages"], reply["choices"][0]
        messages = [{"role": one["role"], "content": one["content"]} for one in asked]
        said = choice["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise Unreadable("not a line of the recorder") from None
    texts = [said, *(text for one in messages for text in one.values())]
    if len(messages) < 2 or not all(isinstance(text, str) for text in texts):
        raise Unreadable("not a chat of texts with a system message")
    return messages, said, choice.get("finish_reason") == "stop"


def _conversations(episodes: list[Episode], reasons: dict) -> list[tuple[list[int], dict]]:
    """The rows of the good episodes that no other continues. `reasons` gets the others' lines."""
    heard: dict[bytes, list[Episode]] = {}  # a conversation up to here → the episodes it ends with
    for one in episodes:
        system, *history, user = one.messages
        query = ""
        try:
            one.prompt = read_system(system["content"])
            role, query = read_query(user["content"], one.prompt)
            # the first Chinese words turn an English prompt into a Chinese one with the same tools
            earlier = heard.get(to_json(history), [])
            earlier = [it for it in earlier if it.prompt.tools == one.prompt.tools]
            one.before = max(earlier[::-1], key=lambda it: it.prompt == one.prompt, default=None)
            if one.before and not one.before.row:
                raise Unreadable("an earlier turn was rejected")
            if not one.complete:
                raise Unreadable("a reply was cut off")
            turns = _turns([(message["role"], message["content"]) for message in history])
            one.row = _row(one.prompt, role, [*turns, (query, one.pairs, one.reply)])
        except Unreadable as problem:
            reasons.update(dict.fromkeys(one.lines, str(problem)))
        heard.setdefault(to_json(one.messages_now(query)), []).append(one)
    continued, rows = {one.before for one in episodes if one.row}, {}
    for one in episodes:
        if one.row and one not in continued:
            row, lines = to_json(one.row), one.all_lines()
            if row in rows:
                reasons.update(dict.fromkeys(lines, "the same conversation again"))
            rows.setdefault(row, (lines, one.row))
    return list(rows.values())


def from_conversation(row: dict) -> dict:
    """A row whose `conversations` are in AgentFabric's own prompt → a canonical row. Unreadable where
    its prompt is not byte for byte AgentFabric's, such as what the original script wrote."""
    turns = row["conversations"]
    turns = ms_agent.read_literal(turns) if isinstance(turns, str) else turns  # as the hub has them
    try:
        (first, system), *turns = [(turn["from"], str(turn["value"])) for turn in turns]
    except (KeyError, TypeError, ValueError):
        raise Unreadable("conversations are not a list of from and value") from None
    if first != "system" or not turns:
        raise Unreadable("the first turn is not system, or the only one")
    prompt, role, read = read_system(system), "", []
    for asked, pairs, answer in _turns(turns):
        if asked.startswith("("):  # only the newest question has the prefix
            role, asked = read_query(asked, prompt)
        read.append((asked, pairs, answer.strip()))
    named = {"id": str(row["id"])} if row.get("id") else {}
    return {**named, **_row(prompt, role, read)}


def _turns(said: list[tuple[str, str]]) -> list[tuple[str, list, str]]:
    """(role, text) pairs, with a turn's whole trace as one text → (query, pairs, answer) per turn."""
    if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2):
        raise Unreadable("turns are not user, assistant, user, assistant, …")
    turns = []
    for (_, query), (_, trace) in zip(said[::2], said[1::2]):
        *steps, answer = OBSERVATION.split(trace)
        turns.append((query, list(zip(steps[::2], steps[1::2])), answer))
    return turns


def _row(prompt: Prompt, role: str, turns: list[tuple[str, list, str]]) -> dict:
    """The canonical row of a conversation, without id. Unreadable: what is wrong with it."""
    messages = [message for turn in turns for message in _messages(*turn, prompt.tools)]
    parts = {"instruction": prompt.instruction, "role": role, "knowledge": prompt.knowledge}
    parts = {key: value for key, value in parts.items() if value}
    row = {"tools": prompt.tools, "messages": messages, **parts}
    data.check(row)
    return row


def _messages(query: str, pairs: list, answer: str, tools: list[dict]) -> list[dict]:
    """The canonical messages of a user turn. Unreadable: the first of these rules that it breaks."""
    if OBSERVATION.search(query):
        raise Unreadable("the first request of the turn is missing")
    messages = [{"role": "user", "content": query}]
    for reply, result in pairs:
        messages += [_call(reply, tools), {"role": "tool_response", "content": result}]
        value = _read(result, from_json, ms_agent.read_literal)
        if _FAILED.match(result) or isinstance(value, dict) and "error" in value:
            raise Unreadable("a tool failed")
    answer = _checked(answer)
    if agentfabric.read_calls(answer):
        raise Unreadable("the episode ends in a call")
    if _CALL_WORDS.search(answer):
        raise Unreadable("the answer holds a call that the runtime does not see")
    calls = [message["content"] for message in messages[1::2]]
    if len(set(calls)) < len(calls):
        raise Unreadable("a call is made twice")
    for number, (_, result) in enumerate(pairs, 1):
        _check_used(result, query, "\n".join([*calls[number:], answer]))
    return [*messages, {"role": "assistant", "content": answer}]


def _checked(reply: str) -> str:
    """A reply up to the stop word, which some servers leave in it."""
    kept = agentfabric.cut_at_stop(reply)
    if reply.removeprefix(kept).strip() not in ("", agentfabric.STOP_WORDS[0]):
        raise Unreadable("the model wrote an observation itself")
    return kept


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
        known = "are not an object" if arguments is not None else "cannot be read"
        raise Unreadable(f"a call's arguments {known}")
    try:
        agent.check_arguments(schemas[calls[0].name], arguments)
    except ValueError:
        raise Unreadable("a call's arguments do not fit the tool's schema") from None
    return agentfabric.call_message(calls[0].name, arguments)


def _read(text: str | bytes, *readers: Callable) -> object:
    """What the first of the readers makes of a text that it can read; None if none can."""
    for read in readers:
        with suppress(ValueError, RecursionError):
            return read(text)
    return None


def _check_used(result: str, query: str, after: str) -> None:
    """A result is used: its addresses, and a value of it that is not in the question, stand in
    what comes `after` it: later calls and the answer."""
    if not all(url in after for url in _URL.findall(result)):
        raise Unreadable("the answer leaves out or changes an address from a result")
    value = _read(result, from_json, ms_agent.read_literal)
    new = [one for one in _leaves(result if value is None else value) if one not in query]
    if new and not any(one in after for one in new):
        raise Unreadable("the answer states nothing of a result")


def _leaves(value: object) -> list[str]:
    """The values in a result; of a sentence its addresses or numbers, as its words may change."""
    if isinstance(value, str):
        if _URL.search(value):
            return _URL.findall(value)
        return re.findall(r"\d+(?:\.\d+)?", value) if re.search(r"\s|[，。]", value) else [value]
    if isinstance(value, dict | list):
        values = value.values() if isinstance(value, dict) else value
        return [leaf for one in values for leaf in _leaves(one)]
    return [] if isinstance(value, bool) or value is None else [str(value)]


def convert(source: str | Path, out: str | Path, made_by: str = "recorded") -> dict:
    """A file of recordings (or a data set of conversations, see `assets.dataset_file`) → the file
    `out` of canonical rows, whose `source` is `made_by`, and `.rejected.jsonl` beside it.

    Returns {"recordings", "rows", "turns", "rejected": {reason: recordings}}.

    Raises:
        assets.KitError: no such file, or no room for the output.
    """
    out = Path(out)
    with open(assets.dataset_file(str(source)), "rb") as lines:
        made, rejected = rows_of(lines)
    rows = []
    for number, (_, row) in enumerate(made, 1):
        rows.append({"id": f"{out.stem}-{number:04d}", **row, "source": made_by})
    with assets.whole_file(out) as part:
        assets.write_jsonl(part, rows)
        assets.write_jsonl(out.with_suffix(".rejected.jsonl"), map(asdict, rejected))
    reasons = Counter(one.reason for one in rejected)
    return {
        "recordings": sum(len(numbers) for numbers, _ in made) + len(rejected),
        "rows": len(rows),
        "turns": sum(len(turns_of(row)) for row in rows),
        "rejected": dict(reasons.most_common()),
    }
