"""BFCL's cases as the kit reads them, scored by BFCL's own checker."""

from collections import Counter
from functools import cache

import pytest
from jsonschema import Draft7Validator

from helpers.assets import bfcl

load = cache(lambda *categories: bfcl.load_cases(categories))


def gold_calls(case: dict) -> list[tuple[str, dict]]:
    """One right answer: of every argument the first value that BFCL accepts."""

    def first(accepted: dict, required=()) -> dict:  # one that accepts "" may be absent
        names = [name for name, values in accepted.items() if name in required or "" not in values]
        default = {name: "" if accepted[name] else [] for name in names}
        return {name: next((x for x in accepted[name] if x != ""), default[name]) for name in names}

    def plain(value):  # an object's members list accepted values again
        if isinstance(value, list):
            return [plain(item) for item in value]
        return first(value) if isinstance(value, dict) else value

    required = {one["name"]: one["parameters"].get("required", []) for one in case["functions"]}
    calls = [call for answer in case["gold"] for call in answer.items()]
    chosen = [(name, first(accepted, required[name])) for name, accepted in calls]
    return [(name, {key: plain(value) for key, value in call.items()}) for name, call in chosen]


def test_gold_answers_pass():
    parts = [load(category) for category in bfcl.CATEGORIES[:7]]
    failed = [sum(not bfcl.check(case, gold_calls(case))[0] for case in part) for part in parts]
    assert [len(part) for part in parts] == [400, 200, 200, 200, 240, 247, 1016]
    assert failed == [0, 0, 0, 0, 0, 2, 1]  # BFCL's own errors: these break their tools' schemas


def test_wrong_answers_fail():
    for case in load("simple_python", "multiple"):
        ((name, arguments),) = gold_calls(case)
        spoilt = [[], [(name + "_x", arguments)], [(name, arguments)] * 2]
        spoilt.append([(name, {**arguments, "no_such_argument": 1})])
        for key in arguments:
            spoilt.append([(name, {k: value for k, value in arguments.items() if k != key})])
            spoilt.append([(name, {**arguments, key: {"no": "such value"}})])
            for odd in (None, [[{}]], float("nan"), -(10**400)):  # whatever it says, no crash
                valid, error = bfcl.check(case, [(name, {**arguments, key: odd})])
                assert valid == (error == "")
        for calls in spoilt:
            valid, error = bfcl.check(case, calls)
            assert not valid and error, (case["id"], calls)


def test_verdicts_by_hand_and_what_is_said():
    (case, dotted), name = load("simple_python")[:2], "calculate_triangle_area"
    assert bfcl.check(case, [(name, {"base": 10, "height": 5})]) == (True, "")
    assert "height" in bfcl.check(case, [(name, {"base": 10})])[1]
    assert "no JSON object" in bfcl.check(case, [(name, "base=10")])[1]
    assert dotted["tools"][0]["function"]["name"] == "math.factorial"
    assert not bfcl.check(dotted, [("math_factorial", {"number": 5})])[0]
    case = next(case for case in load("parallel") if len(case["gold"]) > 1)
    assert bfcl.check(case, gold_calls(case)[::-1]) == (True, "")
    assert not bfcl.check(case, gold_calls(case)[:1])[0]
    refuse, act = load("irrelevance")[0], load("live_relevance")[0]
    assert bfcl.check(refuse, []) == bfcl.check(act, [("anything", {})]) == (True, "")
    assert bfcl.check(refuse, [("anything", {})]) == (False, "a call, but no tool fits")
    assert bfcl.check(act, []) == (False, "no call")


def test_tools_are_json_schema_and_functions_stay_bfcls():
    for case in load(*bfcl.CATEGORIES):
        for tool, own in zip(case["tools"], case["functions"], strict=True):
            shown = tool["function"]["parameters"]
            assert (shown["type"], own["parameters"]["type"]) == ("object", "dict")
            assert list(shown["properties"]) == list(own["parameters"]["properties"])
            Draft7Validator.check_schema(shown)


def test_draw_is_even_seeded_and_grows_by_prefix():
    sample = bfcl.load_cases(n=41, seed=3)
    assert Counter(case["category"] for case in sample) == {"simple_python": 21, "multiple": 20}
    assert sample[:10] == bfcl.load_cases(n=10, seed=3) != bfcl.load_cases(n=10, seed=4)
    assert len(bfcl.load_cases(("live_parallel", "multiple"), n=60)) == 60  # the former has 15
    assert len(bfcl.load_cases(max_chars=600)) == 138
    with pytest.raises(ValueError, match="unknown BFCL category simple_java: choose from simple_p"):
        bfcl.load_cases(("simple_java",))
    with pytest.raises(ValueError, match="601 BFCL cases wanted, 600 found"):
        bfcl.load_cases(n=601)
