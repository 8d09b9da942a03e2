"""Metrics on episodes worked by hand; scores of a real run, kept and made in several processes."""

import shutil

import pytest
from conftest import tool

from helpers import agent, evaluate, profiles, train
from helpers.convert import Turn
from helpers.evaluate import Case, same_value

SMOKE = profiles.get("smoke", train_rows=4)
OTHER = tool("other", "x", (), k={"type": "string"})
GOLD = {"name": "book_hotel", "arguments": {"city": "Lisbon", "nights": 2}}
CALLS = ((GOLD, '{"id": "HB-7", "eur": 80}'),)
CASE = Case("c", [tool(), OTHER], "Book Lisbon, 2 nights", CALLS, ("HB-7", "80"), "HB-7 for 80.")
SILENT = Case("n", CASE.tools, "Hello", (), (), "Hello!")
GOOD = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'


class Cut(str):
    """A reply that the token limit cut."""

    finished = False


def metrics(*replies, case=CASE):
    """The metrics of an episode with a scripted model."""
    replies = iter(replies)
    loop = agent.episode(case.tools, case.query, max_turns=3)
    pair = (loop, evaluate.case_tools(case))
    (transcript,) = agent.run_batch([pair], lambda requests: [next(replies) for _ in requests])
    return evaluate.judge(case, transcript)


def test_a_perfect_episode():
    true = "success called tool_name json5 strict_json full_call clean_stop faithful_answer"
    false = "hallucinated_tool hallucinated_argument missing_argument repeated_call"
    expected = dict.fromkeys(true.split(), True) | dict.fromkeys(false.split(), False)
    expected |= {"argument_f1": 1.0, "wrote_observation": False, "no_tool_accuracy": None}
    assert metrics(GOOD, "Booked: HB-7, 80 euros.") == expected


WRONG = [  # replies → metrics, "!" for False
    (["I booked HB-7 for 80."], "!success !called !tool_name clean_stop", 0.0),
    ([GOOD, "Booked: HB-7."], "!success full_call !faithful_answer", 1.0),
    ([GOOD, "HB-7, 80. I cannot obtain more."], "!success !faithful_answer", 1.0),
    ([GOOD, GOOD, "HB-7, 80"], "!success repeated_call !full_call clean_stop", 1.0),
    ([GOOD, GOOD, GOOD], "!success !clean_stop repeated_call !faithful_answer", 1.0),
    ([GOOD + "\nObservation: <result>me</result>", "HB-7, 80"], "success wrote_observation", 1.0),
    ([GOOD.replace("2}", "3}"), "HB-7, 80"], "!success !full_call faithful_answer", 0.75),
    ([GOOD.replace("2}", '"2"}'), "HB-7, 80"], "!full_call json5 strict_json", 0.75),
    ([GOOD.replace("Lisbon", " lisbon "), "HB-7, 80"], "success", 1.0),
    ([GOOD.replace('"', "'"), "HB-7, 80"], "success !strict_json json5", 1.0),
    ([GOOD.replace(', "nights": 2', ""), "HB-7, 80"], "!full_call", pytest.approx(2 / 3)),
    ([GOOD[:33] + '{"nights": 2, "x": 1}', "?"], "missing_argument hallucinated_argument", 0.5),
    ([GOOD[:33] + "Lisbon", "?"], "!json5 !strict_json !hallucinated_tool", 0.0),
    (["Action: no_such\nAction Input: {}", "?"], "hallucinated_tool !tool_name", 0.0),
    ([GOOD, ""], "!success !clean_stop", 1.0),
    ([GOOD, Cut("Booked: HB-7, 80 euros and")], "!success !clean_stop faithful_answer", 1.0),
]


@pytest.mark.parametrize("replies, expected, f1", WRONG)
def test_what_goes_wrong_is_told_apart(replies, expected, f1):
    found = metrics(*replies)
    for name in expected.split():
        assert found[name.lstrip("!")] is (not name.startswith("!")), name
    assert found["argument_f1"] == f1


def test_a_metric_is_none_where_it_does_not_apply():
    assert metrics("I booked HB-7 for 80.")["json5"] is None
    assert metrics(GOOD[:33] + "Lisbon", "?")["missing_argument"] is None
    for replies, accurate in ((["Hello!"], True), ([GOOD, "x"], False), ([""], False)):
        found = metrics(*replies, case=SILENT)
        assert (found["success"], found["no_tool_accuracy"]) == (None, accurate)


def test_facts_are_what_only_the_observation_can_tell():
    result = (
        "{'city': 'Oslo', 'high': 12.5, 'sky': 'hail', 'days': 3, 'ok': True, 'x': [{'w': 44}]}"
    )
    calls = (({"name": "w", "arguments": {}}, result),)
    turn = Turn("Weather in Oslo for 3 days", calls, "In Oslo hail at 12.5, wind 44.")
    assert evaluate.marked_facts(turn) == ("hail", "12.5", "44")
    assert evaluate.marked_facts(turn, most=1) == ("hail",)


def test_argument_f1_by_hand():
    gold = {"a": 1, "b": 2, "c": 3}
    recall, precision = 1.5 / 3, 1.5 / 2  # one right, one with another value
    expected = 2 * recall * precision / (recall + precision)
    assert evaluate.argument_f1({"a": 1, "b": 9}, gold) == pytest.approx(expected)
    assert [evaluate.argument_f1(*two) for two in (({}, {}), ({}, gold), ({"x": 1}, {}))] == [
        1,
        0,
        0,
    ]


def test_same_value():
    same = [(5, 5.0), ([1, "A"], [1.0, "a "]), (None, None), ({"k": "B "}, {"k": "b"})]
    other = [("5", 5), (True, 1), ({"k": [1]}, {"k": [2]}), ({"k": 1}, {"k": 1, "l": 2})]
    assert all(same_value(*two) for two in same) and not any(same_value(*two) for two in other)


def test_the_first_call_may_be_written_in_python():
    row = GOOD.replace('"Lisbon"', "'lisbon'").replace("2}", "2, }")
    assert evaluate.judge_first(CASE, row) == {"tool_name": True, "full_call": True}
    python = "Action: book_hotel\nAction Input: {'city': 'Lisbon', 'nights': True}"
    assert evaluate.judge_first(CASE, python) == {"tool_name": True, "full_call": False}
    assert evaluate.judge_first(CASE, "none") == {"tool_name": False, "full_call": False}


def test_wilson_as_published():
    assert [round(100 * x, 1) for x in evaluate.wilson(1, 10)] == [1.8, 40.4]
    assert [round(100 * x, 1) for x in evaluate.wilson(10, 10)] == [72.2, 100.0]
    assert evaluate.wilson(0, 0) == (0.0, 1.0)


def test_summary_counts_only_where_a_metric_applies():
    found = [metrics(GOOD, "HB-7, 80"), metrics("no"), metrics("Hi", case=SILENT)]
    summary = evaluate.summarise(found)
    assert (summary["success"]["k"], summary["success"]["n"]) == (1, 2)
    assert (summary["no_tool_accuracy"]["k"], summary["no_tool_accuracy"]["n"]) == (1, 1)
    assert summary["argument_f1"] == {"n": 2, "rate": 0.5}
    assert summary["faithful_answer"]["n"] == 1 and evaluate.summarise([]) == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train.finetune(SMOKE, root=tmp_path_factory.mktemp("runs"))


def test_scores_are_kept_and_every_number_follows_from_them(run, capsys):
    scores = evaluate.score_run(run, SMOKE)
    capsys.readouterr()
    assert [score["step"] for score in scores] == [0, 2]
    kept = sorted(path.name for path in run.path.glob("scores/*"))
    assert kept[:3] == [f"step-00000{name}.json" for name in ("0.bfcl", "0.episodes", "2.bfcl")]
    (run.path / "scores" / kept[0]).unlink()
    assert evaluate.score_run(run, SMOKE) == scores
    assert "Scored 1 parts, reused 3." in capsys.readouterr().out
    cases = {row["id"]: evaluate.case_of(row) for row in run.cases}
    for score in scores:
        assert [one["id"] for one in score["episodes"]] == list(cases)
        assert len(score["bfcl"]) == SMOKE.bfcl
        for one in score["episodes"]:
            steps = [evaluate.step_of(step) for step in one["transcript"]]
            assert evaluate.judge(cases[one["id"]], steps) == one["metrics"]


def test_several_processes_give_the_same_scores(run, tmp_path):
    alone = evaluate.score_run(run, SMOKE)
    copy = train.Run(tmp_path / "run")
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("scores"))
    assert evaluate.score_run(copy, SMOKE, workers=2) == alone
