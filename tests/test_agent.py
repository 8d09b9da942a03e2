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
    text = execute(Call("calculator", json.dumps({"expression": expression})))
    return json.loads(text)["result"] if text.startswith("{") else text


def test_many_episodes_advance_together():
    asked = []

    def ask(requests):
        asked.append(len(requests))
        said = [request[-1]["content"] for request in requests]
        return ["done" if "</result>" in text or "hi" in text else GOOD for text in said]

    queries = ("go", "hi", "go on")
    loops = [(agent.episode([schema_of()], query), lambda call: "R") for query in queries]
    together = agent.run_batch(loops, ask)
    kept = [[(step.kind, step.text, step.result) for step in steps] for steps in together]
    call, answer = ("call", GOOD, "R"), ("answer", "done", None)
    assert kept == [[call, answer], [answer], [call, answer]] and asked == [3, 2]


def test_schemas_are_valid_and_in_the_language_and_order_asked_for():
    for language in ("en", "zh"):
        tools = schemas(REGISTRY, language)
        assert tool_names(tools) == ",".join(REGISTRY)
        for function in map(function_of, tools):
            jsonschema.Draft202012Validator.check_schema(function["parameters"])
            described = [function, *function["parameters"]["properties"].values()]
            assert {language_of(one["description"]) for one in described} == {language}
    with pytest.raises(ValueError, match="no tool or language 'no_such'.*fire_alert"):
        schemas(["no_such"])


def test_no_tool_is_in_the_training_data():
    text = (ROOT / "data" / "ms_agent_authored.jsonl").read_text("utf-8")
    trained = set(re.findall(r"Call this tool to interact with the (\S+) API", text))
    assert len(trained) > 100 and not trained & set(REGISTRY)


# The runtime's own error texts (those of json5 come from the package), then the schema check's.
ERRORS = [
    ("no_such", '{"location": "x"}', "'no_such'"),
    ("get_weather", "{}", "param `city` is required"),
    ("get_weather", "[1,2]", "param `city` is required"),
    ("get_weather", "{'city': True}", '<string>:1 Unexpected "T" at column 10'),
    ("get_weather", '{"city": null}', "param `city`: None is not of type 'string'"),
    ("get_weather", '"a city"', "'a city' is not of type 'object'"),
]


def test_a_call_that_cannot_run_gets_an_error_text():
    for name, arguments, details in ERRORS:
        text = f"Tool api {name} failed to call. Args: {arguments}.Details: {details}"
        assert execute(Call(name, arguments)) == text


def test_error_texts_are_those_of_the_recorded_runtime(shared, monkeypatch):
    monkeypatch.setattr(agent, "REGISTRY", {})

    def amap_weather(location: str) -> str:
        """Weather of a place."""

    registry = {"amap_weather": tool(location="Place")(amap_weather)}
    paths = sorted(shared.glob("wire/mal_[bcdfikn]_*_01.json"))
    assert len(paths) == 7
    for path in paths:
        user = json.loads(path.read_text("utf-8"))["body"]["messages"][-1]["content"]
        sent = r"\)朝阳区天气怎样？(.*?)\nObservation: <result>(.*)</result>\nAnswer:$"
        reply, result = re.search(sent, user, re.DOTALL).groups()
        assert execute(read_calls(reply)[0], registry) == result


def test_a_tool_of_ones_own(monkeypatch):
    monkeypatch.setattr(agent, "REGISTRY", {})
    ran = []

    @tool(name="Whom", times="How often")
    def greet(name: str, times: int = 1) -> str:
        """Greet somebody."""
        ran.append((name, times))
        return f"hello {name}"

    for arguments in ("{}", "{", '{"name": 3}', '{"name": "A", "times": 1.5}', "[" * 5000):
        text = execute(Call("greet", arguments), {"greet": greet})
        assert text.startswith("Tool api greet failed to call.")
    assert ran == [], "arguments are checked before a tool runs"
    call = Call("greet", "{'name': 'Ada', zoom: 1,}")  # json5, and a name that the tool lacks
    assert execute(call, {"greet": greet}) == "hello Ada"
    times = function_of(schemas(["greet"])[0])["parameters"]["properties"]["times"]
    assert times == {"type": "integer", "description": "How often"}
    with pytest.raises(ValueError, match="greet.*'name'.*description.*str, float, int, bool"):
        tool(name="Whom")(greet)


SUMS = {"(3 + 4) * 2": 14, "2^10": 1024, "-3 ** 2": -9, "12 ÷ （1 + 2） × 2": 8.0, "9**60": 9**60}
REFUSED = {
    "only up to 200 of": ["import os", "x", "'a' * 3", "1j", "True + 1", "", "1\n2", "1" * 201],
    "cannot work out": ["e()", "(1).e", "...", "()", "1 +", "(" * 150, "1/0", "(-8)**0.5"],
    "no real number": ["9**9**9", "2**-65", "1e999", "1e308*10-1e308*10"],
}


def test_the_calculator_calculates_or_refuses_with_a_reason():
    assert {expression: calculate(expression) for expression in SUMS} == SUMS
    for message, expressions in REFUSED.items():
        assert [one for one in expressions if message not in calculate(one)] == []


@settings(max_examples=300)
@given(st.text(alphabet="0123456789.eE+-*/%^() ", max_size=60))
def test_the_calculator_never_hangs_nor_grows(expression):
    result = calculate(expression)
    assert isinstance(result, str) or abs(result) <= 1e100


def test_tools_follow_the_language_of_their_arguments():
    assert "警报已拉响" in execute(Call("fire_alert", '{"location": "3号楼"}'))
    assert "alarm is sounding" in execute(Call("fire_alert", '{"location": "Building 3"}'))
    assert "晴" in execute(Call("get_weather", '{"city": "北京"}'))  # and not \u-escaped
    assert '"fire": true' in execute(Call("fire_recognition", '{"image": "a/FIRE.jpg"}'))
