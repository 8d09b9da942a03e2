"""One recorded user turn → canonical messages, if it is good enough to train on; else the reason why not."""

import re

from pydantic_core import from_json

from helpers import dialogues, tools
from helpers.agentfabric import (
    STOP_WORDS,
    cut_at_stop,
    function_of,
    parse_arguments,
    read_calls,
    render_observation,
)
from helpers.canonical import Unreadable, call_message

OBSERVATION = re.compile(re.escape(render_observation("\0")).replace("\0", "(.*?)"), re.S)  # a result as it is fed back
_URL = re.compile(r"https?://[^\s\"'<>()\[\]{}，。；、！？（）]+")
_FAILED = re.compile(r"Tool api .* failed to call\. Args: ", re.S)
_CALL_WORDS = re.compile(r"Action(?: Input)?\s*[:：]")


def pairs_of(trace: str) -> tuple[list[tuple[str, str]], str]:
    """A turn as the app keeps it in its history → its (reply, result) pairs and its answer."""
    pairs, at = [], 0
    for found in OBSERVATION.finditer(trace):
        pairs.append((trace[at:found.start()], found[1]))
        at = found.end()
    return pairs, trace[at:]


def messages_of(query: str, pairs: list[tuple[str, str]], answer: str, listed: list[dict]) -> list[dict]:
    """The canonical messages of one user turn.

    Args:
        pairs: (reply that holds a call, result) in order; answer: the last reply.
        listed: the prompt's tools.

    Raises:
        Unreadable: what is not good about it: the first of the rules below that it breaks.
    """
    messages = [{"role": "user", "content": query}]
    for reply, result in pairs:
        messages += [_call(reply, listed), {"role": "tool_response", "content": _checked_result(result)}]
    answer = _checked_reply(answer)
    if read_calls(answer):
        raise Unreadable("the visit ends in a call")
    if _CALL_WORDS.search(answer):
        raise Unreadable("the answer holds a call that the runtime does not see")
    calls = [message["content"] for message in messages if message["role"] == "tool_call"]
    if len(set(calls)) < len(calls):
        raise Unreadable("a call is made twice")
    _check_carried([result for _, result in pairs], query, [*calls, answer])
    return [*messages, {"role": "assistant", "content": answer}]


def _checked_reply(reply: str) -> str:
    """A reply up to the stop word, which some servers leave in it."""
    if reply.removeprefix(cut_at_stop(reply)).strip() not in ("", STOP_WORDS[0]):
        raise Unreadable("the model wrote an observation itself")
    return cut_at_stop(reply)


def _call(reply: str, listed: list[dict]) -> dict:
    calls = read_calls(_checked_reply(reply))
    if len(calls) != 1:
        raise Unreadable("a reply with several calls" if calls else "a result without a call")
    schemas = {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in listed}
    if calls[0].name not in schemas:
        raise Unreadable("a call names a tool that the prompt does not list")
    arguments = _read(calls[0].arguments)
    if not isinstance(arguments, dict):
        raise Unreadable("a call's arguments are not an object")
    try:
        tools.check_arguments(schemas[calls[0].name], arguments)
    except ValueError:
        raise Unreadable("a call's arguments do not fit the tool's schema") from None
    return call_message(calls[0].name, arguments)


def _read(arguments: str) -> object:
    """Arguments as the runtime reads them; plain JSON first, whose numbers json5 rounds."""
    for read in (from_json, parse_arguments):
        try:
            return read(arguments)
        except (ValueError, RecursionError):
            continue
    raise Unreadable("a call's arguments cannot be read")


def _checked_result(result: str) -> str:
    value = _value(result)
    if _FAILED.match(result) or isinstance(value, dict) and "error" in value:
        raise Unreadable("a tool failed")
    return result


def _value(result: str) -> object:
    """A result's value: JSON, else a Python literal, else None."""
    for read in (from_json, dialogues.read_literal):
        try:
            return read(result)
        except ValueError:
            continue
    return None


def _check_carried(results: list[str], query: str, later: list[str]) -> None:
    """Every result is used: its addresses, and at least one value that the question does not give, stand in the answer
    or in a later call. `later` holds the calls, then the answer; what follows result i begins at i + 1."""
    for number, result in enumerate(results, 1):
        after = "\n".join(later[number:])
        if not all(url in after for url in _URL.findall(result)):
            raise Unreadable("the answer leaves out or changes an address from a result")
        value = _value(result)
        new = [one for one in _leaves(result if value is None else value) if one not in query]
        if new and not any(one in after for one in new):
            raise Unreadable("the answer states nothing of a result")


def _leaves(value: object) -> list[str]:
    """The values in a result; of plain text its numbers, for its words may be put differently, and the addresses in
    it."""
    if isinstance(value, str):
        if _URL.search(value):
            return _URL.findall(value)
        return re.findall(r"\d+(?:\.\d+)?", value) if re.search(r"\s|[，。]", value) else [value]
    if isinstance(value, dict | list):
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(one)]
    return [] if isinstance(value, bool) or value is None else [str(value)]
