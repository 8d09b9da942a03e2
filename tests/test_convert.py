"""Training rows of the four formats, and files of them: exact accounting, whole or not at all."""

import json

import pytest
from test_ms_agent import good_row

from helpers import agentfabric, assets, convert, ms_agent

BOOK = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'
BOOKED = '{"booking": "HB-7", "price": 80}'


def test_wire_rows_are_the_requests_of_the_openai_path(two_turns):
    rows = [row["messages"][1:] for row in convert.render_rows([two_turns], "wire")]
    prefix, query = "(. you can use tools: [book_hotel,get_time])", two_turns["messages"][0]
    once = f"{BOOK}\nObservation: <result>{BOOKED}</result>\nAnswer:"
    twice = once + 'Action: get_time\nAction Input: {"city": "Lisbon"}'
    twice += "\nObservation: <result>9:41</result>\nAnswer:"
    answer, asked = "HB-7; it is 9:41 there.", prefix + query["content"]
    assert [row[-1] for row in rows] == [two_turns["messages"][n] for n in (1, 3, 5, 7)]
    assert [row[-2]["content"] for row in rows[:3]] == [asked, asked + once, asked + twice]
    assert rows[3][:2] == [query, {"role": "assistant", "content": twice + answer}]
    assert rows[3][2]["content"] == prefix + "Thanks!", "only the newest query has the prefix"


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
    assert [one["content"] for one in trace["messages"]] == [
        agentfabric.DEFAULT_INSTRUCTION["en"],
        "(. you can use tools: [book_hotel])Book a hotel in Lisbon for 2 nights.",
        f"{call}<result>{BOOKED}</result>\nAnswer:{answer}",
    ]
    (react,) = convert.render_rows([row], "react")
    thought = "\nThought: I now know the final answer\nFinal Answer: "
    assert react["messages"][1]["content"] == call + BOOKED + thought + answer
    (hermes,) = convert.render_rows([row], "hermes")
    assert hermes["messages"] == row["messages"]
    plain = {"id": "p", "tools": [], "messages": row["messages"][::3]}
    for format in convert.FORMATS:
        assert [*convert.render_rows([plain], format)] == [{**plain, "tools": convert.NO_TOOLS}]


def test_rows_in_are_rows_converted_and_rows_rejected(tmp_path):
    rows = [{**good_row(), "id": str(n)} if n % 7 else {"id": str(n)} for n in range(1, 100)]
    assets.write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out" / "rows.jsonl"
    report = convert.convert(str(tmp_path / "in.jsonl"), "trace", out)
    assert len(list(out.parent.iterdir())) == 3, "rows, rejected rows, report"
    kept = [ms_agent.to_canonical(row) for row in rows if len(row) > 1]
    assert assets.read_jsonl(out) == [*convert.render_rows(kept, "trace")]
    rejected = assets.read_jsonl(out.with_suffix(".rejected.jsonl"))
    numbered = [(one["line"], one["row"]) for one in rejected]
    assert numbered == [(n, rows[n - 1]) for n in range(7, 99, 7)]
    assert (report.rows_in, report.converted, report.rows_out) == (99, 85, 85)
    assert [*report.rejected.values()] == [14]
    assert json.loads(out.with_suffix(".report.json").read_text("utf-8")) == report._asdict()


def test_mistakes_get_one_line_and_strict_writes_nothing(tmp_path, capsys):
    for source, message in {"no-such.jsonl": "no-such", "authored": "write"}.items():
        assert convert.main([source, "--out", f"{__file__}/x.jsonl"]) == 1
        assert message in capsys.readouterr().err
    source, out = tmp_path / "in.jsonl", tmp_path / "o" / "rows.jsonl"
    source.write_text(json.dumps(good_row()) + '\n{"id": "cut off\n', "utf-8")
    assert convert.main([str(source), "--out", str(out), "--strict"]) == 1
    assert "line 2" in capsys.readouterr().err and not out.parent.exists()
    assert convert.main([str(source), "--out", str(out), "--to", "react"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["format"], printed["rows_in"], printed["rows_out"]) == ("react", 2, 1)


def test_a_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch):
    def failing(row):
        yield {"id": "half"}
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(convert.FORMATS, "wire", convert.Format("", "", failing))
    with pytest.raises(assets.KitError, match="No space left"):
        convert.convert("authored", "wire", tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
