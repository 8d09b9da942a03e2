"""How fast is the conversion? `python -m helpers.benchmark [rows …]` compares it with what no reader can avoid.

For each number of authored rows: seconds to read the file with `json.loads` and write it with `json.dumps`, line by
line; seconds to convert it each way (reading, checking, rendering and writing), their ratio, and the peak memory of
all processes together. Times are noisy where other programs run: both are measured in turns, and the ratio is that of
their medians.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import psutil

from helpers import assets, convert

ROUNDS = 5


def bare(path: Path, out: Path) -> None:
    """The least that reading and writing a file of JSON lines costs with the standard library."""
    with open(path, encoding="utf-8") as lines, open(out, "w", encoding="utf-8") as copy:
        for line in lines:
            copy.write(json.dumps(json.loads(line), ensure_ascii=False) + "\n")


def seconds(work: Callable[[], object]) -> float:
    """How long `work` runs."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_memory(work: Callable[[], object]) -> float:
    """The peak memory in MB of this process and its children while `work` runs. Watching takes time of its own."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, _memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return peak / 1e6


def _memory() -> int:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def compare(rows: int) -> pd.DataFrame:
    """One line per way of conversion: rows, seconds of `bare` and of the conversion (medians of ROUNDS runs in turns),
    their ratio, peak memory in MB."""
    path = assets.dataset_file(f"authored:{rows}")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for way in convert.WAYS:
            copy = partial(bare, path, Path(folder) / "copy.jsonl")
            work = partial(convert.convert, str(path), way, Path(folder) / "rows.jsonl")
            rounds = [(seconds(copy), seconds(work)) for _ in range(ROUNDS)]
            least, converted = map(statistics.median, zip(*rounds))
            lines.append({"rows": rows, "way": way, "bare s": least, "convert s": converted, "ratio": converted / least,
                          "memory MB": peak_memory(work)})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]] or [30_000]
    print(pd.concat([compare(size) for size in sizes]).round(2).to_string(index=False))
