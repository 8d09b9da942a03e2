"""The committed record of the laptop run: every number and the figure follow from its raw replies."""

import json
import re

import pytest
from conftest import ROOT

from helpers import curves, evaluate, finetune, manifest, profiles, scoring, tutorial

PROFILE = profiles.get("laptop")
RECORD = finetune.Run(ROOT / "data" / "runs" / "laptop")


@pytest.fixture(scope="module")
def scores():
    return evaluate.kept_scores(RECORD)


def test_the_manifest_says_where_the_numbers_come_from():
    facts = manifest.read(RECORD.path)
    assert facts["profile"]["name"] == "laptop" and facts["profile"]["source"] == "authored"
    assert facts["git"] and facts["versions"]["ms-swift"] == "4.6.0" and set(facts["data_sha256"]) == {"train", "eval", "cases"}
    text = "".join(path.read_text("utf-8") for path in RECORD.path.rglob("*") if path.is_file())
    assert not re.search(r"/(root|home|Users|tmp)/", text), "a path of some machine"


def test_every_verdict_follows_from_the_raw_replies(scores):
    cases = {row["id"]: scoring.case_of(row) for row in finetune.prepare_data(PROFILE)["cases"]}
    for score in scores:
        for visit in score["visits"]:
            transcript = [evaluate.step_of(step) for step in visit["transcript"]]
            assert scoring.judge(cases[visit["id"]], transcript) == visit["judged"], visit["id"]


def test_bfcls_verdicts_follow_from_the_raw_replies(scores):
    from helpers import bfcl

    cases = {case["id"]: case for case in bfcl.load_cases(PROFILE.bfcl_categories, n=PROFILE.bfcl, max_chars=PROFILE.max_chars)}
    for kept in (case for score in scores for case in score["bfcl"]):
        assert evaluate.checked(cases[kept["id"]], kept["reply"])["valid"] == kept["valid"]


def test_the_tuned_model_beats_the_base_with_intervals_that_do_not_overlap(scores):
    frame = curves.score_frame(scores)
    for measure in ("visit_success", "tool_name", "full_call", "bfcl"):
        part = frame[frame.measure == measure].sort_values("step")
        assert part.iloc[0].high < part.iloc[-1].low, measure


def test_the_readmes_table_is_the_records(scores):
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, line in curves.comparison(scores).iterrows():
        if f"| {name} |" in readme:
            for cell in line:
                assert cell in readme, (name, cell)
    assert "visit success" in readme


def test_the_figure_is_redrawn_byte_equal(tmp_path):
    drawn = tutorial.redraw(RECORD, tmp_path)
    assert drawn.read_bytes() == (ROOT / "figures" / "accuracy_by_step.png").read_bytes()


def test_the_record_is_small():
    assert sum(path.stat().st_size for path in RECORD.path.rglob("*") if path.is_file()) < 2_000_000
    assert json.loads((RECORD.path / "manifest.json").read_text("utf-8"))["wall_seconds"] > 0
