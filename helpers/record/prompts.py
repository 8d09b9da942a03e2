"""Read AgentFabric's prompts back: the inverse of `agentfabric.first_request`.

What is read is rendered again and has to give the same bytes; else it is not AgentFabric's.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from helpers.agentfabric import Unreadable, describe_tool, query_prefix, system_prompt, tools_block

WORDINGS = ("0.7.2", "0.7.1")
_TOOL = re.compile(r"(.+?): \1 API(?:。|\. )(.*?) (?:输入参数|Parameters): (?=\{)", re.S)
_TOOL_END = " Format the arguments as a JSON object."


@dataclass(frozen=True)
class Prompt:
    """The parts of a system message, as `agentfabric.system_prompt` takes them."""

    tools: list[dict]
    instruction: str
    language: str
    wording: str
    knowledge: str | None


def read_system(text: str) -> Prompt:
    """The parts of a system message, in any language and wording. Unreadable: not AgentFabric's."""
    for language in ("zh", "en"):
        for wording in WORDINGS:
            if found := _pattern(language, wording).fullmatch(text):
                tools, knowledge = _read_tools(found["lines"]), found["knowledge"]
                prompt = Prompt(tools, found["instruction"], language, wording, knowledge)
                parts = {"wording": wording, "knowledge": knowledge}
                if system_prompt(tools, prompt.instruction, language, **parts) == text:
                    return prompt
    raise Unreadable("the system message is not AgentFabric's")


@lru_cache
def _pattern(language: str, wording: str) -> re.Pattern:
    """A system message as a pattern: written with marks, which groups then replace."""
    block = tools_block("", "", language, wording)
    text = system_prompt([], "\1", language, wording=wording, knowledge="\0")
    head, tail = map(re.escape, text.split(block))
    block = re.escape(tools_block("\2", "\3", language, wording))
    pattern = f"(?:{head})?{block}{tail}"
    groups = ["(?P<knowledge>.*?)", "(?P<instruction>.*)", "(?P<lines>.*?)", ".*?"]
    for mark, group in zip("\0\1\2\3", groups):
        pattern = pattern.replace(mark, group)
    return re.compile(pattern, re.S)


def _read_tools(lines: str) -> list[dict]:
    """The tools of the prompt's tool lines, as OpenAI function schemas."""
    tools, at = [], 0
    while at < len(lines):
        found = _TOOL.match(lines, at)
        try:
            schema, at = json.JSONDecoder().raw_decode(lines, found.end())
        except (AttributeError, ValueError, RecursionError):
            raise Unreadable("a tool's line cannot be read") from None
        function = {"name": found[1], "description": found[2], "parameters": schema}
        tools.append({"type": "function", "function": function})
        if describe_tool(tools[-1]) != lines[found.start() : at] + _TOOL_END:
            raise Unreadable("a tool's line cannot be read")
        at += len(_TOOL_END) + len("\n\n")
    return tools


def read_query(text: str, prompt: Prompt) -> tuple[str, str]:
    """(role, query) of a first request's user message; "" where the prefix names no role.

    Raises:
        Unreadable: no such prefix, or uploaded files, which rows have no room for.
    """
    parts = {"knowledge": bool(prompt.knowledge)}
    bare = re.escape(query_prefix(prompt.tools, prompt.language, **parts))
    named = re.escape(query_prefix(prompt.tools, prompt.language, role="\0", **parts))
    found = re.match(f"{bare}|{named.replace(chr(0), '(.+?)')}", text, re.S)
    if not found:
        raise Unreadable("the user message has no prefix of AgentFabric's")
    query = text[found.end() :]
    if query.startswith(("[上传文件 ", "[Upload file ")):
        raise Unreadable("uploaded files")
    return found[1] or "", query
