"""Run the lessons without a browser: `python notebooks/run.py` (what `make tutorial` calls).

Executed copies go to runs/<profile>/notebooks; the committed notebooks stay as they are. Maintainers
write these with `--in-place`, which first takes over what changed in notebooks/text and then keeps
the run's record under data/runs. What each lesson took is measured and kept in costs.csv.
"""

import argparse
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from helpers import assets, evaluate, plots, profiles, train
from helpers.assets import processes

NOTEBOOKS = assets.ROOT / "notebooks"
RECORDS = assets.ROOT / "data" / "runs"
LESSONS = sorted(path.stem for path in (NOTEBOOKS / "text").glob("[0-9][0-9]_*.py"))
ROAD = [lesson for lesson in LESSONS if lesson < "07"]  # from the data to a tool call
COST = re.compile(r"(?:< 1|\d+) min, \d+\.\d GB")  # how README and lessons quote costs.csv


def from_text(lesson: str) -> nbformat.NotebookNode:
    """The notebook of a lesson's text file; a cell's id follows from its place."""
    notebook = jupytext.read(NOTEBOOKS / "text" / f"{lesson}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def execute(lesson: str, profile: str, timeout: int = 3600) -> tuple[nbformat.NotebookNode, dict]:
    """Run one lesson from a clean kernel, in the notebooks folder, as JupyterLab would.

    Returns the executed notebook without this machine's paths, and what it cost: {"lesson",
    "minutes", "memory_gb": the largest sum of the kernel's and its children's resident memory}.

    Raises:
        CellExecutionError: a cell failed; the message holds the cell and the error.
    """
    notebook, started = from_text(lesson), time.time()
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    patience = 0.5 if sys.stderr.isatty() else 30  # seconds between lines of a log file
    with (
        tqdm(desc=lesson, total=code, unit="cell", leave=False, mininterval=patience) as bar,
        _watched(profile, bar) as peak,
    ):
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": str(NOTEBOOKS)}},
            on_cell_complete=lambda cell, **_: bar.update(cell.cell_type == "code"),
        )
        with open(os.devnull, "w") as quiet:  # the kernel's own messages
            client.execute(env={**os.environ, "KIT_PROFILE": profile}, stderr=quiet)
    cost = {
        "lesson": lesson[:2],
        "minutes": (time.time() - started) / 60,
        "memory_gb": peak[0] / 1e9,
    }
    return without_paths(notebook), cost


@contextmanager
def _watched(profile: str, bar: tqdm) -> Iterator[list[int]]:
    """Watch the memory of this process's children, and show the newest line of a training's log."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(1):
            used = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    used += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], used)
            log = train.Run(assets.ROOT / "runs" / profile).log()[-1:]
            if log and bar.desc.startswith("04"):
                bar.set_postfix_str(f"step {log[0]['global_step/max_steps']}", refresh=False)
                bar.update(0)  # shown when its interval is over

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def without_paths(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Cut this machine's paths, execution times and progress bars out of the outputs."""
    root = re.escape(str(assets.ROOT))

    def clean(node: dict) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                clean(value)
            elif isinstance(value, str) and key != "image/png":
                value = re.sub(rf"{root}/?|{re.escape(str(Path.home()))}/", "", value)
                node[key] = re.sub(r"<ipython-input-\S+>", "<cell>", value)

    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                clean(output)
    return notebook


def run_lessons(lessons: list[str], profile: str, in_place: bool = False) -> None:
    """Run lessons one after the other; each executed notebook is written when it is complete.

    Lessons 04 and 05 are quick where their run exists: then their lines in costs.csv stay.
    """
    folder = NOTEBOOKS if in_place else assets.ROOT / "runs" / profile / "notebooks"
    reused = train.Run(assets.ROOT / "runs" / profile).finished
    for number, lesson in enumerate(lessons, 1):
        try:
            notebook, cost = execute(lesson, profile)
        except CellExecutionError as error:
            cause = f"A cell failed: {error.ename}: {error.evalue}\n\n{str(error)[:1500]}"
            raise assets.KitError(cause) from None
        with assets.whole_file(folder / f"{lesson}.ipynb") as partial:
            nbformat.write(notebook, partial)
        if not (reused and lesson[:2] in ("04", "05")):
            keep_cost((RECORDS if in_place else assets.ROOT / "runs") / profile / "costs.csv", cost)
        spent = f"{60 * cost['minutes']:.0f} s, {cost['memory_gb']:.1f} GB"
        print(f"[{number}/{len(lessons)}] {lesson}: {spent}", flush=True)


def read_costs(path: Path) -> pd.DataFrame:
    """What each lesson took, by lesson: minutes, memory_gb; empty where nothing was measured."""
    if not path.exists():
        return pd.DataFrame(columns=["minutes", "memory_gb"], index=pd.Index([], name="lesson"))
    return pd.read_csv(path, dtype={"lesson": str}).set_index("lesson").astype(float)


def keep_cost(path: Path, cost: dict) -> None:
    """Put one lesson's line into costs.csv."""
    costs = read_costs(path)
    costs.loc[cost["lesson"]] = [round(cost["minutes"], 2), round(cost["memory_gb"], 2)]
    with assets.whole_file(path) as partial:
        costs.sort_index().to_csv(partial)


def cost_text(cost: pd.Series) -> str:
    """A lesson's cost as README and the lesson quote it: "8 min, 4.8 GB"."""
    minutes = "< 1" if cost.minutes < 1 else f"{cost.minutes:.0f}"
    return f"{minutes} min, {cost.memory_gb:.1f} GB"


def quote_costs(costs: pd.DataFrame) -> None:
    """Write the measured costs into README, README.zh-CN and the lessons (text and notebook)."""
    for lesson in LESSONS:
        text = cost_text(costs.loc[lesson[:2]])
        for path in (NOTEBOOKS / "text" / f"{lesson}.py", NOTEBOOKS / f"{lesson}.ipynb"):
            need = re.compile(rf"(You will need:\*\* ){COST.pattern}")
            path.write_text(need.sub(rf"\g<1>{text}", path.read_text("utf-8")), "utf-8")
        for path in (assets.ROOT / "README.md", assets.ROOT / "README.zh-CN.md"):
            line = re.compile(rf"(\(notebooks/{lesson}\.ipynb\).*\| ){COST.pattern}")
            path.write_text(line.sub(rf"\g<1>{text}", path.read_text("utf-8")), "utf-8")


def keep_record(run: train.Run, profile: str) -> None:
    """Copy what the figures and tables of a run follow from to data/runs/<profile>, without weights
    and paths, and redraw the README's figure from there."""
    record = train.Run(RECORDS / profile)
    shutil.rmtree(record.path / "scores", ignore_errors=True)  # no older score beside the new ones
    kept = ["manifest.json", "recipe.yaml", "swift/logging.jsonl"]
    for path in [*(run.path / name for name in kept), *run.path.glob("scores/*.json")]:
        with assets.whole_file(record.path / path.relative_to(run.path)) as partial:
            partial.write_text(path.read_text("utf-8").replace(f"{assets.ROOT}/", ""), "utf-8")
    redraw(record, assets.ROOT / "figures")


def redraw(record: train.Run, folder: Path) -> Path:
    """Accuracy by step from a record under data/runs; equal records give equal bytes."""
    plots.style()
    title = plots.caption(record.manifest())
    figure = plots.accuracy_by_step(record.log(), evaluate.kept_scores(record), title)
    return plots.save(figure, folder / "accuracy_by_step.png")


def report(profile: profiles.Profile) -> None:
    """What the tutorial came to: the table, the figure's path, and a tool call by the tuned model."""
    run = train.finetune(profile)
    scores = evaluate.score_run(run, profile)
    print(f"\n{plots.comparison(scores).to_string()}\n{plots.caption(run.manifest())}")
    print(f"\nAccuracy by step: runs/{profile.name}/accuracy_by_step.png")
    cases = {row["id"]: row for row in run.cases}
    called = [one for one in scores[-1]["episodes"] if one["transcript"][0]["kind"] == "call"]
    if not called:
        print("\nThe tuned model made no tool call.")
        return
    first = called[0]  # the first in the cases' order, whether it succeeds or not
    verdict = "a success" if first["metrics"]["success"] else "not a success"
    print(f"\nThe tuned model's first episode with a call ({first['id']}; {verdict}):")
    print(f"User:        {cases[first['id']]['messages'][0]['content']}")
    for step in first["transcript"]:
        print(step["text"] if step["kind"] == "call" else f"Answer: {step['text']}")
        if step["kind"] == "call":
            print(f"Observation: {step['result']}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a lesson failed, with the cell and its cause."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="lessons by number; 00 to 06 without it")
    parser.add_argument("--in-place", action="store_true", help="maintainers: write notebooks/")
    options = parser.parse_args(arguments)
    return processes.command(lambda: run(options), "Interrupted; the same command goes on.", 130)


def run(options: argparse.Namespace) -> None:
    """What the command line asks for. Raises KitError: no model or GPU, or a cell failed."""
    started, profile = time.time(), profiles.current()
    profiles.check_device(profile)
    folder = assets.model_dir(profile.model)
    print(f"Profile: {profile.name}. Model: {os.path.relpath(folder, assets.ROOT)}.", flush=True)
    wanted = [one for one in LESSONS if one.startswith(tuple(options.lessons))]
    run_lessons(wanted if options.lessons else ROAD, profile.name, options.in_place)
    if not options.lessons:
        report(profile)
    if options.in_place:
        keep_record(train.open_run(profile), profile.name)
        quote_costs(read_costs(RECORDS / profile.name / "costs.csv"))
    print(f"\n{(time.time() - started) / 60:.1f} minutes, profile {profile.name}.")


if __name__ == "__main__":
    sys.exit(main())
