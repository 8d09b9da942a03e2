"""Rows at the door: every format becomes canonical or is rejected with a reason; none vanishes."""

import copy
import json

import pytest
from conftest import call_message, tool
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ms_agent import BROKEN as BROKEN_MS_AGENT
from test_ms_agent import VALUES, good_row

from helpers import agentfabric, assets, convert, data, ms_agent

CANONICAL = ms_agent.to_canonical(good_row())
EXPECTED = CANONICAL["messages"]


def read(tmp_path, *rows, name="rows.jsonl"):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(json.dumps(rows) if name.endswith(".json") else lines, "utf-8")
    return list(data.read_rows(tmp_path / name))


def sharegpt():
    speakers = "human function_call observation gpt".split()
    turns = [{"from": who, "value": one["content"]} for who, one in zip(speakers, EXPECTED)]
    return {"conversations": turns, "tools": json.dumps(CANONICAL["tools"])}


def test_every_format_is_read_from_either_kind_of_file(tmp_path, row, two_turns):
    parts = {**CANONICAL, "id": "line-1", "instruction": "Be brief."}
    for name in ("rows.jsonl", "rows.json"):
        assert read(tmp_path, sharegpt() | {"system": "Be brief."}, name=name) == [parts]
    rows = [row, {**two_turns, "instruction": "Be brief.", "role": "clerk", "knowledge": "Facts."}]
    assert read(tmp_path, *rows) == rows
    recorded = {"messages": agentfabric.first_request(row["tools"], "Hello")}
    (rejected,) = read(tmp_path, recorded)
    assert rejected.row == recorded and "python -m helpers.record" in rejected.reason
    plain = ms_agent.to_ms_agent(row)
    literals = repr(plain["conversations"]), plain["conversations"], "[{1}]"  # as on the hub
    first, good, bad = read(tmp_path, *({**plain, "conversations": one} for one in literals))
    assert first == good and good["messages"] == row["messages"]
    assert "Python literal" in bad.reason


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


def test_seal_tools_needs_its_catalogue_and_offers_distractors(tmp_path):
    call = {"api": "income", "parameters": {"revenue": "40.5"}}
    row = {"id": "q1", "query": "Net income?", "calling": [call]}
    with pytest.raises(assets.KitError, match="tool.jsonl"):
        read(tmp_path, row)
    listed = {"required": ["revenue"], "parameters": {"revenue": {"type": "float"}}}
    names = "income tax cost gain".split()
    tools = [{"api_name": name, "api_description": name, **listed} for name in names]
    assets.write_jsonl(tmp_path / "tool.jsonl", tools)
    callings = [{**call, "parameters": {"revenue": "a lot"}}], [call, call], [{"api": "x"}]
    good, *rejected = read(tmp_path, row, *({**row, "calling": one} for one in callings))
    assert good["messages"][1] == call_message("income", revenue=40.5), "the catalogue says float"
    assert len(good["tools"]) == 1 + data.DISTRACTORS and len(rejected) == 3
    for format in ("wire", "trace", "react", "hermes"):  # without a result, the call is the end
        (training_row,) = convert.render_rows([good], format)
        assert '{"revenue": 40.5}' in training_row["messages"][-1]["content"][-19:]


BROKEN = [
    (None, {"tools": "[{"}, "tools: not JSON"),
    (None, {"tools": [{"description": "x"}]}, "a tool: name: Field required"),
    (None, {"tools": [{"name": "x", "parameters": [1]}]}, "a tool: parameters: Input"),
    (None, {"conversations": []}, "turns are not user"),
    (3, {"from": "human"}, "turns are not user"),
    (0, {"value": " "}, "an empty turn"),
    (1, {"value": "{"}, "a call: not JSON"),
    (1, {"value": "[1]"}, "a call: Input should be an object"),
    (1, {"value": '{"name": "fly"}'}, "does not list"),
]


@pytest.mark.parametrize(("good", "broken"), [(sharegpt, BROKEN), (good_row, BROKEN_MS_AGENT)])
def test_rows_that_do_not_fit_are_rejected_with_line_id_reason_and_row(tmp_path, good, broken):
    rows = [{**good(), "id": f"b{n}"} for n in range(len(broken))]
    for row, (turn, change, _) in zip(rows, broken):
        (row if turn is None else row["conversations"][turn]).update(change)
    first, *rejected = read(tmp_path, good(), *rows)
    assert first["messages"] == EXPECTED
    for n, (one, (_, _, reason)) in enumerate(zip(rejected, broken, strict=True)):
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


GOOD = [good_row(), sharegpt(), {**CANONICAL, "tools": CANONICAL["tools"] * 3}]


@st.composite
def mutated(draw):
    """A good row with a part replaced, removed or repeated; as bytes, perhaps cut or recoded."""
    row, junk = copy.deepcopy(draw(st.sampled_from(GOOD))), draw(VALUES | st.floats())
    turns = row.get("conversations") or row["messages"]
    place, times = draw(st.integers(0, len(turns) - 1)), draw(st.integers(2, 40))
    part = draw(st.sampled_from([row, turns[place]]))
    changes = [
        lambda: part.update({draw(st.sampled_from(sorted(part))): junk}),
        lambda: turns.insert(place, junk),
        lambda: turns.pop(place),
        lambda: turns.extend(turns * times),
        lambda: row.update(tools=[tool()] * 50 * times),
    ]
    draw(st.sampled_from(changes))()
    line = json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut, text = draw(st.integers(0, len(line))), draw(st.text(max_size=9) | st.just("\0"))
    inside = [line[:cut] + one + line[cut:] for one in (b"\xff", text.encode("utf-8"))]
    return draw(st.sampled_from([line, line[:cut], *inside, b"[" * 3000])).replace(b"\n", b" ")


@settings(deadline=None, max_examples=200)
@given(st.lists(mutated(), max_size=4), st.sampled_from(GOOD))
def test_mutated_files_never_raise_and_every_row_is_accounted_for(tmp_path_factory, lines, first):
    path = tmp_path_factory.mktemp("m") / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(first).encode("utf-8"), *lines]))
    good, *results = data.read_rows(path)
    assert isinstance(good, dict) and len(results) == sum(bool(line.strip()) for line in lines)
    for row in results:
        ok = row.reason if isinstance(row, data.Rejected) else [*convert.render_rows([row], "wire")]
        assert ok
