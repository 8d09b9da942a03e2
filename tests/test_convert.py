"""Conversion of files: three ways, exact accounting, files that appear whole or not at all."""

import json
import re

import pytest
from test_dialogues import good_row

from helpers import agentfabric, assets, convert, corpus, dialogues, seed_converter, sources, storage


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("way", convert.WAYS)
def test_rows_in_are_rows_converted_and_rows_set_aside(tmp_path, way):
    out = tmp_path / "rows.jsonl"
    report = convert.convert("authored", way, out)
    rejected = lines_of(tmp_path / "rows.rejected.jsonl")
    assert report.rows_in == 1536 == report.converted + len(rejected) and len(lines_of(out)) == report.rows_out
    assert json.loads(
        (tmp_path / "rows.report.json").read_text("utf-8"))["rejected"] == report.rejected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.rejected.jsonl", "rows.report.json"]
    if way != "seed":
        rows = sources.read_rows(assets.dataset_file("authored"))
        assert lines_of(out) == [*corpus.render_rows(rows, convert.WAYS[way])] and not rejected


def test_the_seeds_way_rewrites_the_system_turn_and_nothing_else(tmp_path):
    convert.convert("authored", "seed", tmp_path / "rows.jsonl")
    given = {row["id"]: row["conversations"] for row in lines_of(assets.dataset_file("authored"))}
    for row in lines_of(tmp_path / "rows.jsonl"):
        system, *others = row["conversations"]
        assert others == given[row["id"]][1:], "defect 10: the replies keep Thought and Final Answer"
        assert system["value"].startswith("\n# 工具\n") and re.search(r'必须是\["\w', system["value"])
        assert all(key.startswith("\\") for key in re.findall(r'"properties": {"(.+?)"', system["value"]))


def test_the_seeds_way_sets_aside_what_kills_its_script(tmp_path):
    dying = good_row()
    dying["conversations"][0]["value"] = dying["conversations"][0]["value"].replace("useful for?", "good for?")
    source = tmp_path / "in.jsonl"
    storage.write_jsonl(source, [good_row(), dying])
    report = convert.convert(str(source), "seed", tmp_path / "out.jsonl")
    (rejected,) = lines_of(tmp_path / "out.rejected.jsonl")
    assert (report.converted, rejected["line"], rejected["row"]) == (1, 2, dying)
    assert "the seed's script dies" in rejected["reason"]
    assert seed_converter.seed_row(good_row())["conversations"][1:] == good_row()["conversations"][1:]


def test_a_faithful_row_holds_all_that_the_dialogue_held():
    row = dialogues.to_canonical(good_row())
    (training_row,) = corpus.render_rows([row], convert.WAYS["faithful"])
    system, user, reply = training_row["messages"]
    assert json.loads(training_row["tools"]) == row["tools"]
    assert user["content"] == "(. you can use tools: [w])weather in X?"
    assert reply["content"] == ('Action: w\nAction Input: {"city": "X", "deep": [1, true, null]}\nObservation: '
                                "<result>{'t': 3}</result>\nAnswer:3 degrees.")
    assert agentfabric.system_prompt(row["tools"], system["content"], "en").count("w: w API.") == 1


def test_strict_names_the_line_and_writes_nothing(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(good_row()) + '\n{"id": "cut off\n', "utf-8")
    assert convert.main([str(source), "--out", str(tmp_path / "o" / "rows.jsonl"), "--strict"]) == 1
    assert "line 2" in capsys.readouterr().err and list((tmp_path / "o").iterdir()) == []
    assert convert.main([str(source), "--out", str(tmp_path / "o" / "rows.jsonl")]) == 0
    assert "1 set aside" in capsys.readouterr().out


def test_batches_in_several_processes_keep_order_and_count(tmp_path, monkeypatch):
    source = tmp_path / "in.jsonl"
    rows = [{**good_row(), "id": str(n)} if n % 7 else {"id": str(n)} for n in range(1, 2300)]
    storage.write_jsonl(source, rows)
    report = convert.convert(str(source), "faithful", tmp_path / "out.jsonl", workers=2)
    assert [row["id"] for row in lines_of(tmp_path / "out.jsonl")] == [row["id"] for row in rows if len(row) > 1]
    assert [row["line"] for row in lines_of(tmp_path / "out.rejected.jsonl")] == [*range(7, 2300, 7)]
    assert report.rows_in == 2299


@pytest.mark.parametrize(("arguments", "message"), [
    (["no-such-file.jsonl", "--out", "x.jsonl"], "does not exist"),
    (["authored", "--out", f"{__file__}/x.jsonl"], "Could not write"),
])
def test_mistakes_get_one_line(arguments, message, capsys):
    assert convert.main(arguments) == 1
    assert message in capsys.readouterr().err
