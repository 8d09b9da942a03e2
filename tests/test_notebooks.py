"""Every lesson runs from a clean kernel in the smoke profile, alone; notebooks and their texts are in step."""

import json
import re

import jupytext
import nbformat
import pytest
from conftest import ROOT

from helpers import tutorial

NOTEBOOKS = ROOT / "notebooks"


def cells(lesson, kind="code"):
    return [cell for cell in nbformat.read(NOTEBOOKS / f"{lesson}.ipynb", as_version=4).cells if cell.cell_type == kind]


def test_the_tutorial_is_the_first_seven_lessons_and_every_lesson_has_its_notebook():
    assert [lesson[:2] for lesson in tutorial.ROAD] == ["00", "01", "02", "03", "04", "05", "06"]
    assert tutorial.ROAD == tutorial.LESSONS[:7]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == tutorial.LESSONS


@pytest.mark.parametrize("lesson", tutorial.LESSONS)
def test_runs_alone_in_smoke(lesson):
    executed = tutorial.execute(lesson, "smoke", timeout=600)
    assert not [output for cell in executed.cells for output in cell.get("outputs", []) if output.output_type == "error"]


@pytest.mark.parametrize("lesson", tutorial.LESSONS)
def test_notebook_and_text_are_in_step(lesson):
    text = jupytext.read(NOTEBOOKS / "text" / f"{lesson}.py")
    notebook = nbformat.read(NOTEBOOKS / f"{lesson}.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(c.cell_type, c.source) for c in text.cells]


@pytest.mark.parametrize("lesson", tutorial.LESSONS)
def test_committed_with_outputs_free_of_paths_and_errors(lesson):
    source = (NOTEBOOKS / f"{lesson}.ipynb").read_text("utf-8")
    outputs = [output for cell in cells(lesson) for output in cell.outputs]
    assert len(outputs) >= 5 and all(output.output_type != "error" for output in outputs)
    shown = json.dumps([{key: value for key, value in output.items() if key != "data"} | {
        "data": {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}}
        for output in outputs])
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\\\Users", shown), "a path of some machine"
    assert all(cell.execution_count == number for number, cell in enumerate(cells(lesson), 1)), "run top to bottom"
    assert "!pip" not in source


@pytest.mark.parametrize("lesson", tutorial.LESSONS)
def test_cells_are_short_and_the_frame_is_there(lesson):
    lengths = sorted(len(cell.source.splitlines()) for cell in cells(lesson))
    assert lengths[-1] <= 25 and lengths[len(lengths) // 2] <= 9
    prose = "\n".join(cell.source for cell in cells(lesson, "markdown"))
    for part in ("You will do", "You will learn", "You will need", "Checkpoint", "Exercises", "You learned"):
        assert part in prose, part
    assert len(re.findall(r"\*(?:Easy|Medium|Hard)", prose)) == 3


def test_the_tutorial_command_reports_a_failing_cell_without_a_traceback(monkeypatch, capsys):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    monkeypatch.setattr(tutorial, "from_text", lambda lesson: notebook)
    monkeypatch.setenv("KIT_PROFILE", "smoke")
    assert tutorial.main(["00"]) == 1
    assert "A cell failed: ZeroDivisionError" in capsys.readouterr().err


def test_paths_are_cut_from_outputs():
    output = nbformat.v4.new_output("stream", text=f"{ROOT}/runs/x and {ROOT}")
    cell = nbformat.v4.new_code_cell("x", outputs=[output, nbformat.v4.new_output("stream", name="stderr", text="noise")])
    (cleaned,) = tutorial.without_paths(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert cleaned.text == "runs/x and "
