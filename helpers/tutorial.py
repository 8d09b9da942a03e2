"""Run the lessons headless, one line of progress each: `python -m helpers.tutorial` (what `make tutorial` calls).

Executed copies go to runs/<profile>/notebooks, so the committed notebooks stay as they are; maintainers write them
with `--in-place`, which first takes over what changed in notebooks/text.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from helpers import assets, curves, evaluate, finetune, hardware, manifest, profiles

LESSONS = sorted(path.stem for path in (assets.repo_root() / "notebooks" / "text").glob("[0-9][0-9]_*.py"))
ROAD = [lesson for lesson in LESSONS if lesson < "07"]  # from the data to a tool call; later lessons serve and study


def execute(lesson: str, profile: str, timeout: int = 3600, done: Callable = None) -> nbformat.NotebookNode:
    """Run one lesson from a clean kernel, in the notebooks folder, as JupyterLab would; `done` is called per cell.

    Returns the executed notebook, free of paths of this machine.

    Raises:
        CellExecutionError: a cell failed; the message holds the cell and the error.
    """
    notebook = from_text(lesson)
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", on_cell_complete=done,
                            resources={"metadata": {"path": str(assets.repo_root() / "notebooks")}})
    client.execute(env={**os.environ, "KIT_PROFILE": profile}, stderr=subprocess.DEVNULL)  # the kernel's own chatter
    return without_paths(notebook)


def from_text(lesson: str) -> nbformat.NotebookNode:
    """The notebook of a lesson's text file; cell ids follow from the cells' places, so they do not change by chance."""
    notebook = jupytext.read(assets.repo_root() / "notebooks" / "text" / f"{lesson}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def without_paths(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Cut this machine's paths, execution times and progress bars' chatter out of the outputs."""
    root = re.escape(str(assets.repo_root()))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                _clean(output, root)
    return notebook


def _clean(node: dict, root: str) -> None:
    for key, value in node.items():
        if isinstance(value, dict):
            _clean(value, root)
        elif isinstance(value, str) and key != "image/png":
            value = re.sub(rf"{root}/?|{re.escape(str(Path.home()))}/", "", value)
            node[key] = re.sub(r"<ipython-input-\S+>", "<cell>", value)


def run_lessons(lessons: list[str], profile: str, in_place: bool = False) -> None:
    """Run lessons one after the other with a line of progress each; executed notebooks are written when complete."""
    folder = assets.repo_root() / ("notebooks" if in_place else f"runs/{profile}/notebooks")
    folder.mkdir(parents=True, exist_ok=True)
    for number, lesson in enumerate(lessons, 1):
        started = time.time()
        cells = sum(cell.cell_type == "code" for cell in from_text(lesson).cells)
        with _progress(f"[{number}/{len(lessons)}] {lesson}", cells, profile) as done:
            notebook = execute(lesson, profile, done=done)
        partial = folder / f".{lesson}.partial"
        nbformat.write(notebook, partial)
        os.replace(partial, folder / f"{lesson}.ipynb")
        print(f"[{number}/{len(lessons)}] {lesson} done in {time.time() - started:.0f} s", flush=True)


@contextmanager
def _progress(label: str, cells: int, profile: str) -> Iterator[Callable]:
    """A line that shows the cells done and, for the long ones, the newest sign of life from the profile's runs."""
    stop = threading.Event()
    patience = 0.5 if sys.stderr.isatty() else 30  # seconds between lines in a log file
    with tqdm(desc=label, total=cells, unit="cell", leave=False, mininterval=patience) as bar:
        def tick() -> None:
            while not stop.wait(5):
                bar.set_postfix_str(finetune.sign_of_life(profile))

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield lambda cell, **_: bar.update(cell.cell_type == "code")
        finally:
            stop.set()
            thread.join()


def keep_record(run: finetune.Run, profile: str) -> None:
    """Copy what the figures and tables of a run follow from to data/runs/<profile>, without weights and paths, and
    redraw the README's figure from there."""
    root = assets.repo_root()
    record = finetune.Run(root / "data" / "runs" / profile)
    shutil.rmtree(record.path, ignore_errors=True)  # a shorter run must not leave an older one's scores beside its own
    for path in [run.path / "manifest.json", run.path / "recipe.yaml", run.path / "swift" / "logging.jsonl",
                 *run.path.glob("scores/*.json")]:
        kept = record.path / path.relative_to(run.path)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(path.read_text("utf-8").replace(f"{root}/", ""), "utf-8")
    redraw(record, root / "figures")


def redraw(record: finetune.Run, folder: Path) -> Path:
    """Draw accuracy by step from a record under data/runs; equal records give equal bytes."""
    curves.style()
    facts = manifest.read(record.path)
    title = (f"{facts['profile']['model']}, {facts['profile']['shape']} shape, seed {facts['profile']['seed']}; "
             "synthetic data; bars: 95 % Wilson intervals")
    figure = curves.accuracy_by_step(record.log(), evaluate.kept_scores(record), title)
    return curves.save(figure, folder / "accuracy_by_step.png")


def report(profile: profiles.Profile) -> None:
    """What the tutorial came to: the table, the figure's path, and one successful visit of the tuned model."""
    run = finetune.finetune(profile)
    scores = evaluate.score_run(run, profile)
    print("\n" + curves.comparison(scores).to_string())
    print(f"\nAccuracy by step: {os.path.relpath(run.path / 'accuracy_by_step.png', assets.repo_root())}")
    cases = {row["id"]: row for row in run.cases}
    visits = [visit for visit in scores[-1]["visits"] if visit["transcript"][0]["kind"] == "call"]
    shown = next((visit for visit in visits if visit["judged"]["visit_success"]), visits[0] if visits else None)
    if shown is None:
        print("\nThe tuned model made no tool call.")
        return
    print(f"\nA tool call by the tuned model (case {shown['id']}, tools never trained on)")
    print(f"User:        {cases[shown['id']]['messages'][0]['content']}")
    for step in shown["transcript"]:
        print(step["text"] if step["kind"] == "call" else f"Answer: {step['text']}")
        if step["kind"] == "call":
            print(f"Observation: {step['result']}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a lesson failed, with the cell and the cause instead of a traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="lessons by number or name; 00 to 06 without it")
    parser.add_argument("--in-place", action="store_true", help="write the executed lessons to notebooks/")
    options = parser.parse_args(arguments)
    wanted = [one for one in LESSONS if one.startswith(tuple(options.lessons))] if options.lessons else ROAD
    try:
        profile = profiles.current()
        started = time.time()
        hardware.check_device(profile)
        folder = os.path.relpath(assets.model_dir(profile.model), assets.repo_root())
        environment = os.path.relpath(sys.prefix, assets.repo_root())
        print(f"Environment: {environment}. Model: {folder}. Profile: {profile.name}.")
        run_lessons(wanted, profile.name, options.in_place)
        if not options.lessons:
            report(profile)
        if options.in_place:
            keep_record(finetune.find(profile), profile.name)
        print(f"\n{len(wanted)} lessons in {(time.time() - started) / 60:.1f} minutes, profile {profile.name}.")
    except CellExecutionError as error:
        print(f"\nA cell failed: {error.ename}: {error.evalue}\n\n{str(error)[:1500]}", file=sys.stderr)
        return 1
    except (assets.AssetError, finetune.TrainingError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
