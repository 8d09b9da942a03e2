"""Local tools: schemas, the runtime's error texts word for word, validation first, a safe calculator."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tools
from helpers.agentfabric import Call, function_of, language_of, read_calls, tool_names
from helpers.tools import REGISTRY, Tool, execute, schemas, tool

ROOT = Path(__file__).resolve().parent.parent
WIRE = ROOT.parent / "shared" / "data" / "wire"
SEED_TOOLS = {"fire_recognition", "fire_alert", "call_police", "call_fireman"}


def calculate(expression: str) -> object:
    """The calculator's result, or its whole error text."""
    text = execute(Call("calculator", json.dumps({"expression": expression})))
    return json.loads(text)["result"] if text.startswith("{") else text


@pytest.mark.parametrize("language", tools.LANGUAGES)
def test_schemas_are_valid_and_in_their_language(language):
    found = schemas(REGISTRY, language)
    assert SEED_TOOLS < {function_of(schema)["name"] for schema in found}
    for schema in found:
        jsonschema.Draft202012Validator.check_schema(function_of(schema)["parameters"])
        properties = function_of(schema)["parameters"]["properties"].values()
        for text in [function_of(schema)["description"], *(item["description"] for item in properties)]:
            assert language_of(text) == language, text


def test_schemas_come_in_the_order_asked_for_and_name_what_is_unknown():
    assert tool_names(schemas(["get_weather", "fire_alert"])) == "get_weather,fire_alert"
    with pytest.raises(ValueError, match="'no_such'.*fire_alert"):
        schemas(["no_such"])
    with pytest.raises(ValueError, match="'fr'"):
        schemas(["get_weather"], "fr")


def test_required_and_types_follow_the_signature():
    parameters = function_of(schemas(["call_police"])[0])["parameters"]
    assert parameters["required"] == ["location"] and list(parameters["properties"]) == ["location", "reason"]
    assert function_of(schemas(["convert_units"])[0])["parameters"]["properties"]["value"]["type"] == "number"


def test_no_tool_is_in_the_training_data():
    files = sorted((ROOT / "data" / "catalogue").glob("*.yaml"))
    if not files:
        pytest.skip("data/catalogue is empty")
    documents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    trained = {entry["name"] for document in documents for entry in document.get("tools", [])}
    assert trained, "no tool found in the catalogue: did its format change?"
    assert not trained & set(REGISTRY)


# The runtime's error texts. "Details" of json5 errors come from the json5 package.
ERRORS = [
    ("no_such", '{"location": "x"}', "'no_such'"),
    ("get_weather ", '{"city": "Paris"}', "'get_weather '"),
    ("get_weather", "{}", "param `city` is required"),
    ("get_weather", "[1,2]", "param `city` is required"),
    ("get_weather", '{"city": "Paris"', "<string>:1 Unexpected end of input at column 17"),
    ("get_weather", "{", "<string>:1 Unexpected end of input at column 2"),
    ("get_weather", "Paris", '<string>:1 Unexpected "P" at column 1'),
    ("get_weather", "{'city': True}", '<string>:1 Unexpected "T" at column 10'),
]


@pytest.mark.parametrize("name, arguments, details", ERRORS)
def test_the_runtimes_error_texts(name, arguments, details):
    assert execute(Call(name, arguments)) == \
        f"Tool api {name} failed to call. Args: {arguments}.Details: {details}"


# What the schema check adds to the runtime's rules.
REFUSED = [
    ("convert_units", '{"value": "3", "from_unit": "km", "to_unit": "m"}',
     "param `value`: '3' is not of type 'number'"),
    ("convert_units", '{"value": true, "from_unit": "km", "to_unit": "m"}',
     "param `value`: True is not of type 'number'"),
    ("get_weather", '{"city": null}', "param `city`: None is not of type 'string'"),
    ("get_weather", '"a city"', "'a city' is not of type 'object'"),
]


@pytest.mark.parametrize("name, arguments, details", REFUSED)
def test_arguments_that_do_not_fit_the_schema(name, arguments, details):
    assert execute(Call(name, arguments)).endswith(f".Details: {details}")


def test_validation_comes_before_the_tool_runs():
    ran = []
    found = REGISTRY["get_weather"].schemas
    spy = {"get_weather": Tool(found, lambda **arguments: ran.append(arguments) or "ok")}
    for arguments in ["{}", "{", '{"city": 3}', '{"city": ["Paris"]}', "[]"]:
        assert execute(Call("get_weather", arguments), spy).startswith("Tool api get_weather failed to call.")
    assert ran == []
    assert execute(Call("get_weather", "{'city': 'Paris', zoom: 1,}"), spy) == "ok"  # json5 passes
    assert ran == [{"city": "Paris"}]  # and what the schema does not name is ignored, as by the runtime


def test_details_are_cut_after_200_characters():
    def fails() -> str:
        raise RuntimeError("x" * 300)
    broken = {"get_weather": Tool({"en": {"type": "function", "function": {
        "name": "get_weather", "parameters": {"type": "object", "properties": {}}}}}, fails)}
    assert execute(Call("get_weather", "{}"), broken).endswith(".Details: " + "x" * 200)


def test_only_the_given_registry_may_run():
    only = {"get_weather": REGISTRY["get_weather"]}
    assert execute(Call("call_police", '{"location": "x"}'), only).endswith(".Details: 'call_police'")


def test_the_keyboard_can_interrupt_a_tool():
    def slow() -> str:
        raise KeyboardInterrupt
    stuck = {"slow": Tool({"en": {"type": "function", "function": {
        "name": "slow", "parameters": {"type": "object", "properties": {}}}}}, slow)}
    with pytest.raises(KeyboardInterrupt):
        execute(Call("slow", "{}"), stuck)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*REGISTRY, "other"]), st.text(max_size=60))
def test_execute_always_returns_text(name, arguments):
    assert isinstance(execute(Call(name, arguments)), str)


def test_deeply_nested_arguments_come_back_as_an_error():
    assert execute(Call("get_weather", "[" * 5000)).startswith("Tool api get_weather failed to call.")


@pytest.mark.skipif(not WIRE.exists(), reason="recordings of the runtime are not here")
@pytest.mark.parametrize("case", ["b_bad_json", "c_unknown_tool", "d_missing_arg", "f_pretty_json",
                                  "i_plain_string", "k_trailing_space_name", "n_wrongtype"])
def test_error_texts_against_recordings_of_the_runtime(case):
    """What the recorded runtime fed back for a malformed reply is what `execute` returns for it."""
    user = json.loads((WIRE / f"mal_{case}_01.json").read_text("utf-8"))["body"]["messages"][-1]["content"]
    sent = r"\)朝阳区天气怎样？(.*?)\nObservation: <result>(.*)</result>\nAnswer:$"
    reply, result = re.search(sent, user, re.DOTALL).groups()

    def amap_weather(location: str) -> str:
        return location
    with registry_kept():
        tool("Weather of a place", "天气", location=("Place", "地点"))(amap_weather)
        assert execute(read_calls(reply)[0], {"amap_weather": REGISTRY["amap_weather"]}) == result


@contextmanager
def registry_kept():
    """REGISTRY as it was before, whatever the block registers."""
    before = dict(REGISTRY)
    try:
        yield
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)


def test_a_tool_is_registered_with_both_schemas_and_replaced_on_a_second_run():
    def greet(name: str, times: int = 1) -> str:
        return f"hello {name} " * times

    def loud(name: str, times: int = 1) -> str:
        return greet(name, times).upper()
    loud.__name__ = "greet"
    with registry_kept():
        for function, answer in ((greet, "hello Ada "), (loud, "HELLO ADA ")):
            tool("Greet somebody.", "打招呼。", name=("Whom", "名字"), times=("How often", "次数"))(function)
            assert execute(Call("greet", '{"name": "Ada"}')) == answer
        parameters = function_of(schemas(["greet"], "zh")[0])["parameters"]
        assert parameters == {"type": "object", "properties": {
            "name": {"type": "string", "description": "名字"},
            "times": {"type": "integer", "description": "次数"}}, "required": ["name"]}


@pytest.mark.parametrize("texts, parameters, message", [
    (("only English",), {"name": ("n", "名")}, "English and one in Chinese"),
    (("a", "甲"), {}, "name"),
    (("a", "甲"), {"name": ("n", "名"), "more": ("m", "多")}, "more"),
    (("a", "甲"), {"name": ("n",)}, "English and one in Chinese"),
])
def test_descriptions_have_to_fit_the_function(texts, parameters, message):
    def greet(name: str) -> str:
        return name
    with pytest.raises(ValueError, match=message):
        tool(*texts, **parameters)(greet)
    assert "greet" not in REGISTRY


def test_an_annotation_that_json_lacks_is_refused():
    def greet(name: bytes) -> str:
        return name.decode()
    with pytest.raises(ValueError, match="annotate name as str"):
        tool("a", "甲", name=("n", "名"))(greet)


@pytest.mark.parametrize("expression, result", [
    ("(3 + 4) * 2", 14), ("2^10", 1024), ("-3 ** 2", -9), ("7 % 4", 3), ("12 ÷ （1 + 2） × 2", 8.0),
    (" 1.5e3 ", 1500.0),
])
def test_the_calculator_calculates(expression, result):
    assert calculate(expression) == result


@pytest.mark.parametrize("expression", [
    "__import__('os').system('true')", "open('x')", "(1).__class__", "[1][0]", "x", "lambda: 1", "True + 1",
    "'a' * 3",
    "1 if 1 else 2", "1 and 2", "1 < 2", "(x := 1)", "f'{1}'", "1j", "...",
])
def test_the_calculator_takes_nothing_but_arithmetic(expression):
    assert "only numbers" in calculate(expression)


@pytest.mark.parametrize("expression, message", [
    ("9**9**9", "exponents beyond 64"), ("2**-65", "exponents beyond 64"), ("(9**64)**64", "up to 1e100"),
    ("1e999", "up to 1e100"), ("1e308*10-1e308*10", "up to 1e100"), ("(-8)**0.5", "no real number"),
    ("1/0", "division by zero"), ("5 % 0", "cannot work out"), ("0**-1", "cannot work out"),
    ("1 +", "invalid syntax"), ("", "cannot work out"), ("1\x00", "null bytes"), ("1\n2", "cannot work out"),
    ("1" * 201, "200 characters"), ("(" * 150 + "1", "cannot work out"),
])
def test_the_calculator_refuses_with_a_reason(expression, message):
    assert message in calculate(expression)


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet="0123456789.eE+-*/%^() ", max_size=60))
def test_the_calculator_never_hangs_nor_grows(expression):
    result = calculate(expression)
    assert isinstance(result, str) or abs(result) <= 1e100


def test_fire_recognition_judges_by_the_path_and_opens_nothing():
    seen = [json.loads(execute(Call("fire_recognition", json.dumps({"image": image}))))["fire"]
            for image in ("https://nowhere.invalid/gate3_FIRE.jpg", "hall.jpg", "仓库着火.png")]
    assert seen == [True, False, True]


def test_results_follow_the_language_of_the_arguments():
    assert "警报已拉响" in execute(Call("fire_alert", '{"location": "3号楼"}'))
    assert "alarm is sounding" in execute(Call("fire_alert", '{"location": "Building 3"}'))
    assert "晴" in execute(Call("get_weather", '{"city": "北京"}'))  # and not \u-escaped


def test_everyday_tools():
    assert json.loads(execute(Call("get_weather", '{"city": " PARIS "}')))["weather"] == "light rain, 14 °C"
    assert "known: beijing" in execute(Call("get_weather", '{"city": "Atlantis"}'))
    miles = execute(Call("convert_units", '{"value": 3, "from_unit": "mile", "to_unit": "km"}'))
    assert json.loads(miles) == {"result": 4.82803, "unit": "km"}
    for value, unit, wanted in ((3, "km", "kg"), (3, "x", "kg"), (3, "x", "x"), (1e308, "km", "cm")):
        arguments = json.dumps({"value": value, "from_unit": unit, "to_unit": wanted})
        assert "cannot convert" in execute(Call("convert_units", arguments))
    books = json.loads(execute(Call("search_books", '{"query": "wells"}')))
    assert [book["year"] for book in books] == [1895, 1898]
    assert execute(Call("search_books", '{"query": "nobody"}')) == "[]"
