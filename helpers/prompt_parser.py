"""Read AgentFabric's prompts back: the inverse of `agentfabric.first_request`.

What is read is rendered again and has to give the same bytes; a prompt that does not is not AgentFabric's.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from helpers.agentfabric import describe_tool, query_prefix, system_prompt, tools_block
from helpers.canonical import Unreadable

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
    """The parts of a system message, in any language and wording that `agentfabric` writes.

    Raises:
        Unreadable: it is not one of AgentFabric's.
    """
    for language in ("zh", "en"):
        for wording in WORDINGS:
            found = _pattern(language, wording).fullmatch(text)
            if not found:
                continue
            prompt = Prompt(_read_tools(found["lines"]), found["instruction"], language, wording, found["knowledge"])
            again = system_prompt(prompt.tools, prompt.instruction, language, wording=wording,
                                  knowledge=prompt.knowledge)
            if again == text:
                return prompt
    raise Unreadable("the system message is not AgentFabric's")


@lru_cache
def _pattern(language: str, wording: str) -> re.Pattern:
    """The system message as a pattern, made from what `agentfabric` writes for marks in place of the parts."""
    block = tools_block("", "", language, wording)
    head, tail = system_prompt([], "\1", language, wording=wording, knowledge="\0").split(block)
    lines = re.escape(tools_block("\0", "\1", language, wording)).replace("\0", "(?P<lines>.*?)").replace("\1", ".*?")
    knowledge = re.escape(head).replace("\0", "(?P<knowledge>.*?)")
    return re.compile(f"(?:{knowledge})?{lines}{re.escape(tail)}".replace("\1", "(?P<instruction>.*)"), re.S)


def _read_tools(lines: str) -> list[dict]:
    """The tools of the prompt's tool lines, as OpenAI function schemas."""
    tools, at = [], 0
    while at < len(lines):
        found = _TOOL.match(lines, at)
        try:
            schema, at = json.JSONDecoder().raw_decode(lines, found.end())
        except (AttributeError, ValueError, RecursionError):
            raise Unreadable("a tool's line cannot be read") from None
        tools.append({"type": "function", "function": {"name": found[1], "description": found[2],
                                                       "parameters": schema}})
        if describe_tool(tools[-1]) != lines[found.start():at] + _TOOL_END:
            raise Unreadable("a tool's line cannot be read")
        at += len(_TOOL_END) + len("\n\n")
    return tools


def read_query(text: str, prompt: Prompt) -> tuple[str, str]:
    """(role, query) of a first request's user message; the role is empty where the prefix names none.

    Raises:
        Unreadable: no such prefix, or uploaded files, which rows have no room for.
    """
    bare = query_prefix(prompt.tools, prompt.language, knowledge=bool(prompt.knowledge))
    named = query_prefix(prompt.tools, prompt.language, role="\0", knowledge=bool(prompt.knowledge))
    found = re.match(re.escape(bare) + "|" + re.escape(named).replace("\0", "(.+?)"), text, re.S)
    if not found:
        raise Unreadable("the user message has no prefix of AgentFabric's")
    query = text[found.end():]
    if query.startswith(("[上传文件 ", "[Upload file ")):
        raise Unreadable("uploaded files")
    return found[1] or "", query
