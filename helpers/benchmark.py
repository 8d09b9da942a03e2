"""How fast is the conversion? `python -m helpers.benchmark [rows …]` compares it with what no reader can avoid.

For each number of authored rows: seconds to `json.loads` and `json.dumps` every line of the file, seconds to convert it
each way (reading, checking, rendering and writing), their ratio, and the peak memory of all processes together. Times
are noisy where other programs run; the ratio, taken in one run, much less so.
"""

import json
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


def bare(path: Path) -> None:
    """The least that reading and writing JSON lines costs with the standard library."""
    with open(path, "rb") as lines:
        for line in lines:
            json.dumps(json.loads(line))


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and the peak memory in MB of this process and its children, while `work` runs."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, _memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return seconds, peak / 1e6


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
    """One line per way of conversion: rows, seconds, seconds of `bare` just before, their ratio, peak memory in MB."""
    path = assets.dataset_file(f"authored:{rows}")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for way in convert.WAYS:
            least, _ = measured(partial(bare, path))
            seconds, memory = measured(partial(convert.convert, str(path), way, Path(folder) / "rows.jsonl"))
            lines.append({"rows": rows, "way": way, "bare s": least, "convert s": seconds, "ratio": seconds / least,
                          "memory MB": memory})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]] or [30_000]
    print(pd.concat([compare(size) for size in sizes]).round(2).to_string(index=False))
