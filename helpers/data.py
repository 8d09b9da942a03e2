"""Files of dialogues → canonical rows (see `helpers.agentfabric`), every row checked at the door.

A file is .jsonl or .json (one list), in one of `FORMATS`, recognised by its first readable row. A
row that does not fit comes back as `Rejected`: rows in = canonical rows + rejected rows.
"""

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import BeforeValidator, Json, TypeAdapter, ValidationError
from pydantic_core import from_json
from tqdm.auto import tqdm
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from helpers import assets, ms_agent
from helpers.agentfabric import Unreadable, call_message, calls_of, function_of, language_of

DISTRACTORS = 2  # tools offered beside the one that a Seal-Tools row calls: it names no other
_SEAL_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_SHAREGPT |= {"function_call": "tool_call", "observation": "tool_response"}
_DONE = "user (tool_call tool_response )*assistant "
_TURNS = re.compile(f"({_DONE})*({_DONE}|user (tool_call tool_response )*tool_call )")
_AGENTFABRIC = re.compile("## 你拥有如下工具|## You have the following tools")

# What pydantic checks of a raw row. Hub rows may hold `conversations` as a Python literal.
_adapter = lru_cache(TypeAdapter)
_Turn = TypedDict("_Turn", {"from": str, "value": str})
_Literal = BeforeValidator(lambda it: ms_agent.read_literal(it) if isinstance(it, str) else it)
_OrEmpty = BeforeValidator(lambda it: it or {})


class _Message(TypedDict, total=False):
    role: Required[str]
    content: str | None
    tool_calls: list[dict[str, Any]] | None
    tool_call_id: str


class _Row(TypedDict, total=False):
    id: str | int | None
    tools: str | list | None
    messages: list[_Message]
    conversations: Annotated[list[_Turn], _Literal]
    system: str | None
    instruction: str | None
    role: str | None
    knowledge: str | None
    query: str
    calling: list[dict[str, Any]]


class _Schema(TypedDict, total=False):
    properties: dict[str, dict]
    required: list[str] | None


class _Function(TypedDict, total=False):  # a tool, or with `arguments` a call of one
    name: Required[str]
    parameters: Annotated[_Schema, _OrEmpty]
    arguments: Annotated[dict[str, Any] | Json[dict[str, Any]], _OrEmpty]


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used, and why. `row` is its text if it is no JSON."""

    line: int  # in a .json list: the row's number, from 1
    id: str
    reason: str
    row: object


def read_rows(source: str | Path, format: str | None = None) -> Iterator[dict | Rejected]:
    """Every row of a data set (a name or path for `assets.dataset_file`) as a canonical row, or as
    `Rejected`. `format` is a key of FORMATS, by default that of the first readable row."""
    path = assets.dataset_file(str(source))
    for line, raw in _raw_rows(path):
        try:
            format = format or format_of(raw)
            row = FORMATS[format](_valid(_Row, raw, "a row"), path.parent)
            row["id"] = row["id"] or f"line-{line}"
            check(row)
            yield row
        except (Unreadable, RecursionError) as error:
            name = str(raw.get("id") or "") if isinstance(raw, dict) else ""
            yield Rejected(line, name, str(error), raw)


def load(source: str | Path) -> tuple[list[dict], list[Rejected]]:
    """The canonical rows of a data set, and the rejected ones; see `read_rows`."""
    found = {dict: [], Rejected: []}
    for row in tqdm(read_rows(source), unit="row", delay=2):
        found[type(row)].append(row)
    return found[dict], found[Rejected]


def _raw_rows(path: Path) -> Iterator[tuple[int, object]]:
    """The rows of a file with their numbers; a line that is no JSON comes as its text."""
    if path.suffix == ".json":
        try:
            yield from enumerate(_valid(list, path.read_bytes(), "the file"), 1)
        except Unreadable as error:
            raise assets.KitError(f"{path} does not hold a list of rows: {error}") from None
        return
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield number, from_json(line)
            except ValueError:
                if text := line.decode("utf-8", "backslashreplace").strip():
                    yield number, text


def _valid(kind: type, value: object, name: str) -> Any:
    """`value`, or what its JSON text holds, as a `kind`; else Unreadable, with the first reason."""
    adapter, is_text = _adapter(kind), isinstance(value, str | bytes)
    try:
        return adapter.validate_json(value) if is_text else adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = "not JSON" if first["type"] == "json_invalid" else first["msg"]
        place = [one for one in first["loc"] if isinstance(one, str) and one.isidentifier()]
        raise Unreadable(": ".join([name, *place, reason])) from None


def format_of(row: dict) -> str:
    """The key of FORMATS that a raw row's own keys speak for; Unreadable if none does."""
    row = _valid(_Row, row, "a row")
    if _AGENTFABRIC.search(str(row)):
        raise Unreadable("a prompt of AgentFabric's own: python -m helpers.record reads such files")
    if "conversations" in row:
        speakers = {turn["from"] for turn in row["conversations"]}
        return "sharegpt" if "tools" in row or speakers and "system" not in speakers else "ms_agent"
    if "messages" in row or "calling" in row:
        return "messages" if "messages" in row else "seal_tools"
    raise Unreadable("no known format: there are neither conversations, messages nor calling")


def check(row: dict) -> None:
    """What holds for every canonical row: turns in order, none empty, and calls that their tools
    allow. The last turn may end in a call. Unreadable names the first rule that the row breaks."""
    if not _TURNS.fullmatch("".join(f"{message['role']} " for message in row["messages"])):
        raise Unreadable("turns are not user, any tool_call + tool_response, assistant, user, …")
    if not all(one["content"].strip() or one["role"] == "tool_response" for one in row["messages"]):
        raise Unreadable("an empty turn")
    listed = {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in row["tools"]}
    for call in calls_of(row["messages"]):
        schema, given = listed.get(call["name"]), call["arguments"].keys()
        if schema is None:
            raise Unreadable("a call names a tool that the prompt does not list")
        if not set(schema["required"]) <= given:
            raise Unreadable("a call leaves out a required argument")
        if not given <= schema["properties"].keys():
            raise Unreadable("a call passes an argument that the tool does not have")


def row_language(row: dict) -> str:
    """The language of a canonical row, by its last user turn: "zh" or "en"."""
    return language_of([one["content"] for one in row["messages"] if one["role"] == "user"][-1])


def openai_tools(tools: list | str | None) -> list[dict]:
    """A row's tools, a list or its JSON text, wrapped or bare, in the form of OpenAI's `tools`."""
    listed = []
    for tool in _valid(list, tools or "[]", "tools"):
        function = function_of(tool) if isinstance(tool, dict) else tool
        name = _valid(_Function, function, "a tool")["name"]
        schema = function.get("parameters") or {}
        properties, required = schema.get("properties", {}), schema.get("required") or []
        schema = {**schema, "type": "object", "properties": properties, "required": required}
        described = str(function.get("description") or "")
        function = {"name": name, "parameters": schema, "description": described}
        listed.append({"type": "function", "function": function})
    return listed


def _call(call: object) -> dict:
    call = _valid(_Function, call, "a call")
    return call_message(call["name"], call.get("arguments", {}))


def _from_messages(row: dict, folder: Path) -> dict:
    """Messages of the canonical roles or OpenAI's (`tool_calls`, "tool"). Several calls of one
    message come one after the other, each before its result, which is how AgentFabric asks."""
    messages, waiting, system = [], {}, row.get("system") or ""
    for message in row.get("messages", ()):
        role, content = message["role"], message.get("content") or ""
        if waiting and role != "tool":
            raise Unreadable("a call is not followed by its result")
        if role == "system":
            system = content
        elif message.get("tool_calls"):  # the text beside calls, a thought, is left out
            for number, call in enumerate(message["tool_calls"]):
                waiting[str(call.get("id", number))] = _call(call.get("function", call))
        elif role == "tool":
            key = str(message.get("tool_call_id", next(iter(waiting), "")))
            if key not in waiting:
                raise Unreadable("a tool's result answers no call")
            messages += [waiting.pop(key), {"role": "tool_response", "content": content}]
        else:
            turn = {"role": role, "content": content}
            messages.append(_call(content) if role == "tool_call" else turn)
    row = {**row, "instruction": row.get("instruction") or system}
    parts = {key: row[key] for key in ("instruction", "role", "knowledge") if row.get(key)}
    parts |= {"tools": openai_tools(row.get("tools")), "messages": messages}
    return {"id": str(row.get("id") or ""), **parts}


def _from_sharegpt(row: dict, folder: Path) -> dict:
    turns = [(turn["from"], turn["value"]) for turn in row.get("conversations", ())]
    messages = [{"role": _SHAREGPT.get(who, who), "content": text} for who, text in turns]
    return _from_messages({**row, "messages": messages}, folder)


@lru_cache(maxsize=2)
def _seal_catalogue(path: Path) -> dict[str, dict]:
    """Seal-Tools' catalogue: name → function schema."""
    if not path.exists():
        raise assets.KitError(f"{path} is missing: put Seal-Tools' catalogue beside its rows.")
    catalogue = {}
    for row in assets.read_jsonl(path):
        properties = {}
        for key, one in row["parameters"].items():
            kind = _SEAL_TYPES.get(one.get("type"), "string")
            properties[key] = {"type": kind, "description": one.get("description", "")}
        schema = {"type": "object", "properties": properties, "required": row["required"]}
        name, described = row["api_name"], row["api_description"]
        function = {"name": name, "description": described, "parameters": schema}
        catalogue[name] = {"type": "function", "function": function}
    return catalogue


def _from_seal_tools(row: dict, folder: Path) -> dict:
    """A query and one call, without its result. Numbers are text, read as the catalogue's type."""
    catalogue, calls = _seal_catalogue(folder / "tool.jsonl"), row.get("calling", ())
    if len(calls) != 1 or calls[0].get("api") not in catalogue:
        raise Unreadable("not one call of a tool in the catalogue")
    name, given = calls[0]["api"], calls[0].get("parameters")
    given = _valid(_Function, {"name": name, "arguments": given}, "a call")["arguments"]
    for key, schema in function_of(catalogue[name])["parameters"]["properties"].items():
        kind = {"integer": int, "number": float}.get(schema["type"])
        if kind and isinstance(given.get(key), str):
            given[key] = _valid(kind, given[key], "a number")
    others, id = sorted(catalogue.keys() - {name}), str(row.get("id") or "")
    rng = random.Random(zlib.crc32(id.encode("utf-8")))
    names = [name, *rng.sample(others, min(DISTRACTORS, len(others)))]
    rng.shuffle(names)
    messages = [{"role": "user", "content": row.get("query", "")}, call_message(name, given)]
    return {"id": id, "tools": [catalogue[one] for one in names], "messages": messages}


FORMATS = {
    "ms_agent": lambda row, folder: ms_agent.to_canonical(row),
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "seal_tools": _from_seal_tools,
}
