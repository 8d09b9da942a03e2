"""The ms_agent parser: genuine prompts, odd ones, the way back, and rows that must be rejected."""

import json

from hypothesis import given
from hypothesis import strategies as st

from helpers import assets, data, ms_agent
from helpers.agentfabric import calls_of, function_of


def tool_text(name, number=1, description="Weather", listed=()):
    return (
        f"{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API "
        f"useful for? {description}. Parameters: {json.dumps(list(listed), ensure_ascii=False)}"
    )


def parameter(name, required="True", **more):
    return {"name": name, "description": f"the {name}", "required": required, **more}


def parsed(*tools):
    return [function_of(tool) for tool in ms_agent.parse_tools("\n\n".join(tools))]


def good_row():
    tools = tool_text("w", listed=[parameter("city"), parameter("deep", "False")])
    reply = "Thought: look\nAction: w\nAction Input: {'city': 'X', 'deep': [1, True, None]}\n"
    reply += "Observation: {'t': 3}\nThought: I know\nFinal Answer: 3 degrees."
    turns = ("system", tools + "\n\nBegin!"), ("user", "weather in X?"), ("assistant", reply)
    return {"id": "a", "conversations": [{"from": who, "value": value} for who, value in turns]}


def test_every_genuine_prompt_is_parsed_whole(shared):
    for row in assets.read_jsonl(shared / "ms_agent_real" / "ms_agent_real_system_prompts.jsonl"):
        tools = parsed(system := row["system"])
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
    raw = assets.read_jsonl(assets.dataset_file("authored"))
    rows, rejected = data.load("authored")
    texts = [turn["value"] for row in raw for turn in row["conversations"][2::2]]
    written = sum(text.count("\nAction Input: ") for text in texts)
    assert (len(rows), rejected) == (len(raw), [])
    assert sum(len(calls_of(row["messages"])) for row in rows) == written
    for row in rows:
        assert ms_agent.to_canonical(ms_agent.to_ms_agent(row)) == row


def test_odd_tools_are_read():
    listed = ((), [parameter("city")])
    tools = parsed(*[tool_text(f"t {n}", n, listed=listed[n % 2]) for n in range(1, 12)])
    assert [one["name"] for one in tools] == [f"t {n}" for n in range(1, 12)]
    assert [one["parameters"]["required"] for one in tools] == [["city"], []] * 5 + [["city"]]
    described = "Uses Parameters: [see below], v1.2 and 2. x: Call"
    ids = {"type": "array", "items": {"type": "array"}}
    listed = [parameter("ids", True, **ids), {"name": "bare"}, parameter("o", False)]
    (one,) = parsed(tool_text("t", description=described, listed=listed))
    assert (one["description"], one["parameters"]["required"]) == (described, ["ids"])
    found = {"ids": {"description": "the ids", **ids}, "bare": {}, "o": {"description": "the o"}}
    assert one["parameters"]["properties"] == found


END = "\nObservation: y\nFinal Answer: z"
BROKEN = [  # (turn, change, reason); test_data reads these rows
    (None, {"conversations": []}, "turns are not system, user"),
    (0, {"value": "You are helpful."}, "lists no tool"),
    (0, {"value": tool_text("w").replace("[]", "[{name}]")}, "not a JSON list"),
    (1, {"value": 7}, "a row: conversations: value: Input should be a valid string"),
    (2, {"value": "Action: w\nFinal Answer: x"}, "not followed by Action Input"),
    (2, {"value": "Action: w\nAction Input: X" + END}, "not an object"),
    (2, {"value": "Action: w\nAction Input: {}" + END}, "leaves out a required"),
    (2, {"value": "Action: w\nAction Input: {'city': 'a', 'b': 1}" + END}, "does not have"),
    (2, {"value": "Thought: hm"}, "does not end in one Final Answer"),
]
VALUES = st.recursive(
    st.text(max_size=9) | st.integers() | st.booleans() | st.none() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(alphabet="ab'\"\\, :{}\n") | st.text(), VALUES))
def test_an_input_reads_the_same_as_python_literal_and_as_json(arguments):
    assert ms_agent.parse_input(repr(arguments)) == arguments
    assert ms_agent.parse_input(json.dumps(arguments)) == arguments
