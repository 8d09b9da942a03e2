"""Read AgentFabric's prompts back: the inverse of `agentfabric.first_request`."""

import json
import re
from functools import lru_cache

from helpers.agentfabric import Unreadable, query_prefix, system_prompt, tools_block

_TOOL = re.compile(
    r"(?s)(.+?): \1 API(?:。|\. )(.*?) (?:输入参数|Parameters): (\{.*?\})"
    r" Format the arguments as a JSON object\.(?:\n\n|$)"
)


def read_system(text: str) -> dict:
    """A system message → the arguments of `system_prompt` that give the same bytes; Unreadable if
    there are none."""
    for language, wording in [("zh", "0.7.2"), ("zh", "0.7.1"), ("en", "0.7.2"), ("en", "0.7.1")]:
        if found := _pattern(language, wording).fullmatch(text):
            parts = {**found.groupdict(), "language": language, "wording": wording}
            parts["tools"] = _read_tools(parts["tools"])
            if system_prompt(**parts) == text:
                return parts
    raise Unreadable("the system message is not AgentFabric's")


@lru_cache
def _pattern(language: str, wording: str) -> re.Pattern:
    """A system message as a pattern: it is written with marks, which become groups."""
    text = system_prompt([], "\1", language, wording=wording, knowledge="\0")
    head, tail = map(re.escape, text.split(tools_block("", "", language, wording)))
    pattern = f"(?:{head})?" + re.escape(tools_block("\2", "\3", language, wording)) + tail
    groups = ("(?P<knowledge>.*?)", "(?P<instruction>.*)", "(?P<tools>.*?)", ".*?")
    for mark, group in zip("\0\1\2\3", groups):
        pattern = pattern.replace(mark, group)
    return re.compile(pattern, re.S)


def _read_tools(lines: str) -> list[dict]:
    """The tools of the prompt's tool lines, as OpenAI function schemas."""
    tools = []
    for name, description, schema in _TOOL.findall(lines):
        function = {"name": name, "description": description}
        try:
            function["parameters"] = json.loads(schema)
        except (ValueError, RecursionError):
            raise Unreadable("a tool's parameters are not JSON") from None
        tools.append({"type": "function", "function": function})
    return tools


def read_query(text: str, prompt: dict) -> tuple[str, str]:
    """(role, query) of a first request's user message; "" where its prefix names no role.
    Unreadable: no such prefix, or uploaded files, for which rows have no room."""
    parts = {"language": prompt["language"], "knowledge": bool(prompt["knowledge"])}
    bare = re.escape(query_prefix(prompt["tools"], **parts))
    named = re.escape(query_prefix(prompt["tools"], role="\0", **parts)).replace("\0", "(.+?)")
    if not (found := re.match(f"{bare}|{named}", text, re.S)):
        raise Unreadable("the user message has no prefix of AgentFabric's")
    query = text[found.end() :]
    if query.startswith(("[上传文件 ", "[Upload file ")):
        raise Unreadable("uploaded files")
    return found[1] or "", query
