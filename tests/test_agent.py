"""The loop, and local tools: schemas, the runtime's error texts, a safe calculator."""

import json
import re

import jsonschema
import pytest
from conftest import ROOT, SHARED
from conftest import tool as schema_of
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import agent
from helpers.agent import REGISTRY, execute, schemas, tool
from helpers.agentfabric import Call, function_of, language_of, read_calls, tool_names

GOOD = 'Action: book_hotel\nAction Input: {"city": "x"}'
DESK = {"fire_recognition", "fire_alert", "call_police", "call_fireman"}
RECORDED = "b_bad_json c_unknown_tool d_missing_arg f_pretty_json i_plain_string"
RECORDED = f"{RECORDED} k_trailing_space_name n_wrongtype".split()


def calculate(expression):
    """The calculator's result, or its whole error text."""
    text = execute(Call("calculator", json.dumps({"expression": expression})))
    return json.loads(text)["result"] if text.startswith("{") else text


@pytest.fixture(autouse=True)
def registry():
    """REGISTRY is afterwards what it was before, whatever a test registers."""
    before = dict(REGISTRY)
    yield
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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_schemas_are_valid_and_in_their_language(language):
    found = [function_of(schema) for schema in schemas(REGISTRY, language)]
    assert {function["name"] for function in found} > DESK
    for function in found:
        jsonschema.Draft202012Validator.check_schema(function["parameters"])
        properties = function["parameters"]["properties"].values()
        for text in [function["description"], *(item["description"] for item in properties)]:
            assert language_of(text) == language, text


def test_schemas_come_in_the_order_asked_for_and_name_what_is_unknown():
    assert tool_names(schemas(["get_weather", "fire_alert"])) == "get_weather,fire_alert"
    with pytest.raises(ValueError, match="'no_such'.*fire_alert"):
        schemas(["no_such"])
    with pytest.raises(ValueError, match="'fr'"):
        schemas(["get_weather"], "fr")


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
    ("get_weather", "Paris", '<string>:1 Unexpected "P" at column 1'),
    ("get_weather", "{'city': True}", '<string>:1 Unexpected "T" at column 10'),
    ("get_weather", '{"city": null}', "param `city`: None is not of type 'string'"),
    ("get_weather", '"a city"', "'a city' is not of type 'object'"),
]


@pytest.mark.parametrize("name, arguments, details", ERRORS)
def test_a_call_that_cannot_run_gets_an_error_text(name, arguments, details):
    text = f"Tool api {name} failed to call. Args: {arguments}.Details: {details}"
    assert execute(Call(name, arguments)) == text


@pytest.mark.skipif(not SHARED.exists(), reason="recordings of the runtime are not here")
@pytest.mark.parametrize("case", RECORDED)
def test_error_texts_are_those_of_the_recorded_runtime(case):
    path = SHARED / "wire" / f"mal_{case}_01.json"
    user = json.loads(path.read_text("utf-8"))["body"]["messages"][-1]["content"]
    sent = r"\)朝阳区天气怎样？(.*?)\nObservation: <result>(.*)</result>\nAnswer:$"
    reply, result = re.search(sent, user, re.DOTALL).groups()

    @tool(location="Place")
    def amap_weather(location: str) -> str:
        """Weather of a place."""

    assert execute(read_calls(reply)[0], {"amap_weather": amap_weather}) == result


def test_a_tool_of_ones_own():
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
    assert ran == [("Ada", 1)]
    (schema,) = schemas(["greet"], "zh")
    properties = {
        "name": {"type": "string", "description": "Whom"},
        "times": {"type": "integer", "description": "How often"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["name"]}
    assert function_of(schema)["parameters"] == parameters


@pytest.mark.parametrize("parameters", [{}, {"name": "n", "more": "m"}, {"other": "o"}])
def test_descriptions_have_to_fit_the_function(parameters):
    with pytest.raises(ValueError, match="greet.*'name'.*description"):

        @tool(**parameters)
        def greet(name: str) -> str:
            """Greet somebody."""

    with pytest.raises(ValueError, match="str, float, int, bool, list, dict"):

        @tool(name="n")
        def send(name: bytes) -> str:
            """Send something."""

    assert not {"greet", "send"} & set(REGISTRY)


@pytest.mark.parametrize("error", [RuntimeError("x" * 300), KeyboardInterrupt()])
def test_a_tool_that_fails(error):
    @tool()
    def fails() -> str:
        """Fail."""
        raise error

    if isinstance(error, KeyboardInterrupt):  # the keyboard stops a tool, too
        with pytest.raises(KeyboardInterrupt):
            execute(Call("fails", "{}"))
    else:
        assert execute(Call("fails", "{}")).endswith(".Details: " + "x" * 200)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*REGISTRY, "other"]), st.text(max_size=60))
def test_execute_always_returns_text(name, arguments):
    assert isinstance(execute(Call(name, arguments)), str)


SUMS = {"(3 + 4) * 2": 14, "2^10": 1024, "-3 ** 2": -9, "7 % 4": 3, " 1.5e3 ": 1500.0}


def test_the_calculator_calculates():
    for expression, result in {**SUMS, "12 ÷ （1 + 2） × 2": 8.0, "9**60": 9**60}.items():
        assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression, message",
    [(text, "only up to 200 of numbers") for text in ("__import__('os')", "x", "'a' * 3", "1j")]
    + [(text, "only up to 200 of numbers") for text in ("True + 1", "1 < 2", "", "1\n2", "1" * 201)]
    + [(text, "cannot work out") for text in ("e()", "(1).e", "...", "()", "1 +", "(" * 150)]
    + [(text, "cannot work out") for text in ("1/0", "5 % 0", "0**-1", "(-8)**0.5", "9e99**64")]
    + [(text, "no real number") for text in ("9**9**9", "2**-65", "1e999", "1e308*10-1e308*10")],
)
def test_the_calculator_refuses_with_a_reason(expression, message):
    assert message in calculate(expression)


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet="0123456789.eE+-*/%^() ", max_size=60))
def test_the_calculator_never_hangs_nor_grows(expression):
    result = calculate(expression)
    assert isinstance(result, str) or abs(result) <= 1e100


def test_tools_follow_the_language_and_open_nothing():
    assert "警报已拉响" in execute(Call("fire_alert", '{"location": "3号楼"}'))
    assert "alarm is sounding" in execute(Call("fire_alert", '{"location": "Building 3"}'))
    assert "晴" in execute(Call("get_weather", '{"city": "北京"}'))  # and not \u-escaped
    assert "light rain, 14 °C" in execute(Call("get_weather", '{"city": " PARIS "}'))
    assert "known: beijing" in execute(Call("get_weather", '{"city": "Atlantis"}'))
    for image, fire in (("https://no.invalid/FIRE.jpg", True), ("hall.jpg", False), ("着火", True)):
        seen = execute(Call("fire_recognition", json.dumps({"image": image})))
        assert json.loads(seen)["fire"] is fire
