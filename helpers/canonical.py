"""The canonical row: what every data set is read into, and every training row is rendered from.

A canonical row is `{"id", "tools", "messages"}`: OpenAI function schemas, and messages of the roles user, tool_call
(content: JSON text of `{"name", "arguments"}`), tool_response and assistant, which is also what ms-swift trains on. It
may bring other parts of its prompt along: `instruction` (the role prompt), `role` and `knowledge`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic_core import from_json

from helpers.agentfabric import function_of, json_text, language_of


class Unreadable(ValueError):
    """A row that cannot be converted without loss; its message is the reason, short enough to count by."""


def call_message(name: str, arguments: dict) -> dict:
    """The canonical tool_call message.

    Raises:
        Unreadable: the arguments hold half a surrogate pair, which is no text.
    """
    content = json_text({"name": name, "arguments": arguments})
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise Unreadable("a call's arguments are not Unicode text") from None
    return {"role": "tool_call", "content": content}


def calls_of(messages: list[dict]) -> list[dict]:
    """The `{"name", "arguments"}` objects of a row's tool_call messages, in order."""
    return [from_json(message["content"]) for message in messages if message["role"] == "tool_call"]


def check(row: dict) -> None:
    """What holds for every canonical row: turns in order, and calls that their tools allow.

    user, then any number of tool_call + tool_response, then assistant; and again. Only the last turn may end in a
    call, where a data set gives no results.

    Raises:
        Unreadable: the first rule that the row breaks.
    """
    follows = {"user": ("tool_call", "assistant"), "tool_call": ("tool_response",), "assistant": ("user",),
               "tool_response": ("tool_call", "assistant")}
    expected = ("user",)
    for message in row["messages"]:
        if message["role"] not in expected:
            raise Unreadable(f"a turn of {message['role']} where {' or '.join(expected)} should follow")
        if not message["content"].strip() and message["role"] != "tool_response":
            raise Unreadable(f"an empty turn of {message['role']}")
        expected = follows[message["role"]]
    if not row["messages"] or row["messages"][-1]["role"] not in ("assistant", "tool_call"):
        raise Unreadable("the last turn has no reply")
    _check_calls(row["tools"], calls_of(row["messages"]))


def _check_calls(tools: list[dict], calls: list[dict]) -> None:
    listed = {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in tools} if calls else {}
    for call in calls:
        if call["name"] not in listed:
            raise Unreadable("a call names a tool that the prompt does not list")
        if not set(listed[call["name"]]["required"]) <= set(call["arguments"]):
            raise Unreadable("a call leaves out a required argument")
        if not set(call["arguments"]) <= set(listed[call["name"]]["properties"]):
            raise Unreadable("a call passes an argument that the tool does not have")


def row_language(row: dict) -> str:
    """The language of a canonical row, by its last user turn: "zh" or "en"."""
    return language_of([message["content"] for message in row["messages"] if message["role"] == "user"][-1])


_tool_texts: dict[int, tuple[str, dict]] | None = None


@contextmanager
def unchanging_tools() -> Iterator[None]:
    """Within the block no tool schema is changed: each is written as JSON once, which saves a fifth of the time."""
    global _tool_texts
    _tool_texts = {}
    try:
        yield
    finally:
        _tool_texts = None


def tools_text(tools: list[dict]) -> str:
    """Tool schemas as JSON text."""
    if _tool_texts is None:
        return json_text(tools)
    return f"[{', '.join(map(_tool_text, tools))}]"


def _tool_text(tool: dict) -> str:
    if id(tool) not in _tool_texts:
        _tool_texts[id(tool)] = json_text(tool), tool  # the tool is kept, so that its id stays its own
    return _tool_texts[id(tool)][0]
