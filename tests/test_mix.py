"""General chat, self-cognition: shares, names filled in, what ms-swift makes of such rows."""

import json

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from helpers import assets, convert, profiles, tokens
from helpers.study import formats, mix  # noqa: F401  (formats: adds the study's formats)

SMOKE = profiles.get("smoke")


def rows(kind, n):
    return [{"id": f"{kind}-{number}"} for number in range(n)]


def ids(mixed, kind=""):
    return [row["id"] for row in mixed if row["id"].startswith(kind)]


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(1, 60))
def test_a_budget_is_kept_to_the_row_and_rows_repeat_equally_often(agents, generals, share, budget):
    general = round(budget * share)
    wanted = {"agent": (budget - general, agents), "general": (general, generals)}
    if any(n and not have for n, have in wanted.values()):
        with pytest.raises(ValueError, match="rows and there are none"):
            mix.mix(rows("agent", agents), rows("general", generals), share, budget, 42)
        return
    mixed = mix.mix(rows("agent", agents), rows("general", generals), share, budget, 42)
    for kind, (n, have) in wanted.items():
        found = ids(mixed, kind)
        times = {found.count(one) for one in set(found)}
        assert len(found) == n and len(set(found)) == min(n, have)
        assert not times or max(times) - min(times) <= 1


@given(st.permutations(range(12)), st.permutations(range(9)), st.integers(0, 5))
def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(agents, generals, seed):
    agent, general = rows("agent", 12), rows("general", 9)
    mixed = mix.mix(agent, general, 0.4, 10, seed)
    assert mix.mix(agent, general, 0.4, 10, seed + 1) != mixed
    agent, general = [agent[i] for i in agents], [general[i] for i in generals]
    assert mix.mix(agent, general, 0.4, 10, seed) == mixed


def test_a_larger_share_holds_the_general_rows_of_a_smaller_one_and_all_are_spread():
    few, many = (mix.mix(rows("agent", 500), rows("general", 500), n, 400, 42) for n in (0.25, 0.5))
    assert set(ids(few, "general")) < set(ids(many, "general"))
    assert set(ids(many, "agent")) < set(ids(few, "agent"))
    assert 70 < len(ids(many[:200], "general")) < 130


@pytest.mark.parametrize("name", ["Kit", ("小智", "Kit")])
def test_names_come_out_as_from_swifts_own_preprocessor(name):
    from swift.dataset.dataset.llm import SelfCognitionPreprocessor

    theirs = SelfCognitionPreprocessor()
    theirs.set_name_author((name, name) if isinstance(name, str) else name, ("甲", "B."))
    for split in ("train", "heldout"):
        given_rows = assets.read_jsonl(assets.dataset_file("self_cognition"))
        given_rows = [row for row in given_rows if row["split"] == split]
        given_rows = [{key: row[key] for key in ("query", "response", "tag")} for row in given_rows]
        filled = mix.self_cognition(split, name=name, author=("甲", "B."))
        expected = [theirs.preprocess(row)["messages"] for row in given_rows]
        assert [row["messages"] for row in filled] == expected


def test_swifts_own_file_fills_in_too(shared):
    source = str(SHARED / "self-cognition" / "self_cognition.jsonl")
    filled = mix.self_cognition(name="Kit", author="me", source=source)
    assert len(filled) == 134 == len({row["id"] for row in filled})
    assert "{{" not in json.dumps(filled) and not any(row["tools"] for row in filled)


def test_what_is_not_there_or_out_of_range_is_named():
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="between 0"):
            mix.mix(rows("agent", 5), rows("general", 5), share, 5, 42)
    for choice in ({"split": "test"}, {"languages": ["de"]}):
        with pytest.raises(ValueError, match="no rows of split"):
            mix.general(**choice)
        with pytest.raises(ValueError, match="no rows of split"):
            mix.self_cognition(**choice)
    with pytest.raises(ValueError):
        mix.self_cognition(name=("a", "b", "c"))


@pytest.mark.parametrize("format", convert.FORMATS)
def test_a_general_row_trains_as_plain_chat_and_only_its_answer(format):
    talks = mix.general("heldout", ["zh"])
    (chosen,) = [row for row in talks if row["messages"][-2]["content"] == "这有什么好吃的"]
    parts = tokens.encode(*convert.render_rows([chosen], format), SMOKE, format)
    assert "".join(token.text for token in parts).rstrip("\n") == "\n".join(
        f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>" for one in chosen["messages"]
    )
    counted = "".join(token.text for token in parts if token.in_loss).rstrip("\n")
    assert counted.endswith(f"{chosen['messages'][-1]['content']}<|im_end|>")
    assert "好吃" not in counted
    assert {token.weight for token in parts if token.in_loss} == {1.0}


@pytest.mark.parametrize("without", [{"tools": "[]"}, {"tools": None}, {}])
def test_one_file_holds_rows_with_and_without_tools(without, row, tmp_path):
    """ms-swift's own loader (Arrow) and template, whichever kind of row comes first."""
    from swift import load_dataset

    agent, template = list(convert.render_rows([row], "wire")), tokens.template_of(SMOKE, "wire")
    chat = mix.general("train", ["en"])[:3]
    plain = [{**without, "id": one["id"], "messages": one["messages"]} for one in chat]
    for mixed in (agent + plain, plain + agent):
        assets.write_jsonl(tmp_path / "rows.jsonl", mixed)
        path = str(tmp_path / "rows.jsonl")
        loaded, _ = load_dataset([path], split_dataset_ratio=0, load_from_cache_file=False)
        texts = [
            template.tokenizer.decode(template.encode(dict(one))["input_ids"]) for one in loaded
        ]
        assert ["# Tools" in text for text in texts] == [one in agent for one in mixed]
        assert all(text.startswith("<|im_start|>user") for text in texts if "# Tools" not in text)
