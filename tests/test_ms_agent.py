"""The ms_agent parser: genuine prompts, odd ones, the way back, and rows that must be rejected."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import assets, data, ms_agent
from helpers.agentfabric import calls_of, function_of

FRAME = (
    "Answer the following questions as best you can. You have access to the following APIs:\n"
    "{tools}\n\nUse the following format:\n\nThought: you should always think about what to do\n"
    "Begin!"
)


def tool_text(name, number=1, description="Weather", listed=()):
    return (
        f"{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API "
        f"useful for? {description}. Parameters: {json.dumps(list(listed), ensure_ascii=False)}"
    )


def parameter(name, required="True", **more):
    return {"name": name, "description": f"the {name}", "required": required, **more}


def parsed(*tools):
    return [
        function_of(tool) for tool in ms_agent.parse_tools(FRAME.format(tools="\n\n".join(tools)))
    ]


def good_row():
    tools = tool_text("w", listed=[parameter("city"), parameter("deep", "False")])
    reply = (
        "Thought: look\nAction: w\nAction Input: {'city': 'X', 'deep': [1, True, None]}\n"
        "Observation: {'t': 3}\nThought: I now know the final answer\nFinal Answer: 3 degrees."
    )
    turns = [("system", FRAME.format(tools=tools)), ("user", "weather in X?"), ("assistant", reply)]
    return {"id": "a", "conversations": [{"from": who, "value": value} for who, value in turns]}


def test_every_genuine_prompt_is_parsed_whole(shared):
    for row in assets.read_jsonl(shared / "ms_agent_real" / "ms_agent_real_system_prompts.jsonl"):
        system = row["system"]
        tools = [function_of(tool) for tool in ms_agent.parse_tools(system)]
        schemas = [tool["parameters"] for tool in tools]
        assert len(tools) == system.count("Call this tool to interact with")
        assert sum(len(one["properties"]) for one in schemas) == system.count('{"name": ')
        assert sum(len(one["required"]) for one in schemas) == system.count('"required": "True"')
        listed = system.split("above tools")[1].split("]")[0].strip(" [")
        assert ", ".join(tool["name"] for tool in tools) == listed


def test_the_genuine_row_becomes_three_turns_with_typed_arguments(shared):
    (row,) = data.read_rows(shared / "ms_agent_real" / "ms_agent_real_rows.jsonl")
    roles = ["user", "tool_call", "tool_response", "assistant"] * 3
    assert [message["role"] for message in row["messages"]] == roles
    keywords = {"商品类目": "手机", "适用场景": "拍照"}
    assert calls_of(row["messages"])[1]["arguments"] == {"keywords_dict": keywords}
    info = function_of(row["tools"][2])["parameters"]["properties"]
    assert [one["type"] for one in info.values()] == ["array"] * 3, "from the row's own calls"


def test_all_authored_rows_convert_there_and_back_and_no_call_is_lost():
    path = assets.dataset_file("authored")
    raw, (rows, rejected) = assets.read_jsonl(path), data.load("authored")
    texts = [turn["value"] for row in raw for turn in row["conversations"][2::2]]
    written = sum(text.count("\nAction Input: ") for text in texts)
    assert (len(rows), rejected) == (len(raw), [])
    assert sum(len(calls_of(row["messages"])) for row in rows) == written
    for row in rows:
        assert ms_agent.to_canonical(ms_agent.to_ms_agent(row)) == row


def test_names_with_spaces_many_tools_and_tools_without_parameters():
    city = [parameter("city")]
    listed = [tool_text(f"t {n}", n, listed=city if n % 2 else ()) for n in range(1, 12)]
    tools = parsed(*listed)
    assert [one["name"] for one in tools] == [f"t {n}" for n in range(1, 12)]
    assert [one["parameters"]["required"] for one in tools] == [["city"], []] * 5 + [["city"]]
    assert parsed("3. fire: Call this tool to interact with the fire API. Parameters: []")


def test_nested_brackets_odd_words_and_boolean_required():
    described = "Uses Parameters: [see below], v1.2 and 2. x: Call"
    ids = parameter("ids", True, type="array", items={"type": "array"})
    listed = [ids, {"name": "bare"}, parameter("o", False)]
    (one,) = parsed(tool_text("t", description=described, listed=listed))
    assert one["description"] == described
    properties = {
        "ids": {"description": "the ids", "type": "array", "items": {"type": "array"}},
        "bare": {},
        "o": {"description": "the o"},
    }
    assert one["parameters"] == {"type": "object", "required": ["ids"], "properties": properties}


def test_python_arguments_become_json():
    messages = ms_agent.to_canonical(good_row())["messages"]
    assert messages[1]["content"] == (
        '{"name": "w", "arguments": {"city": "X", "deep": [1, true, null]}}'
    )
    assert messages[2:] == [
        {"role": "tool_response", "content": "{'t': 3}"},
        {"role": "assistant", "content": "3 degrees."},
    ]


END = "\nObservation: y\nFinal Answer: z"


@pytest.mark.parametrize(
    ("turn", "value", "reason"),
    [
        (0, "You are helpful.", "lists no tool"),
        (0, FRAME.format(tools=tool_text("w") + "{").replace("[]", "[{name}]"), "not a JSON list"),
        (1, "  ", "empty user turn"),
        (1, 7, "a row: conversations: value: Input should be a valid string"),
        (2, "Action: w\nFinal Answer: x", "not followed by Action Input"),
        (2, "Action: w\nAction Input: {", "not followed by Action Input"),
        (2, "Action: w\nAction Input: X" + END, "not an object"),
        (2, "Action: v\nAction Input: {}" + END, "does not list"),
        (2, "Action: w\nAction Input: {}" + END, "leaves out a required"),
        (2, "Action: w\nAction Input: {'city': 'a', 'b': 1}" + END, "does not have"),
        (2, "Thought: hm", "does not end in one Final Answer"),
        (2, "Thought: hm\nFinal Answer:", "empty answer"),
    ],
)
def test_rejected_rows_keep_their_line_reason_and_row(tmp_path, turn, value, reason):
    bad, headless = good_row(), good_row()
    bad["conversations"][turn]["value"] = value
    headless["conversations"].pop(0)
    assets.write_jsonl(tmp_path / "x.jsonl", [good_row(), bad, headless, {"id": "none"}])
    good, first, second, third = data.read_rows(tmp_path / "x.jsonl")
    assert (good["id"], first.line, first.id, first.row) == ("a", 2, "a", bad)
    assert reason in first.reason
    assert [second.reason, third.reason] == [
        "turns are not system, user, assistant, user, assistant, …"
    ] * 2


VALUES = st.recursive(
    st.text() | st.integers() | st.booleans() | st.none() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(alphabet="ab'\"\\, :{}\n") | st.text(), VALUES))
def test_an_input_reads_the_same_as_python_literal_and_as_json(arguments):
    assert ms_agent.parse_input(repr(arguments)) == arguments
    assert ms_agent.parse_input(json.dumps(arguments)) == arguments


@given(st.data())
def test_mutated_rows_are_read_or_unreadable(draw):
    row = copy.deepcopy(good_row())
    turn = draw.draw(st.sampled_from(row["conversations"]))
    text, cut = turn["value"], draw.draw(st.integers(0, len(turn["value"])))
    added = draw.draw(st.text(max_size=9))
    cases = [text[:cut], text[cut:], text[:cut] + added + text[cut:], "\x00" + text, text * 3]
    turn["value"] = draw.draw(st.sampled_from(cases))
    try:
        assert ms_agent.to_canonical(row)["messages"][-1]["role"] == "assistant"
    except ms_agent.Unreadable as error:
        assert str(error)
