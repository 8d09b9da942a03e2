"""The committed record of the laptop run: every number follows from its raw replies."""

import re
from dataclasses import replace

from conftest import ROOT

from helpers import evaluate, plots
from helpers.assets import bfcl
from helpers.profiles import Profile
from helpers.split import prepare_data
from helpers.train import Run

RECORD = Run(ROOT / "data" / "runs" / "laptop")
PROFILE, SCORES = Profile(**RECORD.manifest()["profile"]), evaluate.kept_scores(RECORD)


def test_the_manifest_says_where_the_numbers_come_from():
    facts = RECORD.manifest()
    assert facts["git"] and facts["versions"]["ms-swift"] == "4.6.0" and facts["wall_seconds"] > 0
    text = "".join(path.read_text("utf-8") for path in RECORD.path.rglob("*.*"))
    assert not re.search(r"/(root|home|Users|tmp)/", text), "a path of some machine"


def test_every_verdict_follows_from_the_raw_replies():
    rows = prepare_data(PROFILE)
    cases = {row["id"]: evaluate.case_of(row) for row in rows["cases"]}
    first = {row["id"]: evaluate.case_of(row) for row in rows["dev"]}
    first = {id: replace(case, calls=case.calls[:1]) for id, case in first.items()}
    asked = {one["id"]: one for one in bfcl.load_cases(n=PROFILE.bfcl, max_chars=PROFILE.max_chars)}
    kinds, whole = [set(score) - {"step"} for score in SCORES], {"dev", *evaluate.WHOLE}
    assert kinds == [whole | {*evaluate.BASELINES}, *[{"dev"}] * (len(SCORES) - 2), whole]
    for score in SCORES:
        for kind in set(score) - {"step", "bfcl", "bfcl_grammar"}:
            wanted = first if kind == "dev" else cases
            assert [one["id"] for one in score[kind]] == list(wanted)
            for one in score[kind]:
                steps = [evaluate.step_of(step) for step in one["transcript"]]
                assert evaluate.judge(wanted[one["id"]], steps) == one["metrics"], one["id"]
        for one in score.get("bfcl", []) + score.get("bfcl_grammar", []):
            found = evaluate.checked(asked[one["id"]], one["reply"])
            assert found == {"valid": one["valid"], "error": one["error"]}, one["id"]


def test_the_tuned_model_beats_the_base_with_intervals_that_do_not_overlap():
    frame = plots.score_frame(SCORES)
    for metric in ("called", "tool_name", "clean_stop"):
        part = frame[frame.metric == metric]
        assert part.iloc[0].high < part.iloc[-1].low, metric


def test_the_readmes_table_is_the_records():
    readme, shown = (ROOT / "README.md").read_text("utf-8"), []
    for name, line in plots.comparison(SCORES).iterrows():
        if f"| {name} |" in readme:
            shown.append(name)
            assert f"| {name} | {' | '.join(line)} |" in readme, name
    assert "success rate" in shown
