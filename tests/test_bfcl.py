"""BFCL's cases as the kit reads them, scored by BFCL's own checker."""

import copy
import json
import sys
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import bfcl
from helpers.downloads import AssetError

CALLED = ("simple_python", "multiple", "parallel", "parallel_multiple")
JSON_TYPES = {"string", "integer", "number", "boolean", "array", "object"}


@pytest.fixture(scope="module", autouse=True)
def wheel():
    try:
        bfcl._root()
    except AssetError as error:
        pytest.skip(f"BFCL is not in the cache and cannot be fetched: {error}")


def case_of(identifier: str) -> dict:
    category = identifier.rsplit("_", 1)[0]
    return next(case for case in bfcl.load_cases((category,)) if case["id"] == identifier)


@pytest.mark.parametrize(("category", "cases", "passing"), [
    ("simple_python", 400, 400), ("multiple", 200, 200), ("parallel", 200, 200),
    ("parallel_multiple", 200, 200), ("irrelevance", 240, 240),
    ("live_simple", 247, 245), ("live_multiple", 1016, 1015)])
def test_gold_answers_pass(category, cases, passing):
    """The three live ones that fail are BFCL's errors: the gold answers break their tools' descriptions."""
    loaded = bfcl.load_cases((category,))
    verdicts = Counter(bfcl.check(case, bfcl.gold_calls(case)) for case in loaded)
    assert (len(loaded), verdicts[True, ""]) == (cases, passing)


def test_wrong_answers_fail():
    """Every case of simple_python and multiple, spoilt in four ways."""
    for case in bfcl.load_cases():
        (name, arguments), = bfcl.gold_calls(case)
        spoilt = {
            "no call": [],
            "wrong name": [(name + "_x", arguments)],
            "two calls": [(name, arguments)] * 2,
            "unknown argument": [(name, {**arguments, "no_such_argument": 1})],
        }
        for argument in arguments:
            spoilt[f"without {argument}"] = [(name, {k: v for k, v in arguments.items() if k != argument})]
            spoilt[f"wrong {argument}"] = [(name, {**arguments, argument: {"no": "such value"}})]
        for how, calls in spoilt.items():
            valid, error = bfcl.check(case, calls)
            assert not valid and error, (case["id"], how)


def test_error_says_what_is_wrong():
    case = case_of("simple_python_0")
    right = {"base": 10, "height": 5}
    assert bfcl.check(case, [("calculate_triangle_area", right)]) == (True, "")
    assert "height" in bfcl.check(case, [("calculate_triangle_area", {"base": 10})])[1]
    assert "11" in bfcl.check(case, [("calculate_triangle_area", {**right, "base": 11})])[1]
    text = bfcl.check(case, [("calculate_triangle_area", {**right, "base": "10"})])[1]
    assert "Expected type integer" in text
    assert "no JSON object" in bfcl.check(case, [("calculate_triangle_area", "base=10")])[1]


def test_number_of_hundreds_of_digits_is_wrong_not_a_crash():
    case = case_of("simple_python_14")
    (name, arguments), = bfcl.gold_calls(case)
    valid, error = bfcl.check(case, [(name, {**arguments, "x_value": 10**400})])
    assert not valid and "too large" in error


def test_dotted_names_are_shown_and_scored_with_their_dots():
    case = case_of("simple_python_1")
    assert case["tools"][0]["function"]["name"] == "math.factorial"
    assert bfcl.check(case, [("math.factorial", {"number": 5})]) == (True, "")
    assert not bfcl.check(case, [("math_factorial", {"number": 5})])[0]


def test_parallel_calls_in_any_order():
    case = next(case for case in bfcl.load_cases(("parallel",)) if len(case["gold"]) > 1)
    calls = bfcl.gold_calls(case)
    assert bfcl.check(case, calls[::-1]) == (True, "")
    valid, error = bfcl.check(case, calls[:1])
    assert not valid and error == "Wrong number of functions."


def test_irrelevance_and_relevance():
    refuse, act = bfcl.load_cases(("irrelevance",), n=1)[0], bfcl.load_cases(("live_relevance",), n=1)[0]
    name = refuse["functions"][0]["name"]
    assert bfcl.check(refuse, []) == (True, "")
    assert bfcl.check(refuse, [(name, {})]) == (False, "a call, but no tool fits")
    assert bfcl.check(act, []) == (False, "no call")
    assert bfcl.check(act, [("anything", {})]) == (True, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6)


@cache
def some_cases() -> list[dict]:
    return bfcl.load_cases(CALLED, n=120)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_checker_survives_whatever_a_model_writes(data):
    case = data.draw(st.sampled_from(some_cases()))
    calls = copy.deepcopy(bfcl.gold_calls(case))
    for _, arguments in calls:
        for name in list(arguments):
            if data.draw(st.booleans()):
                arguments[name] = data.draw(JSON)
    valid, error = bfcl.check(case, calls)
    assert isinstance(valid, bool) and valid == (error == "")


def schemas_in(schema: dict):
    yield schema
    for inner in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
        yield from schemas_in(inner)


def test_tools_are_json_schema_and_functions_stay_bfcls():
    for case in bfcl.load_cases(bfcl.CATEGORIES):
        for tool, function in zip(case["tools"], case["functions"], strict=True):
            shown = tool["function"]
            assert tool["type"] == "function" and shown["name"] == function["name"]
            assert shown["parameters"]["type"] == "object" and function["parameters"]["type"] == "dict"
            assert shown["parameters"]["required"] == function["parameters"]["required"]
            assert list(shown["parameters"]["properties"]) == list(function["parameters"]["properties"])
            assert {schema["type"] for schema in schemas_in(shown["parameters"])} <= JSON_TYPES
        json.dumps(case)


def test_type_names():
    inner = {"type": "dict", "properties": {"d": {"type": "dict"}}, "required": ["d"]}
    described = {"type": "dict", "properties": {
        "type": {"type": "float"},  # a parameter named "type" is no type
        "pair": {"type": "tuple", "items": {"type": "any"}},
        "rows": {"type": "array", "items": inner}}}
    before = copy.deepcopy(described)
    assert bfcl._schema(described) == {"type": "object", "properties": {
        "type": {"type": "number"},
        "pair": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "object"}},
                                            "required": ["d"]}}}}
    assert described == before


def test_sample_is_even_seeded_and_grows_by_prefix():
    sample = bfcl.load_cases(n=41, seed=3)
    assert sample == bfcl.load_cases(n=41, seed=3)
    assert Counter(case["category"] for case in sample) == {"simple_python": 21, "multiple": 20}
    assert len({case["id"] for case in sample}) == 41
    assert sample[:10] == bfcl.load_cases(n=10, seed=3)
    assert [case["id"] for case in sample] != [case["id"] for case in bfcl.load_cases(n=41, seed=4)]


def test_sample_takes_the_rest_where_one_category_is_small():
    sample = bfcl.load_cases(("live_parallel", "multiple"), n=60)
    assert Counter(case["category"] for case in sample) == {"live_parallel": 15, "multiple": 45}


def test_max_chars_keeps_short_cases():
    short = bfcl.load_cases(max_chars=600)
    assert 50 < len(short) < 400
    lengths = [len(json.dumps(case["tools"], ensure_ascii=False)) + len(case["query"]) for case in short]
    assert max(lengths) <= 600
    assert short == [case for case in bfcl.load_cases() if case in short]


def test_wrong_requests_are_explained():
    with pytest.raises(ValueError, match="unknown BFCL category simple: choose from simple_python"):
        bfcl.load_cases(("simple",))
    with pytest.raises(ValueError, match="unknown BFCL category simple_java"):
        bfcl.load_cases(("simple_java",))
    with pytest.raises(ValueError, match="601 BFCL cases wanted, 600 found"):
        bfcl.load_cases(n=601)


def test_nothing_of_the_wheel_stays_importable():
    bfcl._load("constants.enums")
    assert not [name for name in sys.modules if name.split(".")[0] == "bfcl_eval"]
    assert str(bfcl._root()) not in sys.path
