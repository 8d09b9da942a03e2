"""Metrics on episodes worked by hand; scores of a real run, kept and made in several processes."""

import shutil

import pytest
from conftest import tool

from helpers import agent, evaluate, profiles, train
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
    replies = iter(replies)
    loop = agent.episode(case.tools, case.query, max_turns=3)
    pair = (loop, evaluate.case_tools(case))
    (transcript,) = agent.run_batch([pair], lambda requests: [next(replies) for _ in requests])
    return evaluate.judge(case, transcript)


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
    for replies, accurate in ((["Hello!"], True), ([GOOD, "x"], False), ([""], False)):
        found = metrics(*replies, case=SILENT)
        assert (found["success"], found["no_tool_accuracy"]) == (None, accurate)


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
    assert [score["step"] for score in scores] == [0, 2]
    (run.path / "scores" / "step-000000.bfcl.json").unlink()
    assert evaluate.score_run(run, SMOKE) == scores
    assert "Scored 1 parts, reused 3." in capsys.readouterr().out
    for score in scores:
        assert [one["id"] for one in score["episodes"]] == [row["id"] for row in run.cases]
    shutil.rmtree(run.path / "scores")
    assert evaluate.score_run(run, SMOKE, workers=2) == scores
