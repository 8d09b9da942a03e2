"""The study: arms differ in one thing, a killed one ends with the same numbers, and every number
follows from raw replies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from conftest import ROOT
from scipy.stats import binomtest

from helpers import agentfabric, assets, convert, evaluate, split, train
from helpers.assets import bfcl
from helpers.study import __main__ as command_line
from helpers.study import comparisons, figures, run, scorers, tables
from helpers.study.arms import ARMS, BASE, BFCL_CATEGORIES, STUDIES, profile_of, rows_of

LAPTOP = STUDIES["laptop"]
COMMITTED = run.folder_of("laptop", committed=True)
ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])/[A-Za-z]\w*/")


@pytest.fixture(scope="module")
def data():
    return {arm: rows_of(LAPTOP, arm, 42) for arm in LAPTOP.arms}


def test_every_arm_has_the_same_cases_and_the_same_number_of_rows(data):
    for arm, rows in data.items():
        assert len(rows["train"]) == LAPTOP.profile.train_rows, arm
        assert rows["cases"] == data["wire"]["cases"], arm
    other = rows_of(LAPTOP, "wire", 43)
    assert other["cases"] == data["wire"]["cases"] and other["train"] != data["wire"]["train"]


def test_no_arm_trains_on_a_held_out_tool_or_question(data):
    cases = data["wire"]["cases"]
    names = {agentfabric.function_of(tool)["name"] for row in cases for tool in row["tools"]}
    questions = {turn.query for row in cases for turn in convert.turns_of(row)}
    for arm, rows in data.items():
        text = json.dumps(rows["train"], ensure_ascii=False)
        called = [one for one in names if f"{one} API" in text or f"{one}: Call" in text]
        assert not called and not [one for one in questions if one in text], arm


def test_the_mixed_arms_hold_what_their_titles_say(data):
    rows = LAPTOP.profile.train_rows
    for arm, share in {"wire": 0, "wire_general33": 1 / 3, "wire_general67": 2 / 3}.items():
        silent = [row for row in data[arm]["train"] if row["tools"] == convert.NO_TOOLS]
        assert len(silent) == round(rows * share), arm
    ids = {arm: {row["id"] for row in data[arm]["train"]} for arm in ("trace", "trace_addition")}
    added = ids["trace_addition"] - ids["trace"]
    assert sum(one.startswith("agentfabric_addition") for one in added) == round(rows * 0.2)
    assert "the Tool Workshop" in json.dumps(data["wire_general67"]["train"])


def test_the_ablations_change_one_setting_of_arm_three():
    reference = train.recipe_of(profile_of(LAPTOP, "trace", 42))
    for arm in ARMS.values():
        if arm.recipe:
            recipe = train.recipe_of(profile_of(LAPTOP, arm.name, 42))
            assert {key for key in recipe if recipe[key] != reference[key]} == set(arm.recipe)


def test_a_study_killed_at_any_moment_goes_on_and_ends_with_the_same_numbers(tmp_path, capsys):
    code = (
        "import sys; from pathlib import Path; from helpers.study import arms, run\n"
        "if __name__ == '__main__': run.run_study(arms.STUDIES['smoke'],"
        " Path(sys.argv[1]) / 'records', ('wire',), root=sys.argv[1])"
    )
    (tmp_path / "go.py").write_text(code, "utf-8")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    silent["env"] = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def command(place):
        return [sys.executable, str(tmp_path / "go.py"), str(place)]

    subprocess.run(command(whole), check=True, **silent)
    (killed / "records").mkdir(parents=True)  # the base model's record, which is not made again
    shutil.copy(whole / "records" / "base-0.json.gz", killed / "records")
    parent = subprocess.Popen(command(killed), start_new_session=True, **silent)
    pattern = "*/*/swift/checkpoint-2/trainer_state.json"
    while parent.poll() is None and not list(killed.glob(pattern)):
        time.sleep(0.1)
    family = psutil.Process(parent.pid).children(recursive=True)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    assert psutil.wait_procs(family, timeout=30)[1] == [], "no training goes on alone"
    assert list(killed.glob(pattern)) and not list((killed / "records").glob("wire*"))
    subprocess.run(command(killed), check=True, **silent)
    records = [tables.read(place / "records") for place in (whole, killed)]
    assert records[1][1]["manifest"]["resumed_from"] >= 2
    assert tables.same_numbers(*records) == {"base-0": True, "wire-42": True}
    run.run_study(STUDIES["smoke"], killed / "records", ("wire",), root=killed)
    assert "1 of 1 runs have a record, 0 to make." in capsys.readouterr().out
    larger = replace(STUDIES["smoke"], profile=replace(STUDIES["smoke"].profile, cases=5))
    assert not run.is_recorded(larger, "wire", 42, killed / "records")
    paths = figures.draw_all(records[0], tmp_path / "figures", "smoke")
    assert all(path.stat().st_size > 5000 for path in paths) and len(paths) == 4


def test_the_statistics_are_the_textbooks():
    rng = np.random.default_rng(1)
    left, right = (rng.random((3, 40)) < share for share in (0.7, 0.4))
    better, worse = int((left & ~right).sum()), int((right & ~left).sum())
    expected = binomtest(better, better + worse).pvalue
    assert comparisons.mcnemar(left.astype(float), right.astype(float)) == expected
    assert comparisons.mcnemar(np.array([0.3]), np.array([1.0])) is None
    low, high = comparisons.bootstrap(left.astype(float) - right)
    assert low < (left.mean() - right.mean()) < high and high - low < 0.6
    assert comparisons.bootstrap(np.full((2, 5), 0.25)) == (0.25, 0.25)


def test_a_comparison_pairs_the_same_cases_and_needs_three_seeds():
    def record(arm, seed, *stops):
        metrics = [{"clean_stop": stop, "tool_name": None} for stop in stops]
        score = {"episodes": [{"id": str(n), "metrics": one} for n, one in enumerate(metrics)]}
        score |= {"step": 1, "bfcl": [], "tokens": [], "answers": [], "identity": []}
        return {"arm": arm, "seed": seed, "scores": [score]}

    records = [record("trace", seed, False, False, False, False) for seed in (1, 2, 3)]
    records += [record("wire", seed, True, True, True, False, None) for seed in (3, 2, 1)]
    found = comparisons.table(records).set_index("claim").loc["wire more than trace"]
    assert (found.cases, found.seeds, found.left, found.right) == (4, 3, 0.75, 0)
    assert found.p == binomtest(9, 9).pvalue and found.low > 0 and found.verdict == "confirmed"
    assert list(comparisons.table(records[1:]).verdict) == ["too few seeds"]
    assert comparisons.table(records[:3]).empty


@pytest.mark.parametrize(
    ("expected", "metric", "low", "high", "verdict"),
    [
        ("more", "full_call", 0.1, 0.3, "confirmed"),
        ("more", "full_call", -0.1, 0.3, "open"),
        ("less", "repeated_call", -0.3, -0.1, "confirmed"),
        ("no worse", "success", -0.05, 0.2, "confirmed"),
        ("no worse", "success", 0.0, 0.0, "open"),
        ("no worse", "general_loss", -0.3, 0.05, "confirmed"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side(expected, metric, low, high, verdict):
    assert comparisons.verdict(expected, metric, low, high) == verdict


def test_what_cannot_be_run_says_so_at_once(monkeypatch, capsys, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command_line.main(["--study", "gpu"]) == 1
    assert "PyTorch sees no GPU here" in capsys.readouterr().err
    large = replace(LAPTOP, profile=replace(LAPTOP.profile, train_rows=10_000))
    with pytest.raises(assets.KitError, match=r"trace: authored gives \d+ training rows of 10000,"):
        run.run_arm(large, "trace", 42, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="make study"):
        tables.read(tmp_path)


@pytest.fixture(scope="module")
def committed():
    return tables.read(COMMITTED)


def test_every_committed_verdict_follows_from_the_raw_replies(committed):
    rows = assets.read_jsonl(COMMITTED / "cases.jsonl")
    cases, size = {row["id"]: evaluate.case_of(row) for row in rows}, LAPTOP.profile
    asked = bfcl.load_cases(BFCL_CATEGORIES, n=size.bfcl, max_chars=size.max_chars)
    asked = {case["id"]: case for case in asked}
    assert rows == split.prepare_data(size)["cases"]
    for record in committed:
        assert tables.recomputed(record, cases), record["arm"]
        for score in record["scores"]:
            for one in score["bfcl"]:
                assert evaluate.checked(asked[one["id"]], one["reply"])["valid"] == one["valid"]
            for one in score.get("native", ()):
                assert scorers.judge_first(cases[one["id"]], one["reply"]).items() <= one.items()


def test_committed_records_are_of_todays_settings_and_say_where_they_come_from(committed):
    assert ABSOLUTE_PATH.search(json.dumps([f"{ROOT}/runs"]))
    for record in committed:
        assert run.is_recorded(LAPTOP, record["arm"], record["seed"], COMMITTED)
        assert set(record["scores"][0]) == {"step", *record["settings"]["scorers"]}
        assert set(record["settings"]["scorers"]) <= set(scorers.SCORERS)
        assert not ABSOLUTE_PATH.search(json.dumps(record, ensure_ascii=False))
        if record["arm"] != BASE:
            facts = record["manifest"]
            assert facts["git"] and facts["data_sha256"]["train"] and facts["number_format"]


def test_the_readmes_numbers_are_the_studys(committed):
    stops = tables.final(committed).loc["clean stop"]
    readme = (ROOT / "README.md").read_text("utf-8").replace("\n", " ")
    assert f"clean stop {stops['trace (3 seeds)']} with traces" in readme
    assert f"{stops['wire (3 seeds)']} with these" in readme


def test_committed_figures_are_redrawn_byte_equal(committed, tmp_path):
    for path in figures.draw_all(committed, tmp_path, "laptop"):
        assert path.read_bytes() == (ROOT / "figures" / path.name).read_bytes(), path.name
