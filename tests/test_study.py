"""The study: its arms differ in one thing, a killed one ends with the same numbers, and every number follows from raw replies."""

import json
import os
import re
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

from helpers import (
    agentfabric,
    contrasts,
    corpus,
    evaluate,
    finetune,
    scoring,
    storage,
    study,
    study_figures,
    study_tables,
)
from helpers.study_arms import ARMS, BASE, STUDIES, profile_of

LAPTOP = STUDIES["laptop"]
COMMITTED = study.folder_of("laptop", committed=True)
ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])/[A-Za-z]\w*/")


@pytest.fixture(scope="module")
def data():
    return {arm: finetune.prepare_data(profile_of(LAPTOP, arm, 42)) for arm in LAPTOP.arms}


def test_every_arm_has_the_same_cases_and_the_same_number_of_rows(data):
    for arm, rows in data.items():
        assert len(rows["train"]) == LAPTOP.profile.train_rows, arm
        assert rows["cases"] == data["wire"]["cases"], arm
    assert finetune.prepare_data(profile_of(LAPTOP, "wire", 43))["cases"] == data["wire"]["cases"]
    assert finetune.prepare_data(profile_of(LAPTOP, "wire", 43))["train"] != data["wire"]["train"]


def test_no_arm_trains_on_a_held_out_tool_or_question(data):
    names = {agentfabric.function_of(tool)["name"] for row in data["wire"]["cases"] for tool in row["tools"]}
    questions = {turn.query for row in data["wire"]["cases"] for turn in corpus.turns_of(row)}
    for arm, rows in data.items():
        text = json.dumps(rows["train"], ensure_ascii=False)
        assert not [name for name in names if f"{name} API" in text or f"{name}: Call" in text], arm
        assert not [question for question in questions if question in text], arm


def test_the_mixed_arms_hold_what_their_titles_say(data):
    def silent(arm):
        return sum(row["tools"] == corpus.NO_TOOLS for row in data[arm]["train"])

    rows = LAPTOP.profile.train_rows
    assert silent("wire") == 0
    assert (silent("wire_general33"), silent("wire_general67")) == (round(rows / 3), round(rows * 2 / 3))
    recorded = {row["id"] for row in data["trace_addition"]["train"]} - {row["id"] for row in data["trace"]["train"]}
    assert len([one for one in recorded if one.startswith("agentfabric_addition")]) == round(rows * 0.2)
    assert any("小工" in json.dumps(row, ensure_ascii=False) or "the Tool Workshop" in json.dumps(row)
               for row in data["wire_general67"]["train"])


def test_the_ablations_change_one_setting_of_arm_three():
    reference = finetune.recipe_of(profile_of(LAPTOP, "trace", 42))
    for arm in ARMS.values():
        if arm.recipe:
            changed = finetune.recipe_of(profile_of(LAPTOP, arm.name, 42))
            assert {key for key in changed if changed[key] != reference[key]} == set(arm.recipe), arm.name


def test_a_study_killed_at_any_moment_goes_on_and_ends_with_the_same_numbers(tmp_path, capsys):
    def command(place):
        code = ("import sys; from pathlib import Path; from helpers import study; from helpers.study_arms import STUDIES\n"
                "if __name__ == '__main__': study.run_study(STUDIES['smoke'], Path(sys.argv[1]) / 'records', ('wire',), root=sys.argv[1])")
        script = place / "go.py"
        place.mkdir(exist_ok=True)
        script.write_text(code, "utf-8")
        return [sys.executable, str(script), str(place)]

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, env=environment, cwd=ROOT, capture_output=True)
    parent = subprocess.Popen(command(killed), env=environment, cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while time.time() < deadline and not list(killed.glob("*/*/swift/checkpoint-*/trainer_state.json")):
        time.sleep(0.1)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert psutil.wait_procs(family, timeout=30)[1] == [], "nothing goes on without the process that started it"
    assert not list((killed / "records").glob("wire*")) and list(killed.glob("*/*/swift/checkpoint-2"))
    subprocess.run(command(killed), check=True, env=environment, cwd=ROOT, capture_output=True)
    records = [study_tables.read(place / "records") for place in (whole, killed)]
    assert {(one["arm"], one["seed"]) for one in records[0]} == {(BASE, 0), ("wire", 42)}
    assert records[1][1]["manifest"]["resumed_from"] >= 2
    assert study_tables.same_numbers(*records) == (2, 2)
    before = (killed / "records" / "wire-42.json.gz").stat().st_mtime_ns
    study.run_study(STUDIES["smoke"], killed / "records", ("wire",), root=killed)
    assert "1 of 1 runs have a record, 0 to make." in capsys.readouterr().out
    assert (killed / "records" / "wire-42.json.gz").stat().st_mtime_ns == before
    paths = study_figures.draw_all(records[0], tmp_path / "figures", "smoke")
    assert all(path.stat().st_size > 5000 for path in paths) and len(paths) == 4


def test_the_statistics_are_the_textbooks():
    rng = np.random.default_rng(1)
    left, right = (rng.random((3, 40)) < share for share in (0.7, 0.4))
    better, worse = (left & ~right).sum(), (right & ~left).sum()
    assert contrasts.mcnemar(left.astype(float), right.astype(float)) == binomtest(int(better), int(better + worse)).pvalue
    assert contrasts.mcnemar(np.array([0.3, 1.0]), np.array([1.0, 0.0])) is None
    low, high = contrasts.bootstrap(left.astype(float) - right)
    assert low < (left.mean() - right.mean()) < high and high - low < 0.6
    constant = contrasts.bootstrap(np.full((2, 5), 0.25))
    assert constant == (0.25, 0.25)


@pytest.mark.parametrize(("expected", "measure", "low", "high", "verdict"), [
    ("more", "full_call", 0.1, 0.3, "confirmed"), ("more", "full_call", -0.3, -0.1, "refuted"), ("more", "full_call", -0.1, 0.3, "open"),
    ("less", "repeated_call", -0.3, -0.1, "confirmed"), ("less", "repeated_call", 0.1, 0.3, "refuted"),
    ("no worse", "visit_success", -0.05, 0.2, "confirmed"), ("no worse", "visit_success", -0.3, 0.0, "open"),
    ("no worse", "visit_success", -0.4, -0.2, "refuted"), ("no worse", "general_loss", -0.3, 0.05, "confirmed"),
    ("no worse", "general_loss", 0.2, 0.4, "refuted"), ("no worse", "visit_success", 0.0, 0.0, "open"),
    ("more", "clean_stop", 1.0, 1.0, "confirmed")])
def test_a_verdict_needs_an_interval_on_one_side(expected, measure, low, high, verdict):
    assert contrasts.verdict(expected, measure, low, high) == verdict


def test_the_large_study_without_a_gpu_says_so_at_once(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert study.main(["--study", "gpu"]) == 1
    assert "PyTorch sees no GPU here" in capsys.readouterr().err


def test_an_arm_that_would_take_fewer_steps_than_others_is_not_run(tmp_path):
    large = replace(LAPTOP, profile=replace(LAPTOP.profile, train_rows=10_000))
    with pytest.raises(ValueError, match=r"trace: authored gives \d+ training rows of 10000, .* larger source"):
        study.run_arm(large, "trace", 42, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_records_says_what_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="make study"):
        study_tables.read(tmp_path)


@pytest.fixture(scope="module")
def committed():
    if not COMMITTED.exists():
        pytest.skip("no committed study yet")
    return study_tables.read(COMMITTED)


def test_every_committed_verdict_follows_from_the_raw_replies(committed):
    from helpers import bfcl

    cases = {row["id"]: scoring.case_of(row) for row in storage.read_jsonl(COMMITTED / "cases.jsonl")}
    size = LAPTOP.profile
    asked = {case["id"]: case for case in bfcl.load_cases(size.bfcl_categories, n=size.bfcl, max_chars=size.max_chars)}
    assert list(cases) == [row["id"] for row in finetune.prepare_data(size)["cases"]]
    for record in committed:
        assert study_tables.recomputed(record, cases, evaluate.step_of), record["arm"]
        for score in record["scores"]:
            assert all(evaluate.checked(asked[one["id"]], one["reply"])["valid"] == one["valid"] for one in score["bfcl"])
            for first in score.get("native", ()):
                assert scoring.judge_first(cases[first["id"]], first["reply"]).items() <= first.items()


def test_the_readmes_numbers_are_the_studys(committed):
    stops = study_tables.final(committed).loc["clean stop"]
    told = f"clean stop {stops['trace (3 seeds)']} with traces, {stops['wire (3 seeds)']} with these"
    assert told in (ROOT / "README.md").read_text("utf-8").replace("\n", " ")


def test_committed_figures_are_redrawn_byte_equal(committed, tmp_path):
    for path in study_figures.draw_all(committed, tmp_path, "laptop"):
        assert path.read_bytes() == (ROOT / "figures" / path.name).read_bytes(), path.name


def test_committed_records_tell_where_they_come_from_and_no_path(committed):
    assert ABSOLUTE_PATH.search(json.dumps([f"{ROOT}/runs"]))
    for record in committed:
        assert not ABSOLUTE_PATH.search(json.dumps(record, ensure_ascii=False))
        if record["arm"] != BASE:
            facts = record["manifest"]
            assert facts["git"] and facts["profile"]["seed"] == record["seed"] and facts["data_sha256"]["train"]
            assert LAPTOP.profile.max_new_tokens == facts["profile"]["max_new_tokens"]
