"""ms_agent dialogues ↔ canonical rows: the regex parser, and what it sets aside and why.

An ms_agent row is `{"id", "conversations": [{"from": "system"|"user"|"assistant", "value"}]}` with its tools written
out in the system text and its calls written out in the assistant text (format: ModelScope data set `iic/ms_agent`).
A canonical row is `{"id", "tools", "messages"}`: OpenAI function schemas and messages of the roles user, tool_call,
tool_response and assistant, which is also what ms-swift trains on. Every rendering of the kit starts from it.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import json5

from helpers.agentfabric import function_of, language_of

_TOOL_HEAD = re.compile(r"^\s*\d+\. (.+?): Call this tool to interact with the .+? API\. ", re.MULTILINE)
_USEFUL = re.compile(r"What is the .+? API useful for\? ?")
_PARAMETERS = re.compile(r"\s*Parameters: (?=\[)")
_PART = re.compile(r"^(Thought|Action|Action Input|Observation|Final Answer): ?", re.MULTILINE)
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class Unreadable(ValueError):
    """A row that cannot be converted without loss; its message is the reason, short enough to count by."""


@dataclass(frozen=True)
class Rejected:
    """A row set aside: 1-based `line` in the file, `id`, `reason`, and the `row` itself (text if it was no JSON)."""

    line: int
    id: str
    reason: str
    row: object


def parse_tools(system: str) -> list[dict]:
    """The tools of an ms_agent system prompt, whole: all parameters, types, names with spaces, any number of tools.

    Returns OpenAI function schemas. A parameter without a type gets none here, see `infer_types`.

    Raises:
        Unreadable: no tool found, or a parameter list that is not JSON.
    """
    heads = list(_TOOL_HEAD.finditer(system))
    if not heads:
        raise Unreadable("system prompt lists no tool")
    ends = [head.start() for head in heads[1:]] + [len(system)]
    return [_parse_tool(head[1], system[head.end():end]) for head, end in zip(heads, ends)]


def _parse_tool(name: str, body: str) -> dict:
    """One tool from the text after its head: description, then `Parameters: [JSON]` (nested brackets welcome)."""
    for found in _PARAMETERS.finditer(body):  # the words may also stand in a description: take the one JSON follows
        try:
            listed, _ = json.JSONDecoder().raw_decode(body, found.end())
        except json.JSONDecodeError:
            continue
        if not all(isinstance(one, dict) and "name" in one for one in listed):
            continue
        described = _USEFUL.sub("", body[:found.start()]).removesuffix(".").strip()
        return {"type": "function", "function": {"name": name, "description": described,
                                                 "parameters": _schema(listed)}}
    raise Unreadable("a tool's parameters are not a JSON list")


def _schema(listed: list[dict]) -> dict:
    """JSON schema from ms_agent's list of `{name, description, required, …}`, where `required` is "True" or true."""
    properties = {one["name"]: {key: value for key, value in one.items() if key not in ("name", "required")}
                  for one in listed}
    return {"type": "object", "properties": properties,
            "required": [one["name"] for one in listed if str(one.get("required")).lower() == "true"]}


def parse_reply(text: str) -> list[dict]:
    """An assistant turn of ms_agent → canonical messages (tool_call, tool_response, …, assistant). Thoughts are left
    out: AgentFabric's prompt does not ask for them.

    Raises:
        Unreadable: an Action without input, input that is no object, a missing observation or final answer.
    """
    heads = list(_PART.finditer(text))
    if not heads:
        return [{"role": "assistant", "content": _filled(text.strip(), "empty answer")}]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    parts = [(head[1], text[head.end():end].strip()) for head, end in zip(heads, ends)]
    parts = [part for part in parts if part[0] != "Thought"]
    messages = []
    while parts and parts[0][0] == "Action":
        names = [part[0] for part in parts[:3]]
        if names != ["Action", "Action Input", "Observation"]:
            raise Unreadable("an Action is not followed by Action Input and Observation")
        (_, name), (_, arguments), (_, result), *parts = parts
        messages += [{"role": "tool_call", "content": _call_text(name, parse_input(arguments))},
                     {"role": "tool_response", "content": result}]
    if [part[0] for part in parts] != ["Final Answer"]:
        raise Unreadable("assistant turn does not end in one Final Answer")
    return [*messages, {"role": "assistant", "content": _filled(parts[0][1], "empty answer")}]


def _filled(text: str, reason: str) -> str:
    if not text:
        raise Unreadable(reason)
    return text


def _call_text(name: str, arguments: dict) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def parse_input(text: str) -> dict:
    """The arguments of an `Action Input`: JSON, else a Python literal (ms_agent's usual form), else json5.

    Raises:
        Unreadable: none of the three, or not an object.
    """
    for read in (json.loads, ast.literal_eval, json5.loads):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise Unreadable("Action Input is not an object")


def to_canonical(row: dict) -> dict:
    """One ms_agent row → one canonical row `{"id", "tools", "messages"}`.

    Raises:
        Unreadable: with the reason; nothing is repaired by guessing.
    """
    try:
        turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
    except (KeyError, TypeError):
        raise Unreadable("not an ms_agent row: no conversations of from/value") from None
    if not all(isinstance(value, str) for _, value in turns):
        raise Unreadable("a turn is not text")
    speakers = [speaker for speaker, _ in turns]
    if len(turns) < 3 or speakers != ["system", *["user", "assistant"] * (len(turns) // 2)]:
        raise Unreadable("turns are not system, user, assistant, user, assistant, …")
    messages = []
    for speaker, value in turns[1:]:
        messages += parse_reply(value) if speaker == "assistant" else [
            {"role": "user", "content": _filled(value.strip(), "empty user turn")}]
    tools = infer_types(parse_tools(turns[0][1]), calls_of(messages))
    _check_calls(tools, calls_of(messages))
    return {"id": str(row.get("id", "")), "tools": tools, "messages": messages}


def calls_of(messages: list[dict]) -> list[dict]:
    """The `{"name", "arguments"}` objects of a row's tool_call messages, in order."""
    return [json.loads(message["content"]) for message in messages if message["role"] == "tool_call"]


def infer_types(tools: list[dict], calls: list[dict]) -> list[dict]:
    """Give every parameter without a type the type of the value that the row's own calls pass; string otherwise."""
    passed = {(call["name"], key): _TYPES.get(type(value), "string")
              for call in calls for key, value in call["arguments"].items()}
    for function in map(function_of, tools):
        for key, schema in function["parameters"]["properties"].items():
            if "type" not in schema:
                schema_type = passed.get((function["name"], key), "string")
                function["parameters"]["properties"][key] = {"type": schema_type, **schema}
    return tools


def _check_calls(tools: list[dict], calls: list[dict]) -> None:
    listed = {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in tools}
    for call in calls:
        if call["name"] not in listed:
            raise Unreadable("a call names a tool that the prompt does not list")
        if not set(listed[call["name"]]["required"]) <= set(call["arguments"]):
            raise Unreadable("a call leaves out a required argument")
        if not set(call["arguments"]) <= set(listed[call["name"]]["properties"]):
            raise Unreadable("a call passes an argument that the tool does not have")


def read_dialogues(path: str | Path) -> Iterator[dict | Rejected]:
    """Every line of an ms_agent .jsonl file as a canonical row, or as `Rejected` with its reason. Blank lines are
    skipped; rows in = canonical rows + rejected rows."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield convert_line(number, line)


def convert_line(number: int, line: str) -> dict | Rejected:
    """One line of a file → its canonical row, or `Rejected`."""
    row = line
    try:
        row = json.loads(line)
        return to_canonical(row)
    except json.JSONDecodeError:
        reason = "line is not JSON"
    except (Unreadable, RecursionError) as error:
        reason = str(error)
    return Rejected(number, str(row.get("id", "")) if isinstance(row, dict) else "", reason, row)


def split_rejected(items: Iterable[dict | Rejected]) -> tuple[list[dict], list[Rejected]]:
    """The rows and the rejected of `read_dialogues`, as two lists."""
    items = list(items)
    return [one for one in items if isinstance(one, dict)], [one for one in items if isinstance(one, Rejected)]


def row_language(row: dict) -> str:
    """The language of a canonical row, by its last user turn: "zh" or "en"."""
    return language_of([message["content"] for message in row["messages"] if message["role"] == "user"][-1])
