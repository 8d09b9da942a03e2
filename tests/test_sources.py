"""Rows at the door: every format becomes canonical or is set aside with a reason; none vanishes, none raises."""

import copy
import json

import pytest
from conftest import call_message, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import agentfabric, assets, canonical, convert, corpus, dialogues, formats, sources

CALL = {"name": "book_hotel", "arguments": {"city": "Lisbon", "nights": 2}}
TALK = [("human", "Hello"), ("gpt", "Hi."), ("human", "Book two nights in Lisbon."),
        ("function_call", json.dumps(CALL)), ("observation", "HB-7"), ("gpt", "Booked: HB-7.")]


def read(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    return list(sources.read_rows(path))


def sharegpt(**more):
    return {"conversations": [{"from": who, "value": value} for who, value in TALK],
            "tools": json.dumps([tool()["function"]]), **more}


EXPECTED = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Book two nights in Lisbon."}, call_message("book_hotel", **CALL["arguments"]),
            {"role": "tool_response", "content": "HB-7"}, {"role": "assistant", "content": "Booked: HB-7."}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_sharegpt_and_its_file_endings(tmp_path, name):
    (row,) = read(tmp_path, sharegpt(system="Be brief."), name=name)
    assert row == {"id": "line-1", "instruction": "Be brief.", "tools": [tool()], "messages": EXPECTED}


def test_openai_messages_with_parallel_calls_become_calls_in_turn(tmp_path):
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "book_hotel", "arguments": json.dumps({"city": city})}}
             for n, city in enumerate(["Rome", "Oslo"])]
    (row,) = read(tmp_path, {"id": 7, "tools": [tool()], "messages": [
        {"role": "user", "content": "Book Rome and Oslo."}, {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "O-1"}, {"role": "tool", "tool_call_id": "c0", "content": "R-1"},
        {"role": "assistant", "content": "O-1 and R-1."}]})
    assert row["id"] == "7" and row["messages"][1:5] == [
        call_message("book_hotel", city="Oslo"), {"role": "tool_response", "content": "O-1"},
        call_message("book_hotel", city="Rome"), {"role": "tool_response", "content": "R-1"}]


@pytest.mark.parametrize("wording", ["0.7.1", "0.7.2"])
def test_agentfabrics_own_prompts_are_read_back(tmp_path, two_turns, wording):
    parts = {"instruction": "你是旅行助手。\n只用工具。", "knowledge": "一段知识"}
    system = agentfabric.system_prompt(two_turns["tools"], parts["instruction"], "zh", wording=wording, knowledge=parts["knowledge"])
    first, second = corpus.turns_of(two_turns)
    prefix = agentfabric.query_prefix(two_turns["tools"], "zh", role="旅行助手", knowledge=True)
    turns = [("system", system), ("user", first.query), ("assistant", corpus.trace_text(first)),
             ("user", prefix + second.query), ("assistant", " " + second.answer)]
    spoilt = [("system", system.replace('"city"', '"\\city"')), *turns[1:]]
    good, bad = read(tmp_path, *({"id": "r2", "conversations": [{"from": who, "value": value} for who, value in one]}
                                 for one in (turns, spoilt)))
    assert good == {**two_turns, **parts, "role": "旅行助手"}
    assert bad.reason == "a tool's line cannot be read", "as the seed's converter leaves them"


def test_canonical_rows_pass_unchanged(tmp_path, row, two_turns):
    assert read(tmp_path, row, two_turns) == [row, two_turns]


def test_seal_tools_needs_its_catalogue_and_offers_distractors(tmp_path):
    query = {"id": "q1", "query": "Net income?", "calling": [{"api": "income", "parameters": {"revenue": "40.5"}}]}
    with pytest.raises(FileNotFoundError, match="tool.jsonl"):
        read(tmp_path, query)
    sources.format_at.cache_clear()
    tools = [{"api_name": name, "api_description": name, "required": ["revenue"],
              "parameters": {"revenue": {"type": "float", "description": "r"}}} for name in ("income", "tax", "cost", "gain")]
    (tmp_path / "tool.jsonl").write_text("\n".join(map(json.dumps, tools)), "utf-8")
    bad = {**query, "calling": [{"api": "income", "parameters": {"revenue": "a lot"}}]}
    good, rejected, several = read(tmp_path, query, bad, {**query, "calling": query["calling"] * 2})
    assert good["messages"][1] == call_message("income", revenue=40.5), "the catalogue says float"
    assert len(good["tools"]) == 1 + formats.DISTRACTORS
    assert "no number" in rejected.reason and "several calls" in several.reason
    (training_row,) = corpus.render_rows([good], "wire")
    assert training_row["messages"][-1] == call_message("income", revenue=40.5), "without a result, the call is the end"
    sources.format_at.cache_clear()


def test_conversations_as_the_hub_hands_them_out_are_a_python_literal(tmp_path, row):
    plain = dialogues.to_ms_agent(row)
    text = {"id": plain["id"], "conversations": repr(plain["conversations"])}
    good, same, bad, worse = read(tmp_path, plain, text, {**text, "conversations": "[{"}, {**text, "conversations": "[{1}]"})
    assert good == same and good["messages"] == row["messages"]
    assert "Python literal" in bad.reason and "Python literal" in worse.reason
    report = convert.convert(str(tmp_path / "rows.jsonl"), "seed", tmp_path / "seed.jsonl")
    assert (report.converted, report.rows_in) == (2, 4)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda row: row.update(tools="[{"), "tools are not JSON"),
    (lambda row: row.update(tools=[{"description": "x"}]), "a tool has no name"),
    (lambda row: row.update(tools=[{"name": "x", "parameters": {"properties": [1]}}]), "not a JSON schema"),
    (lambda row: row["conversations"].pop(3), "a turn of tool_response where"),
    (lambda row: row["conversations"].pop(), "the last turn has no reply"),
    (lambda row: row["conversations"][3].update(value="{"), "a call is not JSON"),
    (lambda row: row["conversations"][3].update(value="[1]"), "a call is not {name, arguments}"),
    (lambda row: row["conversations"][3].update(value='{"name": "fly", "arguments": {}}'), "does not list"),
    (lambda row: row["conversations"][0].update({"from": "narrator"}), "nobody we know"),
    (lambda row: row["conversations"][0].update(value=" "), "an empty turn of user"),
])
def test_sharegpt_rows_that_do_not_fit_are_set_aside(tmp_path, change, reason):
    broken = sharegpt(id="b")
    change(broken)
    good, rejected = read(tmp_path, sharegpt(), broken)
    assert (rejected.line, rejected.id, rejected.row) == (2, "b", broken) and reason in rejected.reason


def test_a_file_of_no_format_is_rejected_row_by_row(tmp_path):
    rejected = read(tmp_path, {"text": "hello"}, {"text": "there"})
    assert [one.reason.split(":")[0] for one in rejected] == ["no format we know"] * 2


def test_a_json_file_must_be_a_list(tmp_path):
    for text, message in (("{", "is not JSON"), ("{}", "does not hold a list")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            list(sources.read_rows(tmp_path / "x.json"))


def test_the_third_party_rows_are_read(shared):
    counts = {}
    for name in ("llamafactory_demo/glaive_toolcall_en_demo.json", "llamafactory_demo/glaive_toolcall_zh_demo.json",
                 "seal_tools/dev.jsonl", "ms_agent_real/ms_agent_real_rows.jsonl"):
        rows, rejected = sources.split_rejected(sources.read_rows(shared / name))
        counts[name.split("/")[1][:22]] = (len(rows), len(rejected))
        assert all([*corpus.render_rows([row], "wire")] for row in rows)
    assert counts == {"glaive_toolcall_en_dem": (300, 0), "glaive_toolcall_zh_dem": (296, 4), "dev.jsonl": (200, 500),
                      "ms_agent_real_rows.jso": (1, 0)}


def test_ms_agent_there_and_back_keeps_tools_and_calls():
    for row in sources.read_rows(assets.dataset_file("authored")):
        again = dialogues.to_canonical(dialogues.to_ms_agent(row))
        assert again == row


def test_the_runtime_reads_the_same_calls_from_wire_rows_of_the_authored_set():
    for row in sources.read_rows(assets.dataset_file("authored")):
        replies = [agentfabric.render_call(**reply) for _, reply in corpus.wire_requests(row) if isinstance(reply, dict)]
        read = [agentfabric.read_calls(text)[0] for text in replies]
        assert [{"name": call.name, "arguments": agentfabric.parse_arguments(call.arguments)} for call in read] == \
            canonical.calls_of(row["messages"])


GOOD = [dialogues.to_ms_agent({"id": "m", "tools": [tool()], "messages": EXPECTED}), sharegpt(id="s"),
        {"id": "c", "tools": [tool()] * 3, "messages": EXPECTED}]
junk = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


@st.composite
def mutated(draw):
    """A good row of some format with one part of it replaced, removed or repeated; as bytes, perhaps cut or recoded."""
    row = copy.deepcopy(draw(st.sampled_from(GOOD)))
    turns = row.get("conversations") or row["messages"]
    action = draw(st.sampled_from(["value", "junk", "drop", "repeat", "shuffle", "key", "tools"]))
    turn = draw(st.sampled_from(turns))
    if action == "value":
        turn[draw(st.sampled_from(sorted(turn)))] = draw(junk)
    elif action == "junk":
        turns[draw(st.integers(0, len(turns) - 1))] = draw(junk)
    elif action == "drop":
        turns.remove(turn)
    elif action == "repeat":
        turns[:] = turns * draw(st.integers(2, 40))
    elif action == "shuffle":
        turns[:] = draw(st.permutations(turns))
    elif action == "key":
        row = {key: row[key] for key in draw(st.permutations(sorted(row)))}
        row[draw(st.sampled_from(sorted(row)))] = draw(junk)
    elif "tools" in row:
        row["tools"] = draw(junk | st.just([tool()] * 2000))
    line = json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(line)))
    return draw(st.sampled_from([line, line[:cut], line[:cut] + b"\xff\x00" + line[cut:], b"[" * 3000,
                                 line.decode("utf-8", "replace").encode("utf-16")])).replace(b"\n", b" ")


@settings(deadline=None, max_examples=300)
@given(st.lists(mutated(), max_size=4), st.sampled_from(GOOD))
def test_mutated_files_never_raise_and_every_row_is_accounted_for(tmp_path_factory, lines, first):
    path = tmp_path_factory.mktemp("m") / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(first).encode("utf-8"), *lines]))
    results = list(sources.read_rows(path))
    assert len(results) == 1 + sum(bool(line.strip()) for line in lines) and isinstance(results[0], dict)
    for one in results:
        assert isinstance(one, sources.Rejected) and one.reason or [*corpus.render_rows([one], "wire")]
