"""data/authoring/practice.py: what stands in a group, what is held out, what answers say."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from itertools import combinations

import pytest
from conftest import ROOT

from helpers import agentfabric, assets, convert, data, split
from helpers.agent import check_arguments

sys.path.insert(0, str(ROOT / "data" / "authoring"))  # its scripts import each other as siblings
import practice  # noqa: E402

SIZES = {"train": practice.EASY + 60, **practice.GROUPS}.items()
ROWS = {part: list(practice.author_rows(part, groups)) for part, groups in SIZES}
TRAIN = ROWS["train"]
EASY = [row for row in TRAIN if int(row["id"].split("-")[1]) < practice.EASY]
ROWS["train"] = TRAIN[len(EASY) :]
DOMAINS = practice.load(practice.FOLDER, practice.BREADTH)["en"][0]
NAMES = {name for domain in DOMAINS for name in domain.tools}


def tools_in(rows):
    return {split.tool_identity(tool) for row in rows for tool in row["tools"]}


def test_the_parts_share_no_tool_and_no_question_and_held_out_domains_do_not_train():
    elsewhere = {name for name, *_ in tools_in(split.split_of("authored").heldout)}
    training = [{*one.tools} for one in DOMAINS if practice.part_of(one) == "train"]
    assert len(training) == 36 and not elsewhere & set().union(*training)
    for one, other in combinations([TRAIN, ROWS["dev"], ROWS["test"]], 2):
        assert not tools_in(one) & tools_in(other)
        first = [{row["messages"][0]["content"] for row in rows} for rows in (one, other)]
        assert not first[0] & first[1]


@pytest.mark.parametrize("part", ROWS)
def test_a_group_has_one_list_of_tools_and_repeats_no_request(part, tmp_path):
    groups, sizes = defaultdict(list), []
    for row in ROWS[part]:
        groups[row["id"].split("-")[1]].append(row)
    for rows in groups.values():
        assert len({json.dumps(row["tools"]) for row in rows}) == 1
        said = [one["content"] for row in rows for one in row["messages"] if one["role"] == "user"]
        called = {call["name"] for row in rows for call in agentfabric.calls_of(row["messages"])}
        sizes.append(len(rows[0]["tools"]))
        assert len(set(said)) == len(said) and called
    assert sum(size > 2 for size in sizes) == len(sizes) / 2 and {*sizes} == {*range(1, 9)}
    assets.write_jsonl(tmp_path / "rows.jsonl", ROWS[part])
    assert data.load(tmp_path / "rows.jsonl") == (ROWS[part], [])


@pytest.mark.parametrize("part", ROWS)
def test_every_dialogue_is_what_its_kind_says(part):
    kinds = [row["id"].split("-")[3] for row in ROWS[part]]
    silent = sum(kind in practice.SILENT for kind in kinds)
    assert {*kinds} == {*practice.SILENT, *practice.CALLING} and 0.25 < silent / len(kinds) < 0.33
    for kind, row in zip(kinds, ROWS[part]):
        turns, schemas = convert.turns_of(row), [tool["function"] for tool in row["tools"]]
        for call in agentfabric.calls_of(row["messages"]):
            (schema,) = [one for one in schemas if one["name"] == call["name"]]
            check_arguments(schema["parameters"], call["arguments"])
            assert kind != "no_arguments" or call["arguments"] == {}
        assert bool(turns[-1].calls) == (kind in practice.CALLING), row["id"]
        assert len(turns) == 1 + (kind in ("second_turn", "follow_up", "thanks"))
        assert kind != "chain" or len(turns[0].calls) == 2
        if kind in ("single", "chain", "follow_up"):  # no number comes from nowhere
            given = str([one for one in row["messages"] if one["role"] != "assistant"])
            numbers = re.findall(r"\d+(?:[.,:]\d+)*", turns[-1].answer)
            assert {one for one in numbers if one not in given} <= {"10"}, row["id"]  # "of 10"


def test_masked_groups_say_nothing_by_name_and_more_groups_only_append():
    masked = [*practice.author_rows("test", 2, masked=True), ROWS["train"][0]]
    assert not NAMES & {tool["function"]["name"] for row in masked for tool in row["tools"]}
    assert all(tool["function"]["description"] for row in masked for tool in row["tools"])
    assert list(practice.author_rows("train", practice.EASY + 61))[: len(TRAIN)] == TRAIN


def test_the_first_groups_are_easy():
    assert {row["id"].split("-")[3] for row in EASY} == practice.EASY_KINDS
    assert {len(row["tools"]) for row in EASY} == {1, 2, 3, 4}
    silent = sum(row["id"].split("-")[3] in practice.SILENT for row in EASY)
    assert 0.25 < silent / len(EASY) < 0.33


def test_a_source_is_written_once_and_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    with pytest.raises(assets.KitError, match="groups must be 1 or more, not 0"):
        assets.dataset_file("practice:0")
    path = assets.dataset_file("practice-dev")
    assert assets.read_jsonl(path) == ROWS["dev"]
    assert practice.report(path) in (ROOT / "data" / "README.md").read_text("utf-8")
    monkeypatch.setattr(subprocess, "run", None)  # the second time nothing is written
    assert assets.dataset_file("practice-dev") == path
