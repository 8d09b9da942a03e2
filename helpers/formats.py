"""Other data sets' ways of writing a tool call → canonical rows: OpenAI messages, ShareGPT, AgentFabric's own prompts,
Seal-Tools.

Each reader takes one raw row of the shape that `helpers.sources` has checked, and raises `Unreadable` with the reason
where it would have to guess. What all formats have in common is checked there, once.
"""

import json
import random
import zlib
from pathlib import Path

from pydantic_core import from_json

from helpers.agentfabric import function_of
from helpers.canonical import Unreadable, call_message
from helpers.prompt_parser import read_query, read_system
from helpers.recorded_turns import messages_of, pairs_of

DISTRACTORS = 2  # tools offered beside the ones a Seal-Tools row calls: its rows name no other
_SEAL_TYPES = {"str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number",
               "number": "number", "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array",
               "dict": "object", "object": "object"}
_READ = {"integer": int, "number": float}


def openai_tools(tools: list | str | None) -> list[dict]:
    """A row's tools, given as a list or as its JSON text, wrapped or bare, in the form of OpenAI's `tools`."""
    if isinstance(tools, str):
        try:
            tools = from_json(tools) if tools.strip() else []
        except ValueError:
            raise Unreadable("tools are not JSON") from None
    return [_openai_tool(tool) for tool in tools or []]


def _openai_tool(tool: object) -> dict:
    function = function_of(tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unreadable("a tool has no name")
    schema = function.get("parameters") or {}
    properties = schema.get("properties", {}) if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(one, dict) for one in properties.values()):
        raise Unreadable("a tool's parameters are not a JSON schema")
    parameters = {**schema, "type": "object", "properties": properties, "required": list(schema.get("required") or [])}
    return {"type": "function", "function": {"name": function["name"], "parameters": parameters,
                                             "description": str(function.get("description") or "")}}


def _call(call: object) -> dict:
    """A call as `{"name", "arguments"}`, whose arguments may be JSON text, → the canonical message."""
    call = call if isinstance(call, dict) else {}
    name, arguments = call.get("name"), call.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments or "{}")
        except ValueError:
            raise Unreadable("a call's arguments are not JSON") from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise Unreadable("a call is not {name, arguments}")
    return call_message(name, arguments)


def from_messages(row: dict) -> dict:
    """`tools` + `messages`: the canonical roles, or OpenAI's own (`tool_calls`, role "tool"). Several calls of one
    message become calls one after the other, each before its result, which is how AgentFabric asks. A system message
    becomes the row's instruction."""
    messages, waiting, extra = [], {}, {}
    for message in row["messages"]:
        role, content = message["role"], message.get("content") or ""
        if role == "system":
            extra["instruction"] = content
        elif message.get("tool_calls"):  # text beside the calls is the model's thought: AgentFabric asks for none
            waiting = {str(call.get("id", n)): _call(call.get("function", call))
                       for n, call in enumerate(message["tool_calls"])}
        elif role == "tool":
            key = str(message.get("tool_call_id", next(iter(waiting), "")))
            if key not in waiting:
                raise Unreadable("a tool's result answers no call")
            messages += [waiting.pop(key), {"role": "tool_response", "content": content}]
        else:
            messages.append(_call_from_text(content) if role == "tool_call" else {"role": role, "content": content})
        if waiting and role not in ("assistant", "tool"):
            raise Unreadable("a call is not followed by its result")
    extra |= {key: row[key] for key in ("instruction", "role", "knowledge") if row.get(key)}
    return {"id": str(row.get("id") or ""), **extra, "tools": openai_tools(row.get("tools")), "messages": messages}


def _call_from_text(text: str) -> dict:
    try:
        return _call(from_json(text))
    except ValueError as error:
        raise error if isinstance(error, Unreadable) else Unreadable("a call is not JSON") from None


_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
             "function_call": "tool_call", "observation": "tool_response", "tool_call": "tool_call",
             "tool_response": "tool_response"}


def from_sharegpt(row: dict) -> dict:
    """ShareGPT / glaive: `conversations` of human, gpt, function_call and observation, `tools` as JSON text."""
    messages = []
    for turn in row["conversations"]:
        if turn["from"] not in _SHAREGPT:
            raise Unreadable("a turn is of nobody we know")
        messages.append({"role": _SHAREGPT[turn["from"]], "content": turn["value"]})
    if row.get("system"):
        messages = [{"role": "system", "content": row["system"]}, *messages]
    return from_messages({**row, "messages": messages})


def from_agentfabric(row: dict) -> dict:
    """`conversations` in AgentFabric's own prompt (`AI-ModelScope/ms_agent_for_agentfabric`): the tools are read back
    from the system text, the calls from the assistant's trace. What is no such prompt, byte for byte, is set aside: the
    seed converter's schemas among it."""
    (speaker, system), *turns = [(turn["from"], turn["value"]) for turn in row["conversations"]] or [("", "")]
    if [speaker, *(who for who, _ in turns)] != ["system", *["user", "assistant"] * (len(turns) // 2)] or not turns:
        raise Unreadable("turns are not system, user, assistant, user, assistant, …")
    prompt, messages, role = read_system(system), [], ""
    for (_, asked), (_, trace) in zip(turns[::2], turns[1::2]):
        prefixed = asked.startswith("(")  # the runtime puts its prefix before the newest query only
        role, query = read_query(asked, prompt) if prefixed else (role, asked)
        pairs, answer = pairs_of(trace)
        messages += messages_of(query, pairs, answer.strip(), prompt.tools)
    extra = {"instruction": prompt.instruction, "role": role, "knowledge": prompt.knowledge}
    return {"id": str(row.get("id") or ""), **{key: value for key, value in extra.items() if value},
            "tools": prompt.tools, "messages": messages}


def seal_catalogue(folder: Path) -> dict[str, dict]:
    """Seal-Tools' catalogue, `tool.jsonl` in the rows' folder: name → OpenAI function schema.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = folder / "tool.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: Seal-Tools rows name tools that are described in it. Put the data "
                                "set's tool.jsonl beside the file of rows.")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["api_name"]: _seal_tool(row) for row in rows}


def _seal_tool(row: dict) -> dict:
    properties = {name: {"type": _SEAL_TYPES.get(one.get("type"), "string"), "description": one.get("description", "")}
                  for name, one in row["parameters"].items()}
    return {"type": "function", "function": {
        "name": row["api_name"], "description": row["api_description"],
        "parameters": {"type": "object", "properties": properties, "required": row["required"]}}}


def from_seal_tools(row: dict, catalogue: dict[str, dict]) -> dict:
    """Seal-Tools: a query and its calls, without results; so the row ends in its call. Numbers come as text and are
    read as the catalogue's type. Offered beside the called tool: DISTRACTORS others, drawn by the row's id."""
    if len(row["calling"]) != 1:
        raise Unreadable("several calls without results: AgentFabric asks for one at a time")
    (call,) = row["calling"]
    if call["api"] not in catalogue:
        raise Unreadable("a call names a tool that the catalogue does not list")
    rng = random.Random(zlib.crc32(row["id"].encode("utf-8")))
    names = [call["api"], *rng.sample(sorted(catalogue.keys() - {call["api"]}), min(DISTRACTORS, len(catalogue) - 1))]
    rng.shuffle(names)
    schemas = function_of(catalogue[call["api"]])["parameters"]["properties"]
    arguments = {key: _seal_value(value, schemas.get(key, {}).get("type")) for key, value in call["parameters"].items()}
    return {"id": row["id"], "tools": [catalogue[name] for name in names], "messages": [
        {"role": "user", "content": row["query"]}, call_message(call["api"], arguments)]}


def _seal_value(value: object, wanted: str | None) -> object:
    try:
        return _READ[wanted](value) if wanted in _READ and isinstance(value, str) else value
    except ValueError:
        raise Unreadable(f"a value is no {wanted}, as its tool declares") from None
