"""The ms_agent parser: genuine prompts, the ten defects of the seed's regex, and rows that must be set aside."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import assets, canonical, dialogues, seed_converter, sources
from helpers.agentfabric import function_of

FRAME = ("Answer the following questions as best you can. You have access to the following APIs:\n{tools}\n\nUse the "
         "following format:\n\nThought: you should always think about what to do\nBegin!")


def tool_text(name, number=1, description="Weather", listed=(), useful=True):
    useful = f"What is the {name} API useful for? " if useful else ""
    return (f"{number}. {name}: Call this tool to interact with the {name} API. {useful}{description}. "
            f"Parameters: {json.dumps(list(listed), ensure_ascii=False)}")


def parameter(name, required="True", **more):
    return {"name": name, "description": f"the {name}", "required": required, **more}


def parsed(*tools):
    return [function_of(tool) for tool in dialogues.parse_tools(FRAME.format(tools="\n\n".join(tools)))]


def test_every_genuine_prompt_is_parsed_whole(shared):
    lines = (shared / "ms_agent_real" / "ms_agent_real_system_prompts.jsonl").read_text("utf-8").splitlines()
    for system in (json.loads(line)["system"] for line in lines):
        tools = [function_of(tool) for tool in dialogues.parse_tools(system)]
        assert len(tools) == system.count("Call this tool to interact with")
        assert sum(len(tool["parameters"]["properties"]) for tool in tools) == system.count('{"name": ')
        assert sum(len(tool["parameters"]["required"]) for tool in tools) == system.count('"required": "True"')
        listed = system.split("above tools")[1].split("]")[0].strip(" [")
        assert ", ".join(tool["name"] for tool in tools) == listed


def test_the_genuine_row_becomes_three_turns_with_typed_arguments(shared):
    line = (shared / "ms_agent_real" / "ms_agent_real_rows.jsonl").read_text("utf-8")
    row = sources.convert_line(1, line)
    assert [message["role"] for message in row["messages"]] == ["user", "tool_call", "tool_response", "assistant"] * 3
    assert canonical.calls_of(row["messages"])[1]["arguments"] == {"keywords_dict": {"商品类目": "手机", "适用场景": "拍照"}}
    info = function_of(row["tools"][2])["parameters"]["properties"]
    assert [schema["type"] for schema in info.values()] == ["array"] * 3, "types are inferred from the row's own calls"


def test_all_authored_rows_convert_and_no_call_is_lost():
    path = assets.dataset_file("authored")
    rows, rejected = sources.split_rejected(sources.read_rows(path))
    raw = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    written = sum(turn["value"].count("\nAction Input: ") for one in raw for turn in one["conversations"]
                  if turn["from"] == "assistant")
    assert (len(rows), rejected) == (len(raw), [])
    assert sum(len(canonical.calls_of(row["messages"])) for row in rows) == written


TWO = [parameter("city"), parameter("date", "False")]


@pytest.mark.parametrize(("tools", "seed", "faithful"), [
    ([tool_text("w", listed=TWO)], [("w", "Weather", "city", False)], [("w", "Weather", ["city", "date"], ["city"])]),
    ([tool_text("a b", listed=TWO[:1])], [("b", "Weather", "city", True)], [("a b", "Weather", ["city"], ["city"])]),
    ([tool_text("w", description="Get v1.2", listed=TWO[:1])], [("w", "Get v1", "city", True)],
     [("w", "Get v1.2", ["city"], ["city"])]),
    ([tool_text("stop"), tool_text("w", 2, listed=TWO[:1])], [("stop", "Weather", "city", True)],
     [("stop", "Weather", [], []), ("w", "Weather", ["city"], ["city"])]),
    ([tool_text(f"t{n}", n, listed=TWO[:1]) for n in range(1, 12)],
     [(f"t{n}", "Weather", "city", True) for n in range(1, 10)],
     [(f"t{n}", "Weather", ["city"], ["city"]) for n in range(1, 12)]),
])
def test_what_the_seed_loses_and_we_keep(tools, seed, faithful):
    system = FRAME.format(tools="\n\n".join(tools))
    found = seed_converter.seed_tools(system)
    assert [(one.name, one.description, one.parameter, one.required) for one in found] == seed
    def shown(functions):
        return [(one["name"], one["description"], [*one["parameters"]["properties"]], one["parameters"]["required"])
                for one in functions]

    assert shown(parsed(*tools)) == faithful
    left = seed_converter.seed_schemas(dialogues.parse_tools(system))
    assert shown(map(function_of, left)) == [(name, text, [key], [key] * required) for name, text, key, required in seed]


def test_the_seed_dies_on_another_wording_and_an_empty_description():
    for tools in ([tool_text("fire", useful=False)], [tool_text("w", description="", listed=[{"name": "x"}])]):
        with pytest.raises(AttributeError):
            seed_converter.seed_tools(FRAME.format(tools="\n\n".join(tools)))
        assert len(parsed(*tools)) == 1


def test_the_seeds_rendering_is_no_json_and_quotes_the_names():
    system = FRAME.format(tools=tool_text("天气", listed=TWO[:1]))
    text = seed_converter.seed_prompt(system)
    assert '"\\city"' in text and r'["\u5929\u6c14"]' in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text.split("输入参数: ")[1].split(" Format")[0])


def test_nested_brackets_odd_words_and_boolean_required():
    listed = [parameter("ids", True, type="array", items={"type": "array"}), {"name": "bare"}, parameter("o", False)]
    (one,) = parsed(tool_text("t", description="Uses Parameters: [see below] and 2. x: Call", listed=listed))
    assert one["description"] == "Uses Parameters: [see below] and 2. x: Call"
    assert one["parameters"] == {"type": "object", "required": ["ids"], "properties": {
        "ids": {"description": "the ids", "type": "array", "items": {"type": "array"}}, "bare": {},
        "o": {"description": "the o"}}}


def good_row():
    reply = ("Thought: look\nAction: w\nAction Input: {'city': 'X', 'deep': [1, True, None]}\nObservation: {'t': 3}\n"
             "Thought: I now know the final answer\nFinal Answer: 3 degrees.")
    return {"id": "a", "conversations": [
        {"from": "system", "value": FRAME.format(tools=tool_text("w", listed=[parameter("city"), parameter("deep", "False")]))},
        {"from": "user", "value": "weather in X?"}, {"from": "assistant", "value": reply}]}


def test_python_arguments_become_json():
    messages = dialogues.to_canonical(good_row())["messages"]
    assert messages[1]["content"] == '{"name": "w", "arguments": {"city": "X", "deep": [1, true, null]}}'
    assert messages[2:] == [{"role": "tool_response", "content": "{'t': 3}"},
                            {"role": "assistant", "content": "3 degrees."}]


@pytest.mark.parametrize(("change", "reason"), [
    (lambda row: row.pop("conversations"), "conversations: Field required"),
    (lambda row: row["conversations"].pop(0), "turns are not system, user, assistant"),
    (lambda row: row["conversations"][0].update(value="You are helpful."), "lists no tool"),
    (lambda row: row["conversations"][0].update(value=row["conversations"][0]["value"].replace('"name"', "name")), "not a JSON list"),
    (lambda row: row["conversations"][1].update(value="  "), "empty user turn"),
    (lambda row: row["conversations"][1].update(value=7), "conversations.value: Input should be a valid string"),
    (lambda row: row["conversations"][2].update(value="Action: w\nFinal Answer: x"), "not followed by Action Input"),
    (lambda row: row["conversations"][2].update(value="Action: w\nAction Input: {"), "not followed by Action Input"),
    (lambda row: row["conversations"][2].update(value="Action: w\nAction Input: X\nObservation: y\nFinal Answer: z"), "not an object"),
    (lambda row: row["conversations"][2].update(value="Action: v\nAction Input: {}\nObservation: y\nFinal Answer: z"), "does not list"),
    (lambda row: row["conversations"][2].update(value="Action: w\nAction Input: {}\nObservation: y\nFinal Answer: z"), "leaves out a required"),
    (lambda row: row["conversations"][2].update(value="Action: w\nAction Input: {'city': 'a', 'b': 1}\nObservation: y\nFinal Answer: z"), "does not have"),
    (lambda row: row["conversations"][2].update(value="Thought: hm"), "does not end in one Final Answer"),
    (lambda row: row["conversations"][2].update(value="Thought: hm\nFinal Answer:"), "empty answer"),
])
def test_rows_set_aside_keep_their_line_reason_and_text(change, reason):
    row = good_row()
    change(row)
    rejected = sources.convert_line(17, json.dumps(row))
    assert isinstance(rejected, sources.Rejected) and rejected.line == 17 and reason in rejected.reason
    assert rejected.row == row


def test_a_line_that_is_no_json_is_set_aside_as_text():
    rejected = sources.convert_line(3, '{"id": "cut')
    assert (rejected.reason, rejected.row) == ("line is not JSON", '{"id": "cut')


VALUES = st.recursive(st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
                      lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.text(alphabet="ab'\"\\, :{}\n") | st.text(), VALUES))
def test_an_input_reads_the_same_as_python_literal_and_as_json(arguments):
    assert dialogues.parse_input(repr(arguments)) == arguments
    assert dialogues.parse_input(json.dumps(arguments)) == arguments


@given(st.data())
def test_mutated_rows_never_raise_and_are_accounted_for(data):
    row = copy.deepcopy(good_row())
    turn = data.draw(st.sampled_from(row["conversations"]))
    text, cut = turn["value"], data.draw(st.integers(0, len(turn["value"])))
    turn["value"] = data.draw(st.sampled_from([text[:cut], text[cut:], text[:cut] + data.draw(st.text(max_size=9)) + text[cut:],
                                               None, 3, [], "\x00" + text, text * 3]))
    line = data.draw(st.sampled_from([json.dumps(row), json.dumps(row)[:cut], json.dumps([row]), "[" * 5000]))
    result = sources.convert_line(1, line)
    assert isinstance(result, sources.Rejected) or result["messages"][-1]["role"] == "assistant"
