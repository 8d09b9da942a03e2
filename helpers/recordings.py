"""Recorded visits → training rows: group the requests, keep what is good, say why the rest is not.

    python -m helpers.recordings recordings.jsonl --out rows.jsonl

Input: lines of `helpers.recorder`. Output: canonical rows (`helpers.canonical`) with instruction, role and knowledge,
one for each conversation; beside them `rows.rejected.jsonl`, the conversations set aside with line numbers and reason.
Words that a model writes before a call ("工具调用", "Thought: …") have no place in a canonical row and are left out.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_json

from helpers import assets, corpus, storage
from helpers.canonical import Unreadable, check
from helpers.prompt_parser import Prompt, read_query, read_system
from helpers.recorded_turns import messages_of, pairs_of
from helpers.recorded_visits import SetAside, Visit, visits_in


def rows_of(lines: Iterable[str | bytes]) -> tuple[list[tuple[tuple[int, ...], dict]], list[SetAside]]:
    """Recordings → (line numbers, canonical row without id) for each good conversation, and what was set aside.

    A conversation of several turns is one row: a visit's history holds the turns before it. Every recording is in a
    row's lines or in those of one `SetAside`.
    """
    visits, aside = visits_in(lines)
    heard: dict[bytes, list[Visit]] = {}  # a conversation so far → the visits that it ended with
    for visit in visits:
        query = ""
        try:
            prompt = read_system(visit.messages[0]["content"])
            role, query = read_query(visit.messages[-1]["content"], prompt)
            visit.before = _before(visit, prompt, heard.get(to_json(visit.messages[1:-1]), ()))
            if visit.before and not visit.before.row:
                raise Unreadable("an earlier turn was set aside")
            visit.row = _row(visit, prompt, role, query)
        except Unreadable as problem:
            aside.append(SetAside(tuple(visit.lines), str(problem), visit.recording))
        turn = [{"role": "user", "content": query}, {"role": "assistant", "content": visit.trace}]
        heard.setdefault(to_json([*visit.messages[1:-1], *turn]), []).append(visit)
    continued = {visit.before for visit in visits if visit.row}
    rows: dict[bytes, tuple] = {}
    for visit in visits:
        if visit.row and visit not in continued:
            row = visit.all_lines, visit.row
            if rows.setdefault(to_json(visit.row), row) is not row:
                aside.append(SetAside(visit.all_lines, "the same conversation again", visit.recording))
    return list(rows.values()), aside


def _before(visit: Visit, prompt: Prompt, candidates: Sequence[Visit]) -> Visit | None:
    """The visit of the turn before. Its prompt is the same; or, as the first Chinese words turn an English prompt into
    a Chinese one, at least its tools are."""
    for one in reversed(candidates):
        if one.messages[0] == visit.messages[0]:
            return one
    return next((one for one in reversed(candidates) if read_system(one.messages[0]["content"]).tools == prompt.tools),
                None)


def _row(visit: Visit, prompt: Prompt, role: str, query: str) -> dict:
    """A visit with the turns of its history as a canonical row.

    Raises:
        Unreadable: what is wrong with it.
    """
    history = visit.messages[1:-1]
    if [message["role"] for message in history] != ["user", "assistant"] * (len(history) // 2):
        raise Unreadable("the history is not user, assistant, user, …")
    if visit.reason != "stop":
        raise Unreadable("a reply was cut off")
    texts = [message["content"] for message in history]
    turns = [(asked, *pairs_of(trace)) for asked, trace in zip(texts[::2], texts[1::2])]
    messages = [message for turn in [*turns, (query, visit.pairs, visit.reply)]
                for message in messages_of(*turn, prompt.tools)]
    parts = {"instruction": prompt.instruction, "role": role, "knowledge": prompt.knowledge}
    row = {"tools": prompt.tools, "messages": messages, **{key: value for key, value in parts.items() if value}}
    check(row)
    return row


def convert(recordings: str | Path, out: str | Path, source: str = "recorded") -> dict:
    """Recordings → a file of canonical rows, and one of what was set aside; both appear when complete.

    Args:
        source: what made the replies; each row says so.

    Returns the counts: recordings, rows, user turns in them, set aside by reason.

    Raises:
        assets.AssetError: no room for the output.
        FileNotFoundError: no such recordings.
    """
    out = Path(out)
    with open(recordings, "rb") as file:
        lines = list(file)
    made, aside = rows_of(lines)
    rows = [{"id": f"{out.stem}-{number:04d}", **row, "source": source} for number, (_, row) in enumerate(made, 1)]
    covered = {line for used, _ in made for line in used} | {line for one in aside for line in one.lines}
    numbers = {number for number, line in enumerate(lines, 1) if line.strip()}
    assert covered == numbers, "a recording is neither in a row nor set aside"
    with (assets.clear_errors(str(out)),
          storage.complete_files({"rows": out, "rejected": out.with_suffix(".rejected.jsonl")}) as files):
        files["rows"].writelines(to_json(row) + b"\n" for row in rows)
        files["rejected"].writelines(to_json(asdict(one)) + b"\n" for one in aside)
    turns = sum(len(corpus.turns_of(row)) for row in rows)
    return {"recordings": len(numbers), "rows": len(rows), "turns": turns,
            "set_aside": dict(Counter(one.reason for one in aside).most_common())}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", help="the recorder's .jsonl file")
    parser.add_argument("--out", required=True, help="the .jsonl file of canonical rows")
    parser.add_argument("--source", default="recorded", help="what made the replies, for each row's `source`")
    options = parser.parse_args(arguments)
    try:
        report = convert(options.recordings, options.out, options.source)
    except (assets.AssetError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{report['recordings']:,} recordings → {report['rows']:,} rows with {report['turns']:,} user turns; "
          f"{sum(report['set_aside'].values()):,} set aside", *(
              f"{count:10,}  {reason}" for reason, count in report["set_aside"].items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
