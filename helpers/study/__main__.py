"""Make what is missing of a study, print its tables and draw its figures (`make study`)."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from helpers.assets import ROOT, processes
from helpers.study import comparisons, figures, tables
from helpers.study.arms import STUDIES, TRAINED
from helpers.study.run import folder_of, run_study


def main(arguments: list[str] | None = None) -> int:
    """The command line: 1 with a message where a run failed, 130 where it was interrupted."""
    parser = argparse.ArgumentParser("python -m helpers.study", description=__doc__)
    parser.add_argument("--study", default=os.environ.get("KIT_PROFILE", "laptop"))
    parser.add_argument("--arms", nargs="+", default=(), choices=TRAINED)
    parser.add_argument("--seeds", nargs="+", default=(), type=int)
    parser.add_argument("--keep", action="store_true", help="maintainers: copy to data/runs")
    options = parser.parse_args(arguments)
    if options.study not in STUDIES:
        parser.error(f"no study {options.study!r}; choose one of {', '.join(STUDIES)}")
    return processes.command(lambda: make(options), "Interrupted; run it again to go on.", 130)


def make(options: argparse.Namespace) -> None:
    """Make the runs, keep them if asked, and report. Raises KitError as `run_study` does."""
    records = folder_of(options.study)
    run_study(STUDIES[options.study], records, tuple(options.arms), tuple(options.seeds))
    if options.keep:
        shutil.copytree(records, folder_of(options.study, committed=True), dirs_exist_ok=True)
    report(options.study, records, ROOT / "figures" if options.keep else records.parent / "figures")


def report(name: str, records: Path, folder: Path) -> None:
    """Print a study's tables, compare its numbers with the committed ones, and draw its figures."""
    kept = tables.read(records)
    print(tables.final(kept).to_string(), "\n")
    print(comparisons.table(kept).to_string(index=False), "\n")
    committed = folder_of(name, committed=True)
    if committed.exists():
        same = tables.same_numbers(kept, tables.read(committed))
        other = ", ".join(run for run in same if not same[run]) or "none"
        print(f"{len(same)} of these runs are committed too; with other numbers: {other}.")
    for path in figures.draw_all(kept, folder, name):
        print(os.path.relpath(path, ROOT))


if __name__ == "__main__":
    sys.exit(main())
