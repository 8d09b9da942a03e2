"""The regex parser of ms_agent's dialogues, and its way back.

An ms_agent row is `{"id", "conversations": [{"from": "system"|"user"|"assistant", "value"}]}`. Its
tools are written out in the system text and its calls in the assistant text (ModelScope's data set
`iic/ms_agent`). `helpers.agentfabric` describes the canonical row; `helpers.data` reads files.
"""

import ast
import json
import re

import json5

from helpers.agentfabric import Unreadable, call_message, calls_of, function_of, json_text

# Both begin with a newline, so they are applied to "\n" + text.
_TOOL_HEAD = re.compile(r"\n\s*\d+\. (.+?): Call this tool to interact with the .+? API\. ")
_PART = re.compile(r"\n(Thought|Action|Action Input|Observation|Final Answer): ?")
_USEFUL = re.compile(r"What is the .+? API useful for\? ?")
_PARAMETERS = re.compile(r"\s*Parameters: (?=\[)")
# A value's type → its name in a JSON schema; all else is a string.
_TYPES = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_TOOL = (
    "{number}. {name}: Call this tool to interact with the {name} API. "
    "What is the {name} API useful for? {description}. Parameters: {parameters}\n\n"
)
_FRAME = """\
Answer the following questions as best you can. You have access to the following APIs:
{tools}Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""


def parse_tools(system: str, calls: list[dict] | None = None) -> list[dict]:
    """The tools of an ms_agent system prompt as OpenAI schemas; Unreadable if there are none. It
    writes no types: with `calls`, the `{"name", "arguments"}` of the same row, a parameter gets the
    type of the value that they pass, string where they pass none."""
    _, *parts = _TOOL_HEAD.split(f"\n{system}")
    if not parts:
        raise Unreadable("system prompt lists no tool")
    passed = {call["name"]: call["arguments"] for call in calls or ()}
    return [
        _parse_tool(name, body, None if calls is None else passed.get(name, {}))
        for name, body in zip(parts[::2], parts[1::2])
    ]


def _parse_tool(name: str, body: str, passed: dict | None) -> dict:
    """One tool from the text after its head: description, then `Parameters: [JSON]`."""
    # The words may also stand in a description: take those that a list of parameters follows.
    for found in _PARAMETERS.finditer(body):
        try:
            listed, _ = json.JSONDecoder().raw_decode(body, found.end())
        except (json.JSONDecodeError, RecursionError):
            continue
        if all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in listed):
            described = _USEFUL.sub("", body[: found.start()]).removesuffix(".").strip()
            schema = _schema(listed, passed)
            function = {"name": name, "description": described, "parameters": schema}
            return {"type": "function", "function": function}
    raise Unreadable("a tool's parameters are not a JSON list")


def _schema(listed: list[dict], passed: dict | None) -> dict:
    """JSON schema from `[{name, description, required, …}]`, where `required` is "True" or true."""
    properties, required = {}, []
    for one in listed:
        name, kind = one["name"], _TYPES.get(type((passed or {}).get(one["name"])), "string")
        written = {key: value for key, value in one.items() if key not in ("name", "required")}
        properties[name] = written if passed is None else {"type": kind} | written
        if str(one.get("required")).lower() == "true":
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def render_tools(tools: list[dict]) -> str:
    """The system text of an ms_agent row; the inverse of `parse_tools`."""
    text, names = "", [function_of(tool)["name"] for tool in tools]
    for number, function in enumerate(map(function_of, tools), 1):
        schema, listed = function["parameters"], []
        for key, one in schema["properties"].items():
            written = {"name": key} | {word: one[word] for word in one if word != "type"}
            written["required"] = str(key in schema.get("required", ()))
            if one.get("type", "string") != "string":  # ms_agent itself writes no types
                written["type"] = one["type"]
            listed.append(written)
        name, described = function["name"], function.get("description", "").rstrip(".。")
        parameters = json_text(listed)
        text += _TOOL.format(number=number, name=name, description=described, parameters=parameters)
    return _FRAME.format(tools=text, names=", ".join(names))


def parse_reply(text: str) -> list[dict]:
    """An assistant turn of ms_agent → canonical messages (tool_call, tool_response, …, assistant).
    Thoughts are left out: AgentFabric does not ask for them. Unreadable if a part is missing."""
    before, *parts = _PART.split(f"\n{text}")
    if not parts:
        return [{"role": "assistant", "content": before.strip()}]
    steps = [
        (name, text.strip()) for name, text in zip(parts[::2], parts[1::2]) if name != "Thought"
    ]
    messages = []
    while steps and steps[0][0] == "Action":
        if [name for name, _ in steps[:3]] != ["Action", "Action Input", "Observation"]:
            raise Unreadable("an Action is not followed by Action Input and Observation")
        (_, tool), (_, arguments), (_, result) = steps[:3]
        messages.append(call_message(tool, parse_input(arguments)))
        messages.append({"role": "tool_response", "content": result})
        steps = steps[3:]
    if [name for name, _ in steps] != ["Final Answer"]:
        raise Unreadable("assistant turn does not end in one Final Answer")
    return [*messages, {"role": "assistant", "content": steps[0][1]}]


def parse_input(text: str) -> dict:
    """The arguments of an `Action Input`: JSON, a Python literal (ms_agent's usual form) or json5.
    Unreadable if it is none of the three, or no object."""
    for read in (json.loads, read_literal, json5.loads):
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise Unreadable("Action Input is not an object")


def read_literal(text: str) -> object:
    """The value of a Python literal. Unreadable if it is none, or holds what JSON lacks: a set."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Unreadable("text that should be a Python literal is none") from None
    return value


def to_canonical(row: dict) -> dict:
    """One ms_agent row → one canonical row, or Unreadable: nothing is repaired by guessing."""
    turns = [(turn["from"], turn["value"]) for turn in row.get("conversations", ())]
    speakers = [speaker for speaker, _ in turns]
    if len(speakers) < 3 or speakers != ["system", *["user", "assistant"] * (len(speakers) // 2)]:
        raise Unreadable("turns are not system, user, assistant, user, assistant, …")
    system, *values = [value for _, value in turns]
    messages = []
    for asked, replied in zip(values[::2], values[1::2]):
        messages.append({"role": "user", "content": asked.strip()})
        messages += parse_reply(replied)
    tools = parse_tools(system, calls_of(messages))
    return {"id": str(row.get("id") or ""), "tools": tools, "messages": messages}


def to_ms_agent(row: dict) -> dict:
    """A canonical row → an ms_agent row with the same tools, calls, observations and answers, and
    the thought that every ms_agent reply ends in."""
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
            lines += ["Thought: I now know the final answer", f"Final Answer: {content}"]
            turns.append(("assistant", "\n".join(lines)))
            lines = []
    conversations = [{"from": who, "value": value} for who, value in turns]
    return {"id": row["id"], "conversations": conversations}
