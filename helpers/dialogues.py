"""ms_agent dialogues ↔ canonical rows: the regex parser, and the way back.

An ms_agent row is `{"id", "conversations": [{"from": "system"|"user"|"assistant", "value"}]}` with its tools written
out in the system text and its calls written out in the assistant text (format: ModelScope data set `iic/ms_agent`).
The canonical row is described in `helpers.canonical`; files are read in `helpers.sources`, which knows this format
among others.
"""

import ast
import json
import re
from functools import lru_cache

import json5
from pydantic_core import from_json

from helpers.agentfabric import function_of, json_text
from helpers.canonical import Unreadable, call_message, calls_of

# Both begin with a literal newline, which a search finds at once; so they are applied to "\n" + text.
_TOOL_HEAD = re.compile(r"\n\s*\d+\. (.+?): Call this tool to interact with the .+? API\. ")
_USEFUL = re.compile(r"What is the .+? API useful for\? ?")
_PARAMETERS = re.compile(r"\s*Parameters: (?=\[)")
_PART = re.compile(r"\n(Thought|Action|Action Input|Observation|Final Answer): ?")
_STRING = re.compile(r"""'([^']*)'|"[^"]*\"""")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_FRAME = (
    "Answer the following questions as best you can. You have access to the following APIs:\n{tools}"
    "Use the following format:\n\nThought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[{names}]\n"
    "Action Input: the input to the action\nObservation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\nFinal Answer: the final answer to the original input question\nBegin!"
)


def parse_tools(system: str, calls: list[dict] | None = None) -> list[dict]:
    """The tools of an ms_agent system prompt, whole: all parameters, types, names with spaces, any number of tools.

    Args:
        calls: `{"name", "arguments"}` objects of the same row. ms_agent writes no types: a parameter gets the type of
            the value that they pass, string where they pass none. Without calls, types stay as they are written.

    Returns OpenAI function schemas, shared between calls: do not change them in place.

    Raises:
        Unreadable: no tool found, or a parameter list that is not JSON.
    """
    _, *parts = _TOOL_HEAD.split(f"\n{system}")
    if not parts:
        raise Unreadable("system prompt lists no tool")
    passed = {call["name"]: tuple((key, _TYPES.get(type(value), "string")) for key, value in call["arguments"].items())
              for call in calls or ()}
    return [_tool_at(name, body, None if calls is None else passed.get(name, ()))
            for name, body in zip(parts[::2], parts[1::2])]


def _tool_at(name: str, body: str, types: tuple | None) -> dict:
    """A tool from the text after its head. Tools recur from prompt to prompt, so the usual case, one paragraph, is
    looked up; a description that holds an empty line needs the whole text up to the next head."""
    try:
        return _parse_tool(name, body.partition("\n\n")[0], types)
    except Unreadable:
        return _parse_tool(name, body, types)


@lru_cache(maxsize=8192)
def _parse_tool(name: str, body: str, types: tuple | None) -> dict:
    """One tool: description, then `Parameters: [JSON]` (nested brackets welcome)."""
    for found in _PARAMETERS.finditer(body):  # the words may also stand in a description: take the one JSON follows
        try:
            listed, _ = json.JSONDecoder().raw_decode(body, found.end())
        except (json.JSONDecodeError, RecursionError):
            continue
        if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in listed):
            continue
        described = _USEFUL.sub("", body[:found.start()]).removesuffix(".").strip()
        return {"type": "function", "function": {"name": name, "description": described,
                                                 "parameters": _schema(listed, types)}}
    raise Unreadable("a tool's parameters are not a JSON list")


def _schema(listed: list[dict], types: tuple | None) -> dict:
    """JSON schema from ms_agent's list of `{name, description, required, …}`, where `required` is "True" or true."""
    passed = dict(types or ())
    properties = {one["name"]: {**({} if types is None else {"type": passed.get(one["name"], "string")}),
                                **{key: value for key, value in one.items() if key not in ("name", "required")}}
                  for one in listed}
    return {"type": "object", "properties": properties,
            "required": [one["name"] for one in listed if str(one.get("required")).lower() == "true"]}


def render_tools(tools: list[dict]) -> str:
    """The system text of an ms_agent row; the inverse of `parse_tools`. "type" stands only where it is not string:
    ms_agent itself writes none."""
    described = []
    for number, function in enumerate(map(function_of, tools), 1):
        schema, name = function["parameters"], function["name"]
        listed = [{"name": key, **{word: value for word, value in one.items() if word != "type"},
                   "required": str(key in schema.get("required", ())),
                   **({"type": one["type"]} if one.get("type", "string") != "string" else {})}
                  for key, one in schema["properties"].items()]
        described.append(f"{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API "
                         f"useful for? {function.get('description', '').rstrip('.。')}. "
                         f"Parameters: {json_text(listed)}\n\n")
    return _FRAME.format(tools="".join(described), names=", ".join(function_of(tool)["name"] for tool in tools))


def parse_reply(text: str) -> list[dict]:
    """An assistant turn of ms_agent → canonical messages (tool_call, tool_response, …, assistant). Thoughts are left
    out: AgentFabric's prompt does not ask for them.

    Raises:
        Unreadable: an Action without input, input that is no object, a missing observation or final answer.
    """
    before, *parts = _PART.split(f"\n{text}")
    if not parts:
        return [{"role": "assistant", "content": _filled(before.strip(), "empty answer")}]
    steps = [(name, value) for name, value in zip(parts[::2], parts[1::2]) if name != "Thought"]
    names, values = [name for name, _ in steps], [value.strip() for _, value in steps]
    messages, at = [], 0
    while names[at:at + 1] == ["Action"]:
        if names[at:at + 3] != ["Action", "Action Input", "Observation"]:
            raise Unreadable("an Action is not followed by Action Input and Observation")
        messages.append(call_message(values[at], parse_input(values[at + 1])))
        messages.append({"role": "tool_response", "content": values[at + 2]})
        at += 3
    if names[at:] != ["Final Answer"]:
        raise Unreadable("assistant turn does not end in one Final Answer")
    messages.append({"role": "assistant", "content": _filled(values[at], "empty answer")})
    return messages


def _filled(text: str, reason: str) -> str:
    if not text:
        raise Unreadable(reason)
    return text


def parse_input(text: str) -> dict:
    """The arguments of an `Action Input`: JSON, else a Python literal (ms_agent's usual form), else json5.

    Raises:
        Unreadable: none of the three, or not an object.
    """
    for read, source in ((from_json, _json_quotes(text)), (read_literal, text), (json5.loads, text)):
        try:
            value = read(source)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise Unreadable("Action Input is not an object")


def _json_quotes(text: str) -> str:
    """Text with JSON's quotes for Python's: most Python literals are JSON but for them, and a JSON reader is a hundred
    times faster. Where no backslash stands, a quote can only open or close a string, or stand in one of the other."""
    return text if "\\" in text else _STRING.sub(_double_quoted, text)


def _double_quoted(string: re.Match) -> str:
    inside = string[1]
    return string[0] if inside is None else '"' + inside.replace('"', '\\"') + '"'


def read_literal(text: str) -> object:
    """A Python literal of values that JSON has.

    Raises:
        Unreadable: it is none, or it holds what JSON lacks: a set, bytes, a complex number.
    """
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Unreadable("text that should be a Python literal is none") from None
    return value


def to_canonical(row: dict) -> dict:
    """One ms_agent row → one canonical row `{"id", "tools", "messages"}`.

    Args:
        row: {"id", "conversations": [{"from", "value"}, …]}, as `helpers.sources` lets it in.

    Raises:
        Unreadable: with the reason; nothing is repaired by guessing.
    """
    turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
    speakers = [speaker for speaker, _ in turns]
    if len(turns) < 3 or speakers != ["system", *["user", "assistant"] * (len(turns) // 2)]:
        raise Unreadable("turns are not system, user, assistant, user, assistant, …")
    messages = []
    for speaker, value in turns[1:]:
        messages += parse_reply(value) if speaker == "assistant" else [
            {"role": "user", "content": _filled(value.strip(), "empty user turn")}]
    tools = parse_tools(turns[0][1], calls_of(messages))
    return {"id": str(row.get("id") or ""), "tools": tools, "messages": messages}


def to_ms_agent(row: dict) -> dict:
    """A canonical row → an ms_agent row: the same tools, calls, observations and answers, with the one thought that
    every ms_agent reply ends in."""
    turns, lines = [("system", render_tools(row["tools"]))], []
    for message in row["messages"]:
        content = message["content"]
        if message["role"] == "user":
            turns.append(("user", content))
        elif message["role"] == "tool_call":
            call = json.loads(content)
            lines += [f"Action: {call['name']}", f"Action Input: {call['arguments']!r}"]
        elif message["role"] == "tool_response":
            lines.append(f"Observation: {content}")
        else:
            turns.append(("assistant", "\n".join([*lines, "Thought: I now know the final answer",
                                                  f"Final Answer: {content}"])))
            lines = []
    return {"id": row["id"], "conversations": [{"from": who, "value": value} for who, value in turns]}
