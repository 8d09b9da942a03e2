"""Held out by tool: disjoint, complete, and the same rows for the same seed."""

import random
from collections import Counter

import pytest
from conftest import tool
from hypothesis import given
from hypothesis import strategies as st

from helpers import agentfabric, data, profiles, split
from helpers.convert import split_pack, turns_of


def numbered(*numbers):
    """A row of tools whose names and descriptions are like no other number's."""
    letters = "abcdefghijklmnop"
    texts = {n: "".join(random.Random(n).choices(letters, k=64)) for n in sorted(numbers)}
    return {"tools": [tool(f"t{n}", text) for n, text in texts.items()]}


def identities(rows):
    return {split.tool_identity(one) for row in rows for one in data.openai_tools(row["tools"])}


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu"])
def test_no_tool_of_a_held_out_case_was_ever_in_a_training_prompt(name):
    profile = profiles.get(name, **({"source": "authored"} if name == "gpu" else {}))
    rows = split.prepare_data(profile)
    held_out = set().union(*(identities(rows[part]) for part in ("eval", "dev", "cases")))
    assert held_out and identities(rows["train"]).isdisjoint(held_out)
    chosen, reported = ({row["id"] for row in rows[part]} for part in ("dev", "cases"))
    assert chosen and not chosen & reported
    exchanges = [one for row in rows["train"] for one in split_pack(row["messages"])]
    assert 10 < len(exchanges) <= profile.train_rows
    assert 0.9 * profile.cases <= len(rows["cases"]) <= profile.cases
    for row in rows["cases"]:
        assert len(row["tools"]) <= profile.max_tools
        assert data.row_language(row) in profile.languages
        assert len(agentfabric.json_text(row)) <= profile.max_chars
    calling = [bool(turns_of(row)[-1].calls) for row in rows["cases"]]
    assert calling == sorted(calling, reverse=True) and 0 < calling.count(False) <= len(calling) / 3
    if name == "laptop":  # tools of a case to choose with stand in no case that is reported
        assert identities(rows["dev"]).isdisjoint(identities(rows["cases"]))


def test_the_authored_split_loses_no_row_and_holds_out_a_share_of_each_language():
    rows, _ = data.load("authored")
    parts = split.by_tool(rows)
    assert len(parts.train) + len(parts.heldout) + len(parts.similar) == len(rows)
    assert parts.mixed == [] and 0 < len(parts.similar) < 0.03 * len(rows)
    held, train = (Counter(map(data.row_language, part)) for part in (parts.heldout, parts.train))
    assert all(0.1 < held[one] / (held[one] + train[one]) < 0.45 for one in ("en", "zh"))
    assert parts == split.by_tool(rows), "the same seed draws the same split"
    one_group = split.by_tool([numbered(a, b) for a in range(12) for b in range(a)], 0.3)
    assert one_group.train and one_group.heldout and one_group.mixed


@given(st.lists(st.sets(st.integers(0, 12), max_size=3), min_size=1), st.integers(0, 3))
def test_any_split_is_disjoint_and_complete(prompts, seed):
    rows = [numbered(*names) for names in prompts]
    parts = split.by_tool(rows, 0.3, seed)
    assert identities(parts.train).isdisjoint(identities(parts.heldout))
    kept = [*parts.train, *parts.heldout, *parts.mixed, *parts.similar]
    assert sorted(map(str, kept)) == sorted(map(str, rows))


def test_training_rows_that_read_like_a_held_out_one_are_left_out():
    def asking(query, text):
        return {"tools": [tool(description=text)], "messages": [{"role": "user", "content": query}]}

    heldout = asking("When does train 4711 to Porto leave?", "Look up the timetable of a railway")
    by_query = asking("when does train 12 to Porto leave", "Reserve a table")
    by_tool = asking("Is it raining?", "Look up the timetables of a railway.")
    other = asking("When does the museum open?", "Opening hours of a museum")
    found = split.drop_similar([by_query, by_tool, other], [heldout])
    assert found == ([other], [by_query, by_tool])
