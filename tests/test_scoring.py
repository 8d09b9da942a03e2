"""Metrics on hand-worked cases."""

import pytest
from conftest import tool

from helpers import agent, scoring
from helpers.corpus import Turn

CASE = scoring.Case("c", [tool(), tool("other", "x", (), k={"type": "string"})], "Book Lisbon, 2 nights",
                    (({"name": "book_hotel", "arguments": {"city": "Lisbon", "nights": 2}}, '{"id": "HB-7", "eur": 80}'),),
                    ("HB-7", "80"), "HB-7 for 80.")
SILENT = scoring.Case("n", CASE.tools, "Hello", (), (), "Hello!")
GOOD = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'


def judged(*replies, case=CASE):
    replies = iter(replies)  # a scripted model, not a real one
    loop = agent.visit(case.tools, case.query, max_turns=3)
    (transcript,) = agent.run_batch([(loop, scoring.case_tools(case))], lambda requests: [next(replies) for _ in requests])
    return scoring.judge(case, transcript)


def test_a_perfect_visit():
    result = judged(GOOD, "Booked: HB-7, 80 euros.")
    assert result == {
        "visit_success": True, "called": True, "tool_name": True, "argument_f1": 1.0, "json5": True, "strict_json": True,
        "hallucinated_tool": False, "hallucinated_argument": False, "missing_argument": False, "full_call": True,
        "clean_stop": True, "repeated_call": False, "wrote_observation": False, "faithful_answer": True,
        "no_tool_accuracy": None}


@pytest.mark.parametrize(("replies", "expected"), [
    (["I booked HB-7 for 80."], {"visit_success": False, "called": False, "tool_name": False, "argument_f1": 0.0,
                                 "json5": None, "faithful_answer": None, "clean_stop": True}),
    ([GOOD, "Booked: HB-7."], {"visit_success": False, "full_call": True, "faithful_answer": False}),
    ([GOOD, "HB-7, 80. I cannot obtain more."], {"visit_success": False, "faithful_answer": False}),
    ([GOOD, GOOD, "HB-7, 80"], {"visit_success": False, "repeated_call": True, "full_call": False, "clean_stop": True}),
    ([GOOD, GOOD, GOOD], {"visit_success": False, "clean_stop": False, "repeated_call": True, "faithful_answer": False}),
    ([GOOD + "\nObservation: <result>made up</result>", "HB-7, 80"], {"visit_success": True, "wrote_observation": True}),
    ([GOOD.replace("2}", "3}"), "HB-7, 80"], {"visit_success": False, "full_call": False, "argument_f1": 0.75,
                                              "faithful_answer": True}),
    ([GOOD.replace(': 2}', ': "2"}'), "HB-7, 80"], {"full_call": False, "argument_f1": 0.75}),
    ([GOOD.replace("Lisbon", " lisbon "), "HB-7, 80"], {"visit_success": True}),
    ([GOOD.replace('"', "'"), "HB-7, 80"], {"visit_success": True, "strict_json": False, "json5": True}),
    ([GOOD.replace(', "nights": 2', ""), "HB-7, 80"], {"full_call": False, "argument_f1": pytest.approx(2 / 3)}),
    (['Action: book_hotel\nAction Input: {"nights": 2, "x": 1}', "?"], {"missing_argument": True, "hallucinated_argument": True,
                                                                       "argument_f1": 0.5}),
    (["Action: book_hotel\nAction Input: Lisbon", "?"], {"json5": False, "missing_argument": None, "argument_f1": 0.0}),
    (["Action: no_such\nAction Input: {}", "?"], {"hallucinated_tool": True, "tool_name": False}),
    ([GOOD, ""], {"visit_success": False, "clean_stop": False}),
])
def test_what_goes_wrong_is_told_apart(replies, expected):
    result = judged(*replies)
    assert {key: result[key] for key in expected} == expected


def test_no_tool_cases_are_judged_by_silence_and_a_stop_and_never_count_as_visits():
    assert judged("Hello!", case=SILENT)["no_tool_accuracy"] is True
    assert judged(GOOD, "x", case=SILENT)["no_tool_accuracy"] is False
    assert judged("", case=SILENT)["no_tool_accuracy"] is False
    assert judged("Hello!", case=SILENT)["visit_success"] is None


def test_a_reply_cut_at_the_token_limit_is_no_stop():
    class Cut(str):
        finished = False

    assert judged(GOOD, Cut("Booked: HB-7, 80 euros and"))["clean_stop"] is False


def test_facts_are_what_only_the_observation_can_tell():
    turn = Turn("Weather in Oslo for 3 days", (({"name": "w", "arguments": {}},
                "{'city': 'Oslo', 'high': 12.5, 'sky': 'hail', 'days': 3, 'ok': True, 'more': [{'wind': 44}]}"),),
                "In Oslo hail at 12.5, wind 44.")
    assert scoring.marked_facts(turn) == ("hail", "12.5", "44")
    assert scoring.marked_facts(turn, most=1) == ("hail",)


def test_argument_f1_by_hand():
    gold = {"a": 1, "b": 2, "c": 3}
    assert scoring.argument_f1({"a": 1, "b": 9}, gold) == pytest.approx(2 * 1.5 / 5)  # FM 1, HM 1
    recall, precision = 1.5 / 3, 1.5 / 2
    assert scoring.argument_f1({"a": 1, "b": 9}, gold) == pytest.approx(2 * recall * precision / (recall + precision))
    assert (scoring.argument_f1({}, {}), scoring.argument_f1({}, gold), scoring.argument_f1({"x": 1}, {})) == (1, 0, 0)


@pytest.mark.parametrize(("left", "right", "same"), [
    (5, 5.0, True), ("5", 5, False), (True, 1, False), ([1, "A"], [1.0, "a "], True), ({"k": [1]}, {"k": [2]}, False),
    (None, None, True), ({"k": 1}, {"k": 1, "l": 2}, False)])
def test_same_value(left, right, same):
    assert scoring.same_value(left, right) is same


def test_wilson_as_published():
    assert [round(100 * x, 1) for x in scoring.wilson(1, 10)] == [1.8, 40.4]
    assert [round(100 * x, 1) for x in scoring.wilson(10, 10)] == [72.2, 100.0]
    assert scoring.wilson(0, 0) == (0.0, 1.0)


def test_summary_counts_only_where_a_measure_applies():
    summary = scoring.summarise([judged(GOOD, "HB-7, 80"), judged("no"), judged("Hi", case=SILENT)])
    assert (summary["visit_success"]["k"], summary["visit_success"]["n"]) == (1, 2)
    assert (summary["no_tool_accuracy"]["k"], summary["no_tool_accuracy"]["n"]) == (1, 1)
    assert summary["argument_f1"] == {"n": 2, "rate": 0.5}
    assert summary["faithful_answer"]["n"] == 1
