"""The committed visits of the real RolePlay beside the kit's own loop: every number follows from the transcripts."""

import pytest

from helpers import agreement, profiles, scoring, storage, training_set

FOLDER = agreement.KEPT / "agreement-laptop"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no committed agreement yet")


@pytest.fixture(scope="module")
def lines():
    return storage.read_jsonl(FOLDER / "transcripts.jsonl")


def test_the_cases_are_held_out_and_every_one_was_visited_four_times(lines):
    from dataclasses import replace

    rows = storage.read_jsonl(FOLDER / "cases.jsonl")
    assert len(rows) >= 100 and rows == training_set.prepare_data(replace(profiles.get("laptop"), visits=len(rows)))["cases"]
    assert [(line["model"], line["id"]) for line in lines] == [(name, row["id"]) for name in ("base", "tuned") for row in rows]


def test_both_loops_agree_or_the_record_says_why(lines):
    cases = {row["id"]: scoring.case_of(row) for row in storage.read_jsonl(FOLDER / "cases.jsonl")}
    differ = [line for line in lines if line["real"] != line["ours"]]
    assert len(differ) <= len(lines) // 20
    assert all(line["alone"] == line["real"] for line in differ), "asked one at a time, the loops agree"
    verdicts = [[agreement.judged(line, side, cases)["visit_success"] for line in lines] for side in ("real", "ours")]
    assert sum(one != other for one, other in zip(*verdicts)) <= len(differ)


def test_the_table_counts_what_is_in_the_file(lines):
    shown = agreement.table(FOLDER)
    for name in ("base", "tuned"):
        part = [line for line in lines if line["model"] == name]
        assert shown[name]["cases"] == len(part)
        assert shown[name]["same transcript"] == sum(line["real"] == line["ours"] for line in part)
