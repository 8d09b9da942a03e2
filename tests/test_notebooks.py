"""Every lesson runs from a clean kernel in the smoke profile, alone; notebooks and texts agree."""

import importlib.util
import json
import re

import jupytext
import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"
spec = importlib.util.spec_from_file_location("run_lessons", NOTEBOOKS / "run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


def notebook(lesson):
    return nbformat.read(NOTEBOOKS / f"{lesson}.ipynb", as_version=4)


def cells(lesson, kind="code"):
    return [cell for cell in notebook(lesson).cells if cell.cell_type == kind]


def test_the_tutorial_is_the_first_seven_lessons_and_every_lesson_has_its_notebook():
    assert [lesson[:2] for lesson in run.ROAD] == ["00", "01", "02", "03", "04", "05", "06"]
    assert run.ROAD == run.LESSONS[:7]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == run.LESSONS


@pytest.mark.parametrize("lesson", run.LESSONS)
def test_runs_alone_in_smoke(lesson):
    executed, cost = run.execute(lesson, "smoke", timeout=600)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert cost["minutes"] > 0 and 0.05 < cost["memory_gb"] < 16


@pytest.mark.parametrize("lesson", run.LESSONS)
def test_notebook_and_text_are_in_step(lesson):
    text = jupytext.read(NOTEBOOKS / "text" / f"{lesson}.py")
    pairs = [(cell.cell_type, cell.source) for cell in notebook(lesson).cells]
    assert pairs == [(cell.cell_type, cell.source) for cell in text.cells]


@pytest.mark.parametrize("lesson", run.LESSONS)
def test_committed_with_outputs_free_of_paths_and_errors(lesson):
    outputs = [output for cell in cells(lesson) for output in cell.outputs]
    assert len(outputs) >= 5 and all(output.output_type != "error" for output in outputs)
    shown = json.dumps(outputs)
    shown = re.sub(r'"image/png": "[^"]*"', "", shown)
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\\\Users", shown), (
        "some machine's path"
    )
    assert [cell.execution_count for cell in cells(lesson)] == list(
        range(1, len(cells(lesson)) + 1)
    )
    assert "!pip" not in (NOTEBOOKS / f"{lesson}.ipynb").read_text("utf-8")


def test_most_cells_are_short():
    lengths = [len(cell.source.splitlines()) for lesson in run.LESSONS for cell in cells(lesson)]
    assert sorted(lengths)[len(lengths) // 2] <= 7 and max(lengths) <= 25


@pytest.mark.parametrize("lesson", run.LESSONS)
def test_the_frame_of_a_lesson_is_there(lesson):
    prose = "\n".join(cell.source for cell in cells(lesson, "markdown"))
    parts = (
        "You will do",
        "You will learn",
        "You will need",
        "Checkpoint",
        "Exercises",
        "You learned",
    )
    for part in parts:
        assert part in prose, part
    assert len(re.findall(r"\*(?:Easy|Medium|Hard)", prose)) == 3


@pytest.mark.parametrize("lesson", run.LESSONS)
def test_what_a_lesson_costs_is_what_was_measured(lesson):
    costs = run.read_costs(run.RECORDS / "laptop" / "costs.csv")
    text = run.cost_text(costs.loc[lesson[:2]])
    prose = "\n".join(cell.source for cell in cells(lesson, "markdown"))
    assert f"**You will need:** {text}" in prose
    for page in ("README.md", "README.zh-CN.md"):
        (line,) = [
            line
            for line in (ROOT / page).read_text("utf-8").splitlines()
            if f"notebooks/{lesson}.ipynb" in line
        ]
        assert text in line


def test_the_tutorial_command_reports_a_failing_cell_without_a_traceback(monkeypatch, capsys):
    failing = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    monkeypatch.setattr(run, "from_text", lambda lesson: failing)
    monkeypatch.setenv("KIT_PROFILE", "smoke")
    assert run.main(["00"]) == 1
    assert "A cell failed: ZeroDivisionError" in capsys.readouterr().err


def test_paths_are_cut_from_outputs():
    output = nbformat.v4.new_output("stream", text=f"{ROOT}/runs/x and {ROOT}")
    noise = nbformat.v4.new_output("stream", name="stderr", text="noise")
    cell = nbformat.v4.new_code_cell("x", outputs=[output, noise])
    (cleaned,) = run.without_paths(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert cleaned.text == "runs/x and "


def test_the_figure_follows_from_the_record_byte_for_byte(tmp_path):
    record = run.train.Run(run.RECORDS / "laptop")
    one, two = (run.redraw(record, tmp_path / name).read_bytes() for name in "ab")
    assert one == two == (ROOT / "figures" / "accuracy_by_step.png").read_bytes()
