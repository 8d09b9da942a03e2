"""Training rows of the four formats, and files of them: exact accounting, whole or not at all."""

import json

import pytest
from conftest import call_message
from test_ms_agent import good_row

from helpers import agentfabric, assets, convert, data, ms_agent

BOOK = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'
BOOKED = '{"booking": "HB-7", "price": 80}'


def test_wire_rows_are_the_requests_of_the_openai_path(two_turns):
    call, chained, summary, thanks = convert.render_rows([two_turns], "wire")
    prefix = "(. you can use tools: [book_hotel,get_time])"
    assert call["messages"][1]["content"] == prefix + "Book a hotel in Lisbon for 2 nights."
    assert call["messages"][2] == call_message("book_hotel", city="Lisbon", nights=2)
    trace = f"{BOOK}\nObservation: <result>{BOOKED}</result>\nAnswer:"
    assert chained["messages"][1]["content"].endswith("nights." + trace)
    assert chained["messages"][2] == call_message("get_time", city="Lisbon")
    trace += 'Action: get_time\nAction Input: {"city": "Lisbon"}'
    trace += "\nObservation: <result>9:41</result>\nAnswer:"
    assert summary["messages"][1]["content"].endswith("nights." + trace)
    assert summary["messages"][2]["content"] == "HB-7; it is 9:41 there."
    system, earlier, answered, query, reply = thanks["messages"]
    assert earlier["content"] == "Book a hotel in Lisbon for 2 nights.", "history has no prefix"
    assert answered["content"] == trace + "HB-7; it is 9:41 there."
    assert query["content"] == prefix + "Thanks!" and reply["role"] == "assistant"


def test_a_prompt_with_knowledge_is_written_out_because_the_template_has_no_room(two_turns):
    row = two_turns | {"instruction": "Be brief.", "role": "clerk", "knowledge": "一段知识"}
    system = agentfabric.system_prompt(row["tools"], "Be brief.", "zh", knowledge="一段知识")
    (trace,), wire = convert.render_rows([row], "trace"), [*convert.render_rows([row], "wire")]
    assert [one["messages"][:-1] for one in wire] == [one for one, _ in convert.requests_of(row)]
    for one in (trace, *wire):
        assert one["tools"] == convert.NO_TOOLS and one["messages"][0]["content"] == system


def test_trace_react_hermes_and_rows_without_tools(row):
    call, answer = BOOK + "\nObservation: ", "Booked: HB-7, 80 euros."
    (trace,) = convert.render_rows([row], "trace")
    assert json.loads(trace["tools"]) == row["tools"]
    system, user, reply = [one["content"] for one in trace["messages"]]
    assert system == agentfabric.DEFAULT_INSTRUCTION["en"]
    assert user == "(. you can use tools: [book_hotel])Book a hotel in Lisbon for 2 nights."
    assert reply == f"{call}<result>{BOOKED}</result>\nAnswer:{answer}"
    (react,) = convert.render_rows([row], "react")
    thought = "\nThought: I now know the final answer\nFinal Answer: "
    assert react["messages"][1]["content"] == call + BOOKED + thought + answer
    (hermes,) = convert.render_rows([row], "hermes")
    assert hermes["messages"] == row["messages"]
    plain = {"id": "p", "tools": [], "messages": row["messages"][::3]}
    for format in convert.FORMATS:
        assert [*convert.render_rows([plain], format)] == [{**plain, "tools": convert.NO_TOOLS}]


def test_the_runtime_reads_the_same_calls_from_wire_rows_of_the_authored_set():
    for row in data.read_rows("authored"):
        calls = [reply for _, reply in convert.requests_of(row) if isinstance(reply, dict)]
        assert calls == agentfabric.calls_of(row["messages"])
        for call in calls:
            (read,) = agentfabric.read_calls(agentfabric.render_call(**call))
            arguments = agentfabric.parse_arguments(read.arguments)
            assert {"name": read.name, "arguments": arguments} == call


def test_rows_in_are_rows_converted_and_rows_rejected(tmp_path):
    rows = [{**good_row(), "id": str(n)} if n % 7 else {"id": str(n)} for n in range(1, 100)]
    assets.write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out" / "rows.jsonl"
    report = convert.convert(str(tmp_path / "in.jsonl"), "trace", out)
    assert len(list(out.parent.iterdir())) == 3, "rows, rejected rows, report"
    kept = [ms_agent.to_canonical(row) for row in rows if len(row) > 1]
    assert assets.read_jsonl(out) == [*convert.render_rows(kept, "trace")]
    rejected = assets.read_jsonl(out.with_suffix(".rejected.jsonl"))
    assert {one["line"]: one["row"] for one in rejected} == {
        n: rows[n - 1] for n in range(7, 99, 7)
    }
    assert (report.rows_in, report.converted, report.rows_out) == (99, 85, 85)
    assert [*report.rejected.values()] == [14] and "14 rejected" in convert.table(report)
    assert json.loads(out.with_suffix(".report.json").read_text("utf-8")) == report._asdict()


def test_mistakes_get_one_line_and_strict_writes_nothing(tmp_path, capsys):
    for source, out, message in (
        ("no-such.jsonl", "x", "no-such"),
        ("authored", __file__, "write"),
    ):
        assert convert.main([source, "--out", f"{out}/x.jsonl"]) == 1
        assert message in capsys.readouterr().err
    source, out = tmp_path / "in.jsonl", tmp_path / "o" / "rows.jsonl"
    source.write_text(json.dumps(good_row()) + '\n{"id": "cut off\n', "utf-8")
    assert convert.main([str(source), "--out", str(out), "--strict"]) == 1
    assert "line 2" in capsys.readouterr().err and not out.parent.exists()
    assert convert.main([str(source), "--out", str(out), "--to", "react"]) == 0
    assert "1 rejected → 1 training rows (react)" in capsys.readouterr().out


def test_a_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch):
    def failing(row):
        yield {"id": "half"}
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(convert.FORMATS, "wire", convert.Format("", "", failing))
    with pytest.raises(assets.KitError, match="No space left"):
        convert.convert("authored", "wire", tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
