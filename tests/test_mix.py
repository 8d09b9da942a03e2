"""Mixing by share and budget, names filled in, and what ms-swift makes of rows without tools."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import corpus, mix, profiles, storage, tokens

SMOKE = profiles.get("smoke")


def rows(kind, n):
    return [{"id": f"{kind}-{number}"} for number in range(n)]


def ids(mixed, kind=""):
    return [row["id"] for row in mixed.rows if row["id"].startswith(kind)]


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(1, 60), st.booleans(), st.integers(0, 3))
def test_a_budget_is_kept_to_the_row_or_refused(agents, generals, share, budget, repeat, seed):
    given_rows = rows("agent", agents), rows("general", generals)
    general = round(budget * share)
    enough = all(n <= have or (repeat and have) for n, have in ((budget - general, agents), (general, generals)))
    if not enough:
        with pytest.raises(ValueError, match="rows and there are"):
            mix.mix(*given_rows, share, budget=budget, repeat=repeat, seed=seed)
        return
    mixed = mix.mix(*given_rows, share, budget=budget, repeat=repeat, seed=seed)
    assert len(ids(mixed, "general")) == general and len(mixed.rows) == budget
    for kind, times in mixed.times.items():
        assert sum(often * n for often, n in times.items()) == len(ids(mixed, kind))
        assert sum(times.values()) == len(set(ids(mixed, kind)))
        assert not times or max(times) - min(times) <= 1
        assert max(times, default=1) == 1 or len(set(ids(mixed, kind))) == len(given_rows[kind == "general"])


@given(st.permutations(range(12)), st.permutations(range(9)), st.integers(0, 5))
def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(agents, generals, seed):
    agent, general = rows("agent", 12), rows("general", 9)
    mixed = mix.mix(agent, general, 0.4, budget=10, seed=seed)
    assert mix.mix([agent[i] for i in agents], [general[i] for i in generals], 0.4, budget=10, seed=seed) == mixed
    assert mix.mix(agent, general, 0.4, budget=10, seed=seed + 1).rows != mixed.rows


def test_a_larger_share_holds_the_general_rows_of_a_smaller_one():
    few, many = (mix.mix(rows("agent", 50), rows("general", 50), share, budget=40) for share in (0.25, 0.5))
    assert set(ids(few, "general")) < set(ids(many, "general")) and set(ids(many, "agent")) < set(ids(few, "agent"))


def test_both_kinds_are_spread_over_the_whole_training_set():
    mixed = mix.mix(rows("agent", 500), rows("general", 500), 0.5, budget=400)
    halves = [sum(one.startswith("general") for one in part) for part in (ids(mixed)[:200], ids(mixed)[200:])]
    assert all(70 < half < 130 for half in halves)


def test_on_top_keeps_every_agent_row_and_the_seeds_ratio_is_two_thirds():
    mixed = mix.mix(rows("agent", 10), rows("general", 30), 2 / 3)
    assert (len(ids(mixed, "agent")), len(ids(mixed, "general"))) == (10, 20)
    assert ids(mix.mix(rows("agent", 10), [], 0), "agent") and mix.mix([], [], 0).rows == []


def test_repeats_happen_only_when_asked_and_are_told():
    with pytest.raises(ValueError, match="needs 8 general rows and there are 3: .*repeat=True"):
        mix.mix(rows("agent", 2), rows("general", 3), 0.8, budget=10)
    mixed = mix.mix(rows("agent", 2), rows("general", 3), 0.8, budget=10, repeat=True)
    assert mixed.times == {"agent": {1: 2}, "general": {2: 1, 3: 2}}
    assert str(mixed) == "10 rows: 2 agent (2 rows × 1) + 8 general (1 rows × 2, 2 rows × 3)"


@pytest.mark.parametrize("share, budget, message", [
    (-0.1, 5, "between 0"), (1.5, None, "between 0"), (float("nan"), 5, "between 0"), (1, None, "give a budget"),
    (0.5, 0, "at least 1"), (0.5, 2.5, "whole number"), (0.5, -3, "at least 1")])
def test_a_wrong_share_or_budget_is_named(share, budget, message):
    with pytest.raises(ValueError, match=message):
        mix.mix(rows("agent", 5), rows("general", 5), share, budget=budget)


def test_nothing_to_repeat_is_no_rows():
    with pytest.raises(ValueError, match="needs 5 general rows and there are 0"):
        mix.mix(rows("agent", 5), [], 0.5, budget=10, repeat=True)


@pytest.mark.parametrize("name, chinese, english", [("Kit", "Kit", "Kit"), (["小智"], "小智", "小智"), (("小智", "Kit"), "小智", "Kit")])
def test_self_cognition_fills_name_and_author_by_language(name, chinese, english):
    for split in ("train", "heldout"):
        filled = mix.self_cognition(name, ("甲", "B."), split)
        assert "{{" not in json.dumps(filled) and not any(row["tools"] for row in filled)
    heldout = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in filled}
    assert chinese in heldout["你叫什么？"] and heldout["What is your name?"] == f"My name is {english}."
    assert "甲" in heldout["你是由谁开发的？"] and "B." in heldout["Who developed you?"]


def test_names_come_out_as_from_swifts_own_preprocessor():
    from swift.dataset.dataset.llm import SelfCognitionPreprocessor

    theirs = SelfCognitionPreprocessor()
    theirs.set_name_author(("小智", "Kit"), ("甲", "B."))
    expected = [theirs.preprocess({key: row[key] for key in ("query", "response", "tag")})["messages"]
                for row in storage.read_jsonl(mix.assets.dataset_file("self_cognition")) if row["split"] == "train"]
    assert [row["messages"] for row in mix.self_cognition(("小智", "Kit"), ("甲", "B."))] == expected


def test_swifts_own_file_fills_in_too(shared):
    filled = mix.self_cognition("Kit", "me", source=str(shared / "self-cognition" / "self_cognition.jsonl"))
    assert len(filled) == 134 == len({row["id"] for row in filled}) and "{{" not in json.dumps(filled)


@pytest.mark.parametrize("arguments", [("", "me"), ("Kit", " "), ((), "me"), ("Kit", ["a", "b", "c"]), (("Kit", ""), "me"), (None, "me")])
def test_a_missing_name_or_author_is_named(arguments):
    with pytest.raises(ValueError, match="one text for both languages"):
        mix.self_cognition(*arguments)


def test_an_unknown_split_or_language_is_named():
    for choice in ({"split": "test"}, {"languages": ["de"]}):
        with pytest.raises(ValueError, match="no rows of split"):
            mix.general(**choice)
        with pytest.raises(ValueError, match="no rows of split"):
            mix.self_cognition("Kit", "me", **choice)


@pytest.mark.parametrize("shape", corpus.SHAPES)
def test_a_general_row_trains_as_plain_chat_and_only_its_answer(shape):
    (chosen,) = [row for row in mix.general("heldout", ["zh"]) if row["messages"][-2]["content"] == "这有什么好吃的"]
    parts = tokens.encode(*corpus.render_rows([chosen], shape), SMOKE, shape)
    assert "".join(token.text for token in parts).rstrip("\n") == "\n".join(
        f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>" for message in chosen["messages"])
    answer = chosen["messages"][-1]["content"]
    graded = "".join(token.text for token in parts if token.graded).rstrip("\n")
    assert graded.endswith(f"{answer}<|im_end|>") and "好吃" not in graded
    assert {token.weight for token in parts if token.graded} == {1.0}


def plain_rows():
    return [*corpus.render_rows(mix.general("train", ["en"])[:3], "wire")]


@pytest.mark.parametrize("without", [plain_rows()[0], {"tools": "[]"}, {"tools": None}, {}],
                         ids=["as rendered", "no tools", "null", "no key"])
def test_one_file_holds_rows_with_and_without_tools(without, row, tmp_path):
    """ms-swift's own loader (Arrow) and template, whichever kind of row comes first."""
    from swift import load_dataset

    agent = [*corpus.render_rows([row], "wire")]
    plain = [{**without, "id": one["id"], "messages": one["messages"]} for one in plain_rows()]
    template = tokens.template_of(SMOKE, "wire")
    for mixed in (agent + plain, plain + agent):
        storage.write_jsonl(tmp_path / "rows.jsonl", mixed)
        loaded, _ = load_dataset([str(tmp_path / "rows.jsonl")], split_dataset_ratio=0, load_from_cache_file=False)
        texts = [template.tokenizer.decode(template.encode(dict(one))["input_ids"]) for one in loaded]
        assert ["# Tools" in text for text in texts] == [one in agent for one in mixed]
        assert all(text.startswith("<|im_start|>user") for text in texts if "# Tools" not in text)
