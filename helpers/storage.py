"""Files that are whole or not there: what is being written appears under its name only when it is complete."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def complete_files(paths: dict[str, Path]) -> Iterator[dict[str, BinaryIO]]:
    """Files to write, by the keys of `paths`: they appear under their names, together, when the block ends well; else
    nothing of them is left."""
    partials = {key: path.with_name(f".{path.name}.{os.getpid()}.partial") for key, path in paths.items()}
    try:
        with ExitStack() as stack:
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            yield {key: stack.enter_context(open(partial, "wb")) for key, partial in partials.items()}
        for key, partial in partials.items():
            os.replace(partial, paths[key])
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write rows, one JSON object a line; the file appears under its name only when complete. Returns the count.

    Raises:
        OSError: disk full or folder not writable; a partial temporary file is removed.
    """
    count = 0
    with complete_files({"rows": Path(path)}) as files:
        for row in rows:
            files["rows"].write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> list[dict]:
    """All rows of a .jsonl file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
