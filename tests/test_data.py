"""Rows at the door: every format becomes canonical or is rejected with a reason; none vanishes."""

import copy
import json

import pytest
from conftest import call_message, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import agentfabric, assets, convert, data, ms_agent

EXPECTED = [
    {"role": "user", "content": "Book two nights in Lisbon."},
    call_message("book_hotel", city="Lisbon", nights=2),
    {"role": "tool_response", "content": "HB-7"},
    {"role": "assistant", "content": "Booked: HB-7."},
]
SPEAKERS = {"user": "human", "assistant": "gpt"}
SPEAKERS |= {"tool_call": "function_call", "tool_response": "observation"}


def read(tmp_path, *rows, name="rows.jsonl"):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(json.dumps(rows) if name.endswith(".json") else lines, "utf-8")
    return list(data.read_rows(tmp_path / name))


def conversations(messages):
    return [{"from": one["role"], "value": one["content"]} for one in messages]


def sharegpt(**more):
    turns = conversations([one | {"role": SPEAKERS[one["role"]]} for one in EXPECTED])
    return {"conversations": turns, "tools": json.dumps([tool()["function"]]), **more}


def test_sharegpt_and_its_file_endings(tmp_path):
    parts = {"id": "line-1", "instruction": "Be brief.", "tools": [tool()], "messages": EXPECTED}
    for name in ("rows.jsonl", "rows.json"):
        assert read(tmp_path, sharegpt(system="Be brief."), name=name) == [parts]


def test_openai_messages_with_parallel_calls_become_calls_in_turn(tmp_path):
    asked, calls = {"role": "user", "content": "Book Rome and Oslo."}, []
    for city in ("Rome", "Oslo"):
        function = {"name": "book_hotel", "arguments": json.dumps({"city": city})}
        calls.append({"id": city, "type": "function", "function": function})
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    oslo, rome = ({"role": "tool", "tool_call_id": one, "content": one} for one in ("Oslo", "Rome"))
    talks = [asked, called, oslo, rome, EXPECTED[-1]], [asked, called, oslo, asked], [asked, oslo]
    row, half, stray = read(tmp_path, *({"tools": [tool()], "messages": one} for one in talks))
    results = [{"role": "tool_response", "content": city} for city in ("Oslo", "Rome")]
    made = [call_message("book_hotel", city=city) for city in ("Oslo", "Rome")]
    assert row["messages"] == [asked, made[0], results[0], made[1], results[1], EXPECTED[-1]]
    assert half.reason == "a call is not followed by its result"
    assert stray.reason == "a tool's result answers no call"


def test_canonical_rows_pass_and_recorded_prompts_say_where_to_go(tmp_path, row, two_turns):
    parts = {"instruction": "Be brief.", "role": "clerk", "knowledge": "Facts."}
    assert read(tmp_path, row, {**two_turns, **parts}) == [row, {**two_turns, **parts}]
    request = agentfabric.first_request(row["tools"], "Hello")
    recorded = {"id": "r", "conversations": conversations([*request, EXPECTED[-1]])}
    for rejected in read(tmp_path, recorded, recorded):
        assert rejected.row == recorded and "python -m helpers.record" in rejected.reason


def test_seal_tools_needs_its_catalogue_and_offers_distractors(tmp_path):
    call = {"api": "income", "parameters": {"revenue": "40.5"}}
    row = {"id": "q1", "query": "Net income?", "calling": [call]}
    with pytest.raises(assets.KitError, match="tool.jsonl"):
        read(tmp_path, row)
    listed = {"required": ["revenue"], "parameters": {"revenue": {"type": "float"}}}
    names = ("income", "tax", "cost", "gain")
    tools = [{"api_name": name, "api_description": name, **listed} for name in names]
    assets.write_jsonl(tmp_path / "tool.jsonl", tools)
    callings = [{**call, "parameters": {"revenue": "a lot"}}], [call, call], [{"api": "x"}]
    good, *rejected = read(tmp_path, row, *({**row, "calling": one} for one in callings))
    assert good["messages"][1] == call_message("income", revenue=40.5), "the catalogue says float"
    assert len(good["tools"]) == 1 + data.DISTRACTORS and len(rejected) == 3
    for format in convert.FORMATS:  # without a result, the call is the end
        (training_row,) = convert.render_rows([good], format)
        assert '{"revenue": 40.5}' in training_row["messages"][-1]["content"][-19:]


def test_conversations_as_the_hub_hands_them_out_are_a_python_literal(tmp_path, row):
    plain = ms_agent.to_ms_agent(row)
    texts = repr(plain["conversations"]), plain["conversations"], "[{1}]"
    first, good, bad = read(tmp_path, *({**plain, "conversations": one} for one in texts))
    assert first == good and good["messages"] == row["messages"]
    assert "Python literal" in bad.reason


BROKEN = [
    (None, {"tools": "[{"}, "tools: not JSON"),
    (None, {"tools": [{"description": "x"}]}, "a tool: name: Field required"),
    (None, {"tools": [{"name": "x", "parameters": [1]}]}, "a tool: parameters: Input"),
    (None, {"conversations": []}, "turns are not user"),
    (3, {"from": "human"}, "turns are not user"),
    (0, {"from": "narrator"}, "turns are not user"),
    (0, {"value": " "}, "an empty turn"),
    (1, {"value": "{"}, "a call: not JSON"),
    (1, {"value": "[1]"}, "a call: Input should be an object"),
    (1, {"value": '{"name": "fly"}'}, "does not list"),
]


def test_rows_that_do_not_fit_are_rejected_with_line_id_reason_and_row(tmp_path):
    rows = [sharegpt(id=f"b{n}") for n in range(len(BROKEN))]
    for row, (turn, change, _) in zip(rows, BROKEN):
        (row if turn is None else row["conversations"][turn]).update(change)
    rejected = read(tmp_path, sharegpt(), *rows)[1:]
    for n, (one, (_, _, reason)) in enumerate(zip(rejected, BROKEN, strict=True)):
        assert (one.line, one.id, one.row) == (n + 2, f"b{n}", rows[n])
        assert reason in one.reason


def test_what_is_no_row_at_all(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "cut\n\n"text"\n{"text": "hello"}\n3')
    rows, rejected = data.load(tmp_path / "x.jsonl")
    assert [one.line for one in rejected] == [1, 3, 4, 5] and rows == []
    assert rejected[0].row == '{"id": "cut' and rejected[2].reason.startswith("no known format")
    for text in ("{", "{}"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(assets.KitError, match="not hold a list"):
            data.load(tmp_path / "x.json")


def test_third_party_rows_are_read(shared):
    demo, seal = "llamafactory_demo/glaive_toolcall_{}_demo.json", "seal_tools/dev.jsonl"
    paths = {demo.format("en"): (300, 0), demo.format("zh"): (296, 4), seal: (200, 500)}
    for path, counts in paths.items():
        rows, rejected = data.load(shared / path)
        assert (len(rows), len(rejected)) == counts
        assert all([*convert.render_rows([row], "wire")] for row in rows)


GOOD = [
    ms_agent.to_ms_agent({"id": "m", "tools": [tool()], "messages": EXPECTED}),
    sharegpt(id="s"),
    {"id": "c", "tools": [tool()] * 3, "messages": EXPECTED},
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=5), it, max_size=3),
)


@st.composite
def mutated(draw):
    """A good row with a part replaced, removed or repeated; as bytes, perhaps cut or recoded."""
    row, junk = copy.deepcopy(draw(st.sampled_from(GOOD))), draw(JUNK)
    turns, text = row.get("conversations") or row["messages"], draw(st.text(max_size=9))
    place, times = draw(st.integers(0, len(turns) - 1)), draw(st.integers(2, 40))
    changes = [
        lambda: turns[place].update({draw(st.sampled_from(sorted(turns[place]))): junk}),
        lambda: row.update({draw(st.sampled_from(sorted(row))): junk}),
        lambda: turns[0].update(
            {key: it[:times] + text + it[times:] for key, it in turns[0].items()}
        ),
        lambda: turns.insert(place, junk),
        lambda: turns.pop(place),
        lambda: turns.extend(turns * times),
        lambda: row.update(tools=[tool()] * 50 * times),
    ]
    draw(st.sampled_from(changes))()
    line = json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(line)))
    lines = [line, line[:cut], line[:cut] + b"\xff\x00" + line[cut:], b"[" * 3000]
    return draw(st.sampled_from(lines)).replace(b"\n", b" ")


@settings(deadline=None, max_examples=200)
@given(st.lists(mutated(), max_size=4), st.sampled_from(GOOD))
def test_mutated_files_never_raise_and_every_row_is_accounted_for(tmp_path_factory, lines, first):
    path = tmp_path_factory.mktemp("m") / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(first).encode("utf-8"), *lines]))
    good, *results = data.read_rows(path)
    assert isinstance(good, dict) and len(results) == sum(bool(line.strip()) for line in lines)
    for row in results:
        assert (
            row.reason if isinstance(row, data.Rejected) else [*convert.render_rows([row], "wire")]
        )
