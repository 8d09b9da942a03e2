"""Rows at the door: every format becomes canonical or is rejected with a reason; none vanishes."""

import copy
import json

import pytest
from conftest import call_message, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import agentfabric, assets, convert, data, ms_agent

CALL = {"name": "book_hotel", "arguments": {"city": "Lisbon", "nights": 2}}
TALK = [
    ("human", "Hello"),
    ("gpt", "Hi."),
    ("human", "Book two nights in Lisbon."),
    ("function_call", json.dumps(CALL)),
    ("observation", "HB-7"),
    ("gpt", "Booked: HB-7."),
]
EXPECTED = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Book two nights in Lisbon."},
    call_message("book_hotel", **CALL["arguments"]),
    {"role": "tool_response", "content": "HB-7"},
    {"role": "assistant", "content": "Booked: HB-7."},
]


def read(tmp_path, *rows, name="rows.jsonl"):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(json.dumps(rows) if name.endswith(".json") else lines, "utf-8")
    return list(data.read_rows(tmp_path / name))


def conversations(*turns):
    return [{"from": who, "value": value} for who, value in turns]


def sharegpt(**more):
    tools = json.dumps([tool()["function"]])
    return {"conversations": conversations(*TALK), "tools": tools, **more}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_sharegpt_and_its_file_endings(tmp_path, name):
    (row,) = read(tmp_path, sharegpt(system="Be brief."), name=name)
    expected = {"id": "line-1", "instruction": "Be brief.", "tools": [tool()]}
    assert row == {**expected, "messages": EXPECTED}


def test_openai_messages_with_parallel_calls_become_calls_in_turn(tmp_path):
    def call(number, city):
        function = {"name": "book_hotel", "arguments": json.dumps({"city": city})}
        return {"id": f"c{number}", "type": "function", "function": function}

    def result(number, content):
        return {"role": "tool", "tool_call_id": f"c{number}", "content": content}

    asked = {"role": "user", "content": "Book Rome and Oslo."}
    calls = {"role": "assistant", "content": None, "tool_calls": [call(0, "Rome"), call(1, "Oslo")]}
    results, answer = (
        [result(1, "O-1"), result(0, "R-1")],
        {"role": "assistant", "content": "Done."},
    )
    whole = {"id": 7, "tools": [tool()], "messages": [asked, calls, *results, answer]}
    half = {**whole, "messages": [asked, calls, results[0], answer]}
    stray = {**whole, "messages": [asked, results[0], answer]}
    row, *rejected = read(tmp_path, whole, half, stray)
    assert (row["id"], row["messages"][0], row["messages"][-1]) == ("7", asked, answer)
    assert row["messages"][1:5] == [
        call_message("book_hotel", city="Oslo"),
        {"role": "tool_response", "content": "O-1"},
        call_message("book_hotel", city="Rome"),
        {"role": "tool_response", "content": "R-1"},
    ]
    reasons = ["a call is not followed by its result", "a tool's result answers no call"]
    assert [one.reason for one in rejected] == reasons


def test_canonical_rows_pass_unchanged_and_a_recorded_prompt_says_where_to_go(
    tmp_path, row, two_turns
):
    parts = {"instruction": "Be brief.", "role": "clerk", "knowledge": "Facts."}
    assert read(tmp_path, row, {**two_turns, **parts}) == [row, {**two_turns, **parts}]
    request = agentfabric.first_request(row["tools"], "Hello")
    turns = [(one["role"], one["content"]) for one in request] + [("assistant", "Hi.")]
    recorded = {"id": "r", "conversations": conversations(*turns)}
    rejected = read(tmp_path, recorded, recorded)
    assert [one.row for one in rejected] == [recorded] * 2
    assert all("python -m helpers.record" in one.reason for one in rejected)


def test_seal_tools_needs_its_catalogue_and_offers_distractors(tmp_path):
    call = {"api": "income", "parameters": {"revenue": "40.5"}}
    row = {"id": "q1", "query": "Net income?", "calling": [call]}
    with pytest.raises(assets.KitError, match="tool.jsonl"):
        read(tmp_path, row)
    revenue = {"revenue": {"type": "float", "description": "r"}}
    tools = [
        {"api_name": name, "api_description": name, "required": ["revenue"], "parameters": revenue}
        for name in ("income", "tax", "cost", "gain")
    ]
    assets.write_jsonl(tmp_path / "tool.jsonl", tools)
    wordy = {**row, "calling": [{"api": "income", "parameters": {"revenue": "a lot"}}]}
    several, unknown = {**row, "calling": [call] * 2}, {**row, "calling": [{"api": "x"}]}
    good, *rejected = read(tmp_path, row, wordy, several, unknown)
    assert good["messages"][1] == call_message("income", revenue=40.5), "the catalogue says float"
    assert len(good["tools"]) == 1 + data.DISTRACTORS and len(rejected) == 3
    for format, end in (("wire", good["messages"][1]["content"]), ("react", '{"revenue": 40.5}')):
        (training_row,) = convert.render_rows([good], format)
        assert training_row["messages"][-1]["content"].endswith(end), (
            "without a result, a call ends it"
        )


def test_conversations_as_the_hub_hands_them_out_are_a_python_literal(tmp_path, row):
    plain = ms_agent.to_ms_agent(row)
    text, broken = [
        {**plain, "conversations": it} for it in (repr(plain["conversations"]), "[{1}]")
    ]
    first, good, bad = read(tmp_path, text, plain, broken)
    assert first == good and good["messages"] == row["messages"]
    assert "Python literal" in bad.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.update(tools="[{"), "tools: not JSON"),
        (lambda row: row.update(tools=[{"description": "x"}]), "a tool: name: Field required"),
        (lambda row: row.update(tools=[{"name": "x", "parameters": [1]}]), "parameters: Input"),
        (lambda row: row["conversations"].pop(3), "turns are not user"),
        (lambda row: row["conversations"].pop(), "turns are not user"),
        (lambda row: row["conversations"][3].update(value="{"), "a call: not JSON"),
        (
            lambda row: row["conversations"][3].update(value="[1]"),
            "a call: Input should be an object",
        ),
        (lambda row: row["conversations"][3].update(value='{"name": "fly"}'), "does not list"),
        (lambda row: row["conversations"][0].update({"from": "narrator"}), "turns are not user"),
        (lambda row: row["conversations"][0].update(value=" "), "an empty turn"),
        (lambda row: row.pop("conversations"), "turns are not user"),
    ],
)
def test_sharegpt_rows_that_do_not_fit_are_rejected(tmp_path, change, reason):
    broken = sharegpt(id="b")
    change(broken)
    good, rejected = read(tmp_path, sharegpt(), broken)
    assert (rejected.line, rejected.id, rejected.row) == (2, "b", broken)
    assert reason in rejected.reason


def test_a_file_of_no_format_is_rejected_row_by_row(tmp_path):
    rejected = read(tmp_path, {"text": "hello"}, {"text": "there"}, 3)
    assert [one.reason.split(":")[0] for one in rejected[:2]] == ["no known format"] * 2
    (tmp_path / "x.jsonl").write_text('{"id": "cut\n\n"text"\n')
    assert [(one.line, one.row) for one in data.load(tmp_path / "x.jsonl")[1]] == [
        (1, '{"id": "cut'),
        (3, "text"),
    ]
    for text in ("{", "{}"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(assets.KitError, match="not hold a list"):
            data.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("llamafactory_demo/glaive_toolcall_en_demo.json", (300, 0)),
        ("llamafactory_demo/glaive_toolcall_zh_demo.json", (296, 4)),
        ("seal_tools/dev.jsonl", (200, 500)),
    ],
)
def test_the_third_party_rows_are_read(shared, name, counts):
    rows, rejected = data.load(shared / name)
    assert (len(rows), len(rejected)) == counts
    assert all([*convert.render_rows([row], "wire")] for row in rows)


GOOD = [
    ms_agent.to_ms_agent({"id": "m", "tools": [tool()], "messages": EXPECTED}),
    sharegpt(id="s"),
    {"id": "c", "tools": [tool()] * 3, "messages": EXPECTED},
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@st.composite
def mutated(draw):
    """A good row with a part replaced, removed or repeated; as bytes, perhaps cut or recoded."""
    row = copy.deepcopy(draw(st.sampled_from(GOOD)))
    turns = row.get("conversations") or row["messages"]
    turn, place = draw(st.sampled_from(turns)), draw(st.integers(0, len(turns) - 1))
    action = draw(st.sampled_from(["value", "junk", "drop", "repeat", "shuffle", "key", "tools"]))
    if action == "value":
        turn[draw(st.sampled_from(sorted(turn)))] = draw(JUNK)
    elif action == "junk":
        turns[place] = draw(JUNK)
    elif action == "drop":
        turns.remove(turn)
    elif action == "repeat":
        turns[:] = turns * draw(st.integers(2, 40))
    elif action == "shuffle":
        turns[:] = draw(st.permutations(turns))
    elif action == "key":
        row[draw(st.sampled_from(sorted(row)))] = draw(JUNK)
    elif "tools" in row:
        row["tools"] = draw(JUNK | st.just([tool()] * 2000))
    line = json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(line)))
    recoded = line.decode("utf-8", "replace").encode("utf-16")
    lines = [line, line[:cut], line[:cut] + b"\xff\x00" + line[cut:], b"[" * 3000, recoded]
    return draw(st.sampled_from(lines)).replace(b"\n", b" ")


@settings(deadline=None, max_examples=200)
@given(st.lists(mutated(), max_size=4), st.sampled_from(GOOD))
def test_mutated_files_never_raise_and_every_row_is_accounted_for(tmp_path_factory, lines, first):
    path = tmp_path_factory.mktemp("m") / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(first).encode("utf-8"), *lines]))
    good, *results = data.read_rows(path)
    assert isinstance(good, dict) and len(results) == sum(bool(line.strip()) for line in lines)
    for one in results:
        assert (
            isinstance(one, data.Rejected) and one.reason or [*convert.render_rows([one], "wire")]
        )
