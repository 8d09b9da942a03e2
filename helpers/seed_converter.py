"""The seed recipe's regex conversion of an ms_agent system prompt, written anew from its described behaviour, bugs and
all, so that lesson 02 can show what it loses. For real work use `dialogues.parse_tools`.

Each regex is harmless on a tool with one parameter and a one-sentence description, which is what its authors had in
front of them; the ten defects appear on the rest of the data.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from helpers.agentfabric import function_of, tools_block
from helpers.canonical import Unreadable
from helpers.dialogues import parse_tools, render_tools

_NUMBER = re.compile(r"\n\d\.")  # one digit: tools from 10 on are never seen
_NAME = re.compile(r"(\w+): Call this tool")  # the last word of a name with spaces
_DESCRIPTION = re.compile(r"useful for\? (.*?)\.")  # up to the first full stop; other wordings give no match
_PARAMETERS = re.compile(r"\[({.*})")  # greedy, and after `[]` it finds the NEXT tool's list
_FIRST = re.compile(r'"name": "(.*?)", "description": "(.*?)", "required": "(.*)"')  # greedy again


@dataclass(frozen=True)
class SeedTool:
    """What the seed's regex keeps of a tool: at most one parameter, whose `required` may be wrong."""

    name: str
    description: str
    parameter: str
    parameter_description: str
    required: bool


def seed_tools(system: str) -> list[SeedTool]:
    """The tools the seed's regex finds.

    Raises:
        AttributeError: as the seed's script does, where a tool's description or parameters are worded differently.
    """
    tools, position = [], 0
    while head := _NUMBER.search(system, position):
        name = _NAME.search(system, head.end()).group(1)
        line = system[head.end():system.find("\n", head.end())]
        description = _DESCRIPTION.search(line).group(1)
        parameters = _PARAMETERS.search(system, head.end())
        key, text, required = _FIRST.search(parameters.group(1)).groups()
        tools.append(SeedTool(name, description, key, text, required == "True"))
        position = parameters.end()
    return tools


def seed_prompt(system: str) -> str:
    """The system text as the seed's script writes it: Chinese, in the wording of 0.3 to 0.7.1, whatever the dialogue's
    language. Raises AttributeError as `seed_tools` does."""
    tools = seed_tools(system)
    lines = [f"{tool.name}: {tool.name} API。{tool.description} 输入参数: " + '{"type": "object", "properties": {"\\'
             + f'{tool.parameter}": {{"type": "string", "description": "{tool.parameter_description}"}}}}, "required": '
             + json.dumps([tool.parameter] if tool.required else []) + "} Format the arguments as a JSON object."
             for tool in tools]
    quoted = json.dumps([tool.name for tool in tools]).removeprefix("[").removesuffix("]")
    return tools_block("\n\n".join(lines), quoted, "zh", "0.7.1")


def seed_row(row: dict) -> dict:
    """An ms_agent row as the seed's script leaves it: the system turn rewritten, every other turn as it was.

    Raises:
        Unreadable: where the seed's script dies (it takes the whole run with it; here one row is set aside).
    """
    first, *others = row["conversations"]
    system = _alive(seed_prompt, first["value"])
    return {"id": str(row.get("id") or ""), "conversations": [{"from": "system", "value": system}, *others]}


def seed_schemas(tools: list[dict]) -> list[dict]:
    """What the seed's regex leaves of these tools, as schemas: one string parameter each.

    Raises:
        Unreadable: where the seed's script dies.
    """
    kept = _alive(seed_tools, render_tools(tools))
    return [{"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": {
        "type": "object", "properties": {tool.parameter: {"type": "string", "description": tool.parameter_description}},
        "required": [tool.parameter] if tool.required else []}}} for tool in kept]


def _alive(step: Callable, system: str):
    try:
        return step(system)
    except AttributeError:
        raise Unreadable("the seed's script dies: its regex finds no description or parameters") from None


def losses(system: str) -> dict[str, int]:
    """What the seed's conversion of one system prompt loses, counted against the faithful parse."""
    whole = [function_of(tool) for tool in parse_tools(system)]
    counts = {"prompts": 1, "tools": len(whole), "parameters": sum(len(_properties(one)) for one in whole)}
    try:
        kept = {tool.name: tool for tool in seed_tools(system)}
    except AttributeError:
        return {**counts, "prompts the script dies on": 1}
    found = [(one, kept[one["name"]]) for one in whole if one["name"] in kept]
    return {
        **counts,
        "tools gone or renamed": len(whole) - len(found),
        "parameters gone": sum(len(_properties(one)) for one in whole) - len(kept),
        "required flags gone": sum(len(one["parameters"]["required"]) for one in whole)
        - sum(tool.required for tool in kept.values()),
        "types turned to string": sum(schema["type"] != "string" for one, _ in found
                                      for schema in _properties(one).values() if "type" in schema),
        "descriptions cut": sum(one["description"] != tool.description for one, tool in found),
        "keys spoilt by a backslash": len(kept),  # no JSON, or worse: \\number and \\title are read as escapes
    }


def _properties(function: dict) -> dict:
    return function["parameters"]["properties"]
