"""Formats of training rows that only the study needs, added to `convert.FORMATS` on import.

- "ms_agent": ms_agent's rows as they are, with their own prompt.
- "original": the same rows after the original recipe's script.
- "trace_original_tools": "trace" with as much of each tool as that script leaves.
"""

from collections.abc import Iterator
from contextlib import suppress

from helpers.agentfabric import Unreadable
from helpers.convert import FORMATS, NO_TOOLS, Format
from helpers.ms_agent import to_ms_agent
from helpers.study.original_script import convert_row, schemas


def _ms_agent(row: dict) -> Iterator[dict]:
    yield _text_row(to_ms_agent(row))


def _original(row: dict) -> Iterator[dict]:
    with suppress(Unreadable):  # the script dies here, and would take the whole file with it
        yield _text_row(convert_row(to_ms_agent(row)))


def _trace_original_tools(row: dict) -> Iterator[dict]:
    with suppress(Unreadable):
        yield from FORMATS["trace"].render({**row, "tools": schemas(row["tools"])})


def _text_row(row: dict) -> dict:
    """A row whose tools stand in its system text: ms-swift adds no prompt of its own."""
    messages = [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]
    return {"id": row["id"], "tools": NO_TOOLS, "messages": messages}


FORMATS["ms_agent"] = Format("react_en", "react", _ms_agent)
FORMATS["original"] = Format("react_en", "react", _original)
FORMATS["trace_original_tools"] = Format("agentfabric", "agentfabric", _trace_original_tools)


def answer_rows(row: dict) -> dict[str, dict]:
    """A dialogue of one user turn up to its answer, twice: its calls and observations stand in the
    "user" turn, as AgentFabric sends them, or in the "assistant" turn, as a trace has them."""
    *_, sent = FORMATS["wire"].render(row)
    (trace,) = FORMATS["trace"].render(row)
    prompt = [one for one in trace["messages"] if one["role"] in ("system", "user")]
    return {"user": sent, "assistant": {**trace, "messages": [*prompt, *row["messages"][1:]]}}
