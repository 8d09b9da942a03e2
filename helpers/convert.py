"""A file of dialogues → a file of training rows, in one of three ways, with nothing lost.

    python -m helpers.convert authored:30000 --to wire --out rows.jsonl

Ways: "seed" (bug for bug what the seed recipe's script gives), "faithful" (all that the row holds, the whole trace in
one assistant turn) and "wire" (one row per request that AgentFabric's OpenAI path sends). Beside the rows stand
`rows.rejected.jsonl` (line, id, reason, and the row itself) and `rows.report.json` (counts by reason).
"""

import argparse
import gc
import json
import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pydantic_core import to_json
from tqdm.auto import tqdm

from helpers import assets, canonical, corpus, dialogues, seed_converter, sources, storage

WAYS = {"seed": None, "faithful": "trace", "wire": "wire"}  # the seed's way is no shape: it rewrites text
BATCH = 1000  # lines that one process takes at a time
STARTED = "fork" if sys.platform == "linux" else "spawn"  # where it is safe, a fork saves the imports' half second


@dataclass(frozen=True)
class Report:
    """What became of a file: `rows_in` = `converted` + the sum of `rejected` (reason → rows); `rows_out` training rows
    were written to `out`."""

    source: str
    way: str
    out: str
    rows_in: int
    converted: int
    rows_out: int
    rejected: dict


def convert(source: str, way: str, out: str | Path, *, strict: bool = False, workers: int | None = None) -> Report:
    """Convert every dialogue of a source; files appear under their final names only when complete.

    Args:
        source: a name or path for `assets.dataset_file`, in any format of `sources.FORMATS`.
        way: a key of WAYS.
        out: the .jsonl file of training rows.
        strict: stop at the first row that would be set aside, and write nothing.
        workers: processes; one per core without it.

    Raises:
        assets.AssetError: no such source, or no room for the output.
        ValueError: unknown way; or, if strict, the line that cannot be converted.
    """
    if way not in WAYS:
        raise ValueError(f"no conversion {way!r}; choose one of {', '.join(WAYS)}")
    path, out = assets.dataset_file(source), Path(out)
    names = {"rows": out, "rejected": out.with_suffix(".rejected.jsonl"), "report": out.with_suffix(".report.json")}
    counts, reasons = Counter(), Counter()
    with assets.clear_errors(str(out)), storage.complete_files(names) as files, tqdm(unit="row", delay=2) as bar:
        for converted, rows, rejected in _convert_all(path, way, workers or os.cpu_count() or 1):
            if strict and rejected:
                raise ValueError(f"{path}, line {rejected[0].line}, id {rejected[0].id!r}: {rejected[0].reason}")
            counts.update(converted=converted, rows_out=rows.count(b"\n"), rows_in=converted + len(rejected))
            reasons.update(one.reason for one in rejected)
            bar.update(converted + len(rejected))
            files["rows"].write(rows)
            files["rejected"].writelines(to_json(asdict(one)) + b"\n" for one in rejected)
        report = Report(source, way, str(out), rejected=dict(reasons.most_common()), **{
            key: counts[key] for key in ("rows_in", "converted", "rows_out")})
        assert report.rows_in == report.converted + sum(report.rejected.values())
        files["report"].write(json.dumps(asdict(report), indent=1, ensure_ascii=False).encode("utf-8"))
    return report


def _convert_all(path: Path, way: str, workers: int) -> Iterator[tuple]:
    """`_convert_batch` over a file's batches, in order; at most a few batches are in memory at a time."""
    lines = enumerate(sources.lines_of(path), 1)
    batches = iter(lambda: list(islice(lines, BATCH)), [])
    first = next(batches, [])
    work = partial(_convert_batch, path=path, format=sources.format_of_lines(line for _, line in first), way=way)
    yield work(first)
    with ExitStack() as stack:
        waiting, pool = deque(), None
        for batch in batches:
            pool = pool or stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context(STARTED)))
            waiting.append(pool.submit(work, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def _convert_batch(lines: list[tuple[int, bytes]], path: Path, format: str | None, way: str) -> tuple:
    """Numbered lines → (rows converted, training rows as JSON lines, rejected rows)."""
    rows, rejected, converted = [], [], 0
    reader, render = _reader(path, format, way), _renderer(way, format)
    gc.disable()  # a batch makes many small objects and no cycles: looking for some costs a quarter of the time
    with canonical.unchanging_tools():
        for number, line in lines:
            if line.strip():
                row = sources.convert_line(number, line, reader)
                if isinstance(row, sources.Rejected):
                    rejected.append(row)
                    continue
                try:
                    rows += map(to_json, render(row))
                    converted += 1
                except canonical.Unreadable as error:
                    rejected.append(sources.Rejected(number, row["id"], str(error), row))
    gc.enable()
    return converted, b"".join(row + b"\n" for row in rows), rejected


def _reader(path: Path, format: str | None, way: str) -> sources.Format | None:
    """The format's reader. The seed's script works on ms_agent's own text, so such rows reach it as they are."""
    if way == "seed" and format == "ms_agent":
        return sources.ms_agent_format(seed_converter.seed_row, canonical=False)
    return sources.format_at(path, format)


def _renderer(way: str, format: str | None) -> Callable[[dict], Iterable[dict]]:
    if way != "seed":
        return corpus.SHAPES[WAYS[way]].render
    return lambda row: [row if format == "ms_agent" else seed_converter.seed_row(dialogues.to_ms_agent(row))]


def table(report: Report) -> str:
    """A report as text, a line per reason."""
    lines = [f"{report.rows_in:,} dialogues in, {report.converted:,} converted, "
             f"{report.rows_in - report.converted:,} set aside → {report.rows_out:,} training rows ({report.way})"]
    return "\n".join([*lines, *(f"{count:10,}  {reason}" for reason, count in report.rejected.items())])


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help='"authored", "authored:30000", "modelscope", … or a .jsonl or .json file')
    parser.add_argument("--to", choices=WAYS, default="wire")
    parser.add_argument("--out", required=True, help="the .jsonl file to write")
    parser.add_argument("--strict", action="store_true", help="stop at the first row that would be set aside")
    parser.add_argument("--workers", type=int, help="processes; one per core without it")
    options = parser.parse_args(arguments)
    try:
        report = convert(options.source, options.to, options.out, strict=options.strict, workers=options.workers)
    except (assets.AssetError, ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
