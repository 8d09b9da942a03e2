"""Metrics on episodes worked by hand; scores of a real run, kept and made in several processes."""

import shutil
from dataclasses import replace

import pytest
from conftest import tool

from helpers import agent, convert, evaluate, profiles, train
from helpers.convert import Turn
from helpers.evaluate import Case

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
    return evaluate.judge(case, transcript_of(replies, case))


def transcript_of(replies, case=CASE):
    replies = iter(replies)
    loop = agent.episode(case.tools, case.query, max_turns=3)
    pair = (loop, evaluate.case_tools(case))
    (transcript,) = agent.run_batch([pair], lambda requests: [next(replies) for _ in requests])
    return transcript


PERFECT = "success called tool_name json5 strict_json full_call clean_stop faithful_answer"
PERFECT += " !hallucinated_tool !hallucinated_argument !missing_argument !repeated_call"
EPISODES = [  # replies → metrics ("!" for False), argument F1
    ([GOOD, "Booked: HB-7, 80 euros."], PERFECT + " !wrote_observation", 1.0),
    (["I booked HB-7 for 80."], "!success !called !tool_name clean_stop", 0.0),
    ([GOOD, "Booked: HB-7."], "!success full_call !faithful_answer", 1.0),
    ([GOOD, "HB-7, 80. I cannot obtain more."], "!success !faithful_answer", 1.0),
    ([GOOD, GOOD, GOOD], "!success !clean_stop repeated_call !faithful_answer", 1.0),
    ([GOOD + "\nObservation: <result>me</result>", "HB-7, 80"], "success wrote_observation", 1.0),
    ([GOOD.replace("2}", "3}"), "HB-7, 80"], "!success !full_call faithful_answer", 0.75),
    ([GOOD.replace("2}", '"2"}'), "HB-7, 80"], "!full_call json5 strict_json", 0.75),
    ([GOOD.replace("Lisbon", " lisbon ").replace("2}", "2.0}"), "HB-7, 80"], "success", 1.0),
    ([GOOD.replace('"', "'"), "HB-7, 80"], "success !strict_json json5", 1.0),
    ([GOOD.replace(', "nights": 2', ""), "HB-7, 80"], "!full_call", pytest.approx(2 / 3)),
    ([GOOD[:33] + '{"nights": 2, "x": 1}', "?"], "missing_argument hallucinated_argument", 0.5),
    ([GOOD[:33] + "Lisbon", "?"], "!json5 !strict_json !hallucinated_tool", 0.0),
    (["Action: no_such\nAction Input: {}", "?"], "hallucinated_tool !tool_name", 0.0),
    ([GOOD, ""], "!success !clean_stop", 1.0),
    ([GOOD, Cut("Booked: HB-7, 80 euros and")], "!success !clean_stop faithful_answer", 1.0),
]


@pytest.mark.parametrize("replies, expected, f1", EPISODES)
def test_metrics_of_episodes_worked_by_hand(replies, expected, f1):
    found = metrics(*replies)
    for name in expected.split():
        assert found[name.lstrip("!")] is (not name.startswith("!")), name
    assert found["argument_f1"] == f1


def test_a_metric_is_none_where_it_does_not_apply():
    assert metrics("I booked HB-7 for 80.")["json5"] is None
    assert metrics(GOOD[:33] + "Lisbon", "?")["missing_argument"] is None
    assert metrics(GOOD, "x")["full_call_no_arguments"] is None
    bare = replace(CASE, calls=(({"name": "other", "arguments": {}}, "HB-7, 80"),))
    assert metrics("Action: other\nAction Input: {}", "x", case=bare)["full_call_no_arguments"]
    for replies, silent in ((["Hello!"], True), ([GOOD, "x"], False), ([""], True)):
        found = metrics(*replies, case=SILENT)
        assert (found["success"], found["no_call"]) == (None, silent)


KINDS = {  # what went wrong → replies
    "success": [GOOD, "HB-7, 80"],
    "no call": ["HB-7, 80"],
    "unreadable": [GOOD[:33] + "Lisbon", "?"],
    "wrong tool": ["Action: other\nAction Input: {}", "?"],
    "wrong arguments": [GOOD.replace("2}", "3}"), "HB-7, 80"],
    "repeats or does not stop": [GOOD, GOOD, GOOD],
    "wrong answer": [GOOD, "HB-7, 81"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_is_counted_as_the_first_thing_that_went_wrong(kind):
    assert evaluate.failure_kind(CASE, transcript_of(KINDS[kind])) == kind


def test_failures_where_no_call_is_due():
    for replies, kind in ((["Hi"], "success"), ([GOOD, "x"], "call not due")):
        assert evaluate.failure_kind(SILENT, transcript_of(replies, SILENT)) == kind
    assert evaluate.failure_kind(CASE, transcript_of(["Action: book_hotel"])) == "unreadable"


def test_the_last_of_several_turns_is_the_question_and_the_earlier_ones_its_history(two_turns):
    case = evaluate.case_of(two_turns)
    (*_, (request, reply)) = convert.requests_of(two_turns)
    loop = agent.episode(case.tools, case.query, history=case.history)
    assert list(next(loop).messages) == request and case.answer == reply
    assert (case.query, case.calls, len(case.history)) == ("Thanks!", [], 2)


def test_right_tool_by_tools_offered_with_its_chance():
    cases = [replace(CASE, id=str(n), tools=[OTHER] * n) for n in (1, 2, 3, 4, 7)] + [SILENT]
    named = [True, True, False, True, False, None]
    episodes = [{"id": c.id, "metrics": {"tool_name": x}} for c, x in zip(cases, named)]
    rows = evaluate.right_tool_by_offered(cases, episodes)
    assert [(row["offered"], row["n"], row["rate"]) for row in rows] == [
        *(("1", 1, 1), ("2", 1, 1), ("3-4", 2, 0.5), ("5-8", 1, 0))
    ]
    assert rows[2]["chance"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert (rows[2]["low"], rows[2]["high"]) == evaluate.wilson(1, 2)


def test_an_interval_that_resamples_tools_is_wider_where_a_tools_cases_agree():
    values, tools = [1, 1, 1, 1, 0, 0, 0, 0] * 5, [n // 4 for n in range(40)]
    low, high = evaluate.clustered_interval(values, tools)
    alone = evaluate.clustered_interval(values, list(range(40)))
    assert 0 < low < alone[0] < 0.5 < alone[1] < high < 1
    assert evaluate.clustered_interval(values, tools) == (low, high), "one seed"
    assert evaluate.clustered_interval([], []) == (0, 1)


def test_facts_are_what_only_the_observation_can_tell():
    result = "{'city': 'Oslo', 'high': 12.5, 'sky': 'hail', 'ok': True, 'x': [{'w': 44}]}"
    turn = Turn("Weather in Oslo?", ((GOLD, result),), "In Oslo hail at 12.5, wind 44.")
    assert evaluate.marked_facts(turn) == ("hail", "12.5", "44")


def test_summary_counts_where_a_metric_applies_and_intervals_are_as_published():
    for k, published in ((1, [1.8, 40.4]), (10, [72.2, 100.0])):
        assert [round(100 * x, 1) for x in evaluate.wilson(k, 10)] == published
    found = [metrics(GOOD, "HB-7, 80"), metrics("no"), metrics("Hi", case=SILENT)]
    summary = evaluate.summarise(found)
    assert (summary["success"]["k"], summary["success"]["n"]) == (1, 2)
    assert summary["argument_f1"] == {"n": 2, "rate": 0.5} and evaluate.summarise([]) == {}


def test_scores_are_kept_and_several_processes_give_the_same(tmp_path, capsys):
    run = train.finetune(SMOKE, root=tmp_path)
    scores = evaluate.score_run(run, SMOKE)
    capsys.readouterr()
    assert [score["step"] for score in scores] == [one.step for one in run.checkpoints]
    kinds, ends = [set(score) - {"step"} for score in scores], {"dev", *evaluate.WHOLE}
    assert kinds == [ends | {*evaluate.BASELINES}, *[{"dev"}] * (len(scores) - 2), ends]
    (run.path / "scores" / "step-000000.bfcl.json").unlink()
    assert evaluate.score_run(run, SMOKE) == scores
    assert f"Scored 1 parts, reused {sum(map(len, kinds)) - 1}." in capsys.readouterr().out
    for score in (scores[0], scores[-1]):
        assert [one["id"] for one in score["episodes"]] == [row["id"] for row in run.cases]
    shutil.rmtree(run.path / "scores")
    assert evaluate.score_run(run, SMOKE, workers=2) == scores
