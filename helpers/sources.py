"""Files of dialogues → canonical rows. Every row is validated at the door; none vanishes.

A file is .jsonl (streamed) or .json (one list), in one of `FORMATS`, recognised by its first row. A row that does not
fit comes back as `Rejected`, with its line, its reason and itself: rows in = canonical rows + rejected rows.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from helpers import dialogues, formats
from helpers.canonical import Unreadable, check

_AGENTFABRIC = re.compile("## 你拥有如下工具|## You have the following tools")
_Id = NotRequired[str | int | None]
_Turn = TypedDict("_Turn", {"from": str, "value": str})


class _MsAgent(TypedDict):
    id: _Id
    conversations: list[_Turn] | str


class _ShareGpt(TypedDict):
    id: _Id
    conversations: list[_Turn]
    tools: NotRequired[str | list | None]
    system: NotRequired[str | None]


class _Message(TypedDict):
    role: str
    content: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]
    tool_call_id: NotRequired[str]


class _Messages(TypedDict):
    id: _Id
    tools: NotRequired[str | list | None]
    messages: list[_Message]
    instruction: NotRequired[str]
    role: NotRequired[str]
    knowledge: NotRequired[str | None]


class _Calling(TypedDict):
    api: str
    parameters: dict[str, Any]


class _SealTools(TypedDict):
    id: str
    query: str
    calling: list[_Calling]


@dataclass(frozen=True)
class Format:
    """A way of writing dialogues: what a raw row must look like, and the reader that makes it canonical."""

    raw: TypeAdapter
    read: Callable[[dict], dict]
    canonical: bool = True  # whether `read` gives canonical rows, which then have to pass `check`


def ms_agent_format(read: Callable[[dict], dict], canonical: bool = True) -> Format:
    """Rows of `conversations`, read by `read`. ModelScope's hub hands those out as text, a Python literal."""
    turns = TypeAdapter(list[_Turn])

    def read_row(row: dict) -> dict:
        if isinstance(row["conversations"], str):
            row = {**row, "conversations": turns.validate_python(dialogues.read_literal(row["conversations"]))}
        return read(row)

    return Format(TypeAdapter(_MsAgent), read_row, canonical)


FORMATS = {
    "ms_agent": ms_agent_format(dialogues.to_canonical),
    "agentfabric": ms_agent_format(formats.from_agentfabric),
    "messages": Format(TypeAdapter(_Messages), formats.from_messages),
    "sharegpt": Format(TypeAdapter(_ShareGpt), formats.from_sharegpt),
    "seal_tools": Format(TypeAdapter(_SealTools), formats.from_seal_tools),
}


@dataclass(frozen=True)
class Rejected:
    """A row set aside: 1-based `line` in the file (in a .json list: the row's number), `id`, `reason`, and the `row`
    itself (its text if it is no JSON)."""

    line: int
    id: str
    reason: str
    row: object


def format_of(row: object) -> str:
    """The name in `FORMATS` that a raw row's keys speak for.

    Raises:
        Unreadable: none does.
    """
    row = row if isinstance(row, dict) else {}
    if "conversations" in row:
        turns = row["conversations"] if isinstance(row["conversations"], list) else []
        speakers = {turn.get("from") for turn in turns if isinstance(turn, dict)}
        if "tools" in row or "system" not in speakers and speakers:
            return "sharegpt"
        return "agentfabric" if _AGENTFABRIC.search(str(row["conversations"])) else "ms_agent"
    if "messages" in row:
        return "messages"
    if "calling" in row:
        return "seal_tools"
    raise Unreadable("no format we know: expected conversations, tools + messages, or query + calling")


def read_rows(path: str | Path, format: str | None = None) -> Iterator[dict | Rejected]:
    """Every row of a .jsonl or .json file as a canonical row, or as `Rejected`. Blank lines are skipped. `format` is a
    name of `FORMATS`; without it, what the first readable row looks like.

    Raises:
        FileNotFoundError: no such file, or Seal-Tools rows without their catalogue.
        ValueError: a .json file that is not one list of rows.
    """
    reader = None
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            reader = reader or format_at(path, format or format_of_lines([line]))
            yield convert_line(number, line, reader)


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The rows of a file as lines of JSON: a .jsonl file as it stands, a .json list row by row.

    Raises:
        ValueError: a .json file that is not one list of rows.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            rows = from_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path} does not hold a list of rows; give a .json list or a .jsonl file")
        yield from map(to_json, rows)
    else:
        with open(path, "rb") as lines:
            yield from lines


def format_of_lines(lines: Iterable[bytes]) -> str | None:
    """The format of the first line that is of any; None where none is."""
    for line in lines:
        try:
            return format_of(from_json(line))
        except ValueError:
            continue
    return None


@lru_cache(maxsize=8)
def format_at(path: str | Path, name: str | None) -> Format | None:
    """The format of that name as it reads this file's rows: Seal-Tools' tools stand in a catalogue beside them."""
    if name == "seal_tools":
        return replace(FORMATS[name], read=partial(formats.from_seal_tools,
                                                   catalogue=formats.seal_catalogue(Path(path).parent)))
    return FORMATS.get(name)


def convert_line(number: int, line: bytes | str, format: Format | None = FORMATS["ms_agent"]) -> dict | Rejected:
    """One line of a file → its canonical row, or `Rejected`."""
    try:
        if format is None:
            format_of(from_json(line))
        row = format.read(format.raw.validate_json(line))
        if format.canonical:
            check(row)
        row["id"] = row["id"] or f"line-{number}"
        return row
    except ValidationError as error:
        reason = _reason(error)
    except (Unreadable, RecursionError) as error:
        reason = str(error)
    except ValueError:
        reason = "line is not JSON"
    raw = _raw(line)
    return Rejected(number, str(raw.get("id") or "") if isinstance(raw, dict) else "", reason, raw)


def _raw(line: bytes | str) -> object:
    """A line's JSON, as far as it is any; else its text."""
    try:
        return from_json(line)
    except ValueError:
        return line if isinstance(line, str) else line.decode("utf-8", "backslashreplace").rstrip("\n")


def _reason(error: ValidationError) -> str:
    """The first thing wrong, without row numbers, so that reasons can be counted."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "line is not JSON"
    place = ".".join(part for part in first["loc"] if isinstance(part, str) and part.isidentifier())
    return f"{place}: {first['msg']}" if place else first["msg"]


def split_rejected(items: Iterable[dict | Rejected]) -> tuple[list[dict], list[Rejected]]:
    """The rows and the rejected of `read_rows`, as two lists."""
    items = list(items)
    return [one for one in items if isinstance(one, dict)], [one for one in items if isinstance(one, Rejected)]
