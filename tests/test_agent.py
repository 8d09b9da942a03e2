"""The loop, and local tools: schemas, the runtime's error texts, a safe calculator."""

import json
import re

import jsonschema
import pytest
from conftest import ROOT
from conftest import tool as schema_of
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import agent
from helpers.agent import REGISTRY, execute, schemas, tool
from helpers.agentfabric import Call, function_of, language_of, read_calls, tool_names

GOOD = 'Action: book_hotel\nAction Input: {"city": "x"}'


def calculate(expression):
    """The calculator's result, or its whole error text."""
    text = execute(Call("calculator", json.dumps({"expression": expression})))
    return json.loads(text)["result"] if text.startswith("{") else text


@pytest.fixture
def registry():
    """REGISTRY is afterwards what it was before, whatever a test registers."""
    before = dict(REGISTRY)
    yield REGISTRY
    REGISTRY.clear()
    REGISTRY.update(before)


def test_many_episodes_advance_as_one_would_alone():
    asked = []

    def ask(requests):
        asked.append(len(requests))
        said = [request[-1]["content"] for request in requests]
        return ["done" if "</result>" in text or "hi" in text else GOOD for text in said]

    def loops():
        queries = ("go", "hi", "go on")
        return [(agent.episode([schema_of()], query), lambda call: "R") for query in queries]

    together = agent.run_batch(loops(), ask)
    assert asked == [3, 2]
    assert together == [agent.run_batch([loop], ask)[0] for loop in loops()]
    call, answer = together[0]
    assert (call.kind, call.text, call.result) == ("call", GOOD, "R")
    assert (answer.kind, answer.text) == ("answer", "done") and len(together[1]) == 1


def test_a_reply_is_cut_at_the_stop_word_and_an_endless_episode_is_given_up():
    said = f"{GOOD}\nObservation: made up"
    steps = agent.run([schema_of()], "hotel?", lambda messages: said, lambda call: "R", max_turns=3)
    assert [step.kind for step in steps] == ["call"] * 3 + ["gave_up"]
    assert (steps[0].text, steps[0].raw) == (f"{GOOD}\n", said)


def test_schemas_are_valid_and_in_the_language_and_order_asked_for():
    for language, tools in (("en", schemas(REGISTRY)), ("zh", schemas(REGISTRY, "zh"))):
        assert tool_names(tools) == ",".join(REGISTRY)
        for function in map(function_of, tools):
            jsonschema.Draft202012Validator.check_schema(function["parameters"])
            described = [function, *function["parameters"]["properties"].values()]
            assert {language_of(one["description"]) for one in described} == {language}
    for names, language in ((["no_such"], "en"), (["get_weather"], "fr")):
        with pytest.raises(ValueError, match="no tool or language '(no_such|fr)'.*fire_alert"):
            schemas(names, language)


def test_no_tool_is_in_the_training_data():
    text = (ROOT / "data" / "ms_agent_authored.jsonl").read_text("utf-8")
    trained = set(re.findall(r"Call this tool to interact with the (\S+) API", text))
    assert len(trained) > 100 and not trained & set(REGISTRY)


# The runtime's own error texts (those of json5 come from the package), then the schema check's.
ERRORS = [
    ("no_such", '{"location": "x"}', "'no_such'"),
    ("get_weather ", '{"city": "Paris"}', "'get_weather '"),
    ("get_weather", "{}", "param `city` is required"),
    ("get_weather", "[1,2]", "param `city` is required"),
    ("get_weather", "{", "<string>:1 Unexpected end of input at column 2"),
    ("get_weather", "{'city': True}", '<string>:1 Unexpected "T" at column 10'),
    ("get_weather", '{"city": null}', "param `city`: None is not of type 'string'"),
    ("get_weather", '"a city"', "'a city' is not of type 'object'"),
]


def test_a_call_that_cannot_run_gets_an_error_text():
    for name, arguments, details in ERRORS:
        text = f"Tool api {name} failed to call. Args: {arguments}.Details: {details}"
        assert execute(Call(name, arguments)) == text


def test_error_texts_are_those_of_the_recorded_runtime(shared, registry):
    @tool(location="Place")
    def amap_weather(location: str) -> str:
        """Weather of a place."""

    found = 0
    for path in sorted(shared.glob("wire/mal_[bcdfikn]_*_01.json")):
        user = json.loads(path.read_text("utf-8"))["body"]["messages"][-1]["content"]
        sent = r"\)朝阳区天气怎样？(.*?)\nObservation: <result>(.*)</result>\nAnswer:$"
        reply, result = re.search(sent, user, re.DOTALL).groups()
        assert execute(read_calls(reply)[0], {"amap_weather": amap_weather}) == result
        found += 1
    assert found == 7


def test_a_tool_of_ones_own(registry):
    ran = []

    @tool(name="Whom", times="How often")
    def greet(name: str, times: int = 1) -> str:
        """Greet somebody."""
        ran.append((name, times))
        return f"hello {name}"

    for arguments in ("{}", "{", '{"name": 3}', '{"name": "A", "times": 1.5}', "[]", "[" * 5000):
        assert execute(Call("greet", arguments)).startswith("Tool api greet failed to call.")
    assert ran == [], "arguments are checked before a tool runs"
    assert execute(Call("greet", "{'name': 'Ada', zoom: 1,}")) == "hello Ada"  # json5; no zoom
    assert execute(Call("get_weather", "{}"), {"greet": greet}).endswith("'get_weather'")
    name, times = function_of(schemas(["greet"], "zh")[0])["parameters"]["properties"].values()
    assert name == {"type": "string", "description": "Whom"}
    assert times == {"type": "integer", "description": "How often"}


@pytest.mark.parametrize("names, kind", [("", str), ("name more", str), ("name", bytes)])
def test_descriptions_and_types_have_to_fit_the_function(names, kind):
    def greet(name: kind) -> str:
        """Greet somebody."""

    with pytest.raises(ValueError, match="greet.*'name'.*description.*str, float, int, bool"):
        tool(**dict.fromkeys(names.split(), "x"))(greet)
    assert "greet" not in REGISTRY


def test_a_tool_that_fails_or_is_stopped(registry):
    errors = [RuntimeError("x" * 300), KeyboardInterrupt()]

    @tool()
    def fails() -> str:
        """Fail."""
        raise errors.pop(0)

    assert execute(Call("fails", "{}")).endswith(".Details: " + "x" * 200)
    with pytest.raises(KeyboardInterrupt):
        execute(Call("fails", "{}"))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*REGISTRY, "other"]), st.text(max_size=60))
def test_execute_always_returns_text(name, arguments):
    assert isinstance(execute(Call(name, arguments)), str)


SUMS = {"(3 + 4) * 2": 14, "2^10": 1024, "-3 ** 2": -9, "7 % 4": 3, " 1.5e3 ": 1500.0}
REFUSED = {
    "only up to 200 of": ["import os", "x", "'a' * 3", "1j", "True + 1", "", "1\n2", "1" * 201],
    "cannot work out": ["e()", "(1).e", "...", "()", "1 +", "(" * 150, "1/0", "(-8)**0.5"],
    "no real number": ["9**9**9", "2**-65", "1e999", "1e308*10-1e308*10"],
}


def test_the_calculator_calculates_or_refuses_with_a_reason():
    for expression, result in {**SUMS, "12 ÷ （1 + 2） × 2": 8.0, "9**60": 9**60}.items():
        assert calculate(expression) == result
    for message, expressions in REFUSED.items():
        assert [one for one in expressions if message not in calculate(one)] == []


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet="0123456789.eE+-*/%^() ", max_size=60))
def test_the_calculator_never_hangs_nor_grows(expression):
    result = calculate(expression)
    assert isinstance(result, str) or abs(result) <= 1e100


def test_tools_follow_the_language_of_their_arguments():
    assert "警报已拉响" in execute(Call("fire_alert", '{"location": "3号楼"}'))
    assert "alarm is sounding" in execute(Call("fire_alert", '{"location": "Building 3"}'))
    assert "晴" in execute(Call("get_weather", '{"city": "北京"}'))  # and not \u-escaped
    assert "light rain, 14 °C" in execute(Call("get_weather", '{"city": " PARIS "}'))
    assert "known: beijing" in execute(Call("get_weather", '{"city": "Atlantis"}'))
    seen = [
        execute(Call("fire_recognition", f'{{"image": "{x}"}}')) for x in ("a/FIRE.jpg", "hall")
    ]
    assert [json.loads(text)["fire"] for text in seen] == [True, False]
