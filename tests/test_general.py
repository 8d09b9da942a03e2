"""The authored general rows and self-cognition: the committed files, and what may be trusted in them."""

import itertools
import json
import re
from collections import Counter

import pytest

from helpers import agentfabric, assets, authored, mix, sources, splits, storage
from helpers.catalogue_reader import load_catalogue

ROWS = {name: storage.read_jsonl(assets.dataset_file(name)) for name in ("general", "self_cognition")}
GENERAL, SELF = ROWS.values()
EQUATION = re.compile(r"((?:[\d.]+ [-+×÷] )+[\d.]*\d) = (\d+(?:\.\d+)?)")
ALIKE = 0.7  # share of common words (Chinese: characters) from which two questions count as near-duplicates


def questions(row):
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


def normal(text):
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def likeness(one, other):
    return len(one & other) / len(one | other)


def asked(texts):
    """Rows for `splits.drop_similar`, which looks at questions and tool descriptions."""
    return [{"tools": [], "messages": [{"role": "user", "content": text}]} for text in texts]


@pytest.mark.parametrize("name", ROWS)
def test_the_committed_file_is_what_the_yaml_files_say(name):
    assert authored.authored_rows()[name] == ROWS[name], "run: python -m helpers.authored"
    assert assets.dataset_file(name).stat().st_size < 400_000


def test_enough_rows_half_of_them_chinese_on_the_same_topics_with_some_of_each_held_out():
    count = Counter((row["split"], row["lang"]) for row in GENERAL)
    assert len(GENERAL) >= 640 and count["heldout", "zh"] + count["heldout", "en"] >= 60
    assert 0.45 < (count["train", "zh"] + count["heldout", "zh"]) / len(GENERAL) < 0.55
    topics = {(row["split"], row["lang"], row["topic"]) for row in GENERAL}
    assert len(topics) == 4 * len({topic for *_, topic in topics}), "every topic in both languages and both splits"
    assert len(SELF) >= 120 and Counter(row["split"] for row in SELF)["heldout"] >= 10
    assert len({row["id"] for row in GENERAL + SELF}) == len(GENERAL) + len(SELF)


def test_every_general_row_passes_the_door_as_a_row_without_tools():
    rows, rejected = sources.split_rejected(sources.read_rows(assets.dataset_file("general")))
    assert rejected == [] and not any(row["tools"] for row in rows)
    assert [row["messages"] for row in rows] == [row["messages"] for row in GENERAL]
    assert mix.general() + mix.general("heldout") == [{key: row[key] for key in ("id", "tools", "messages")} for row in rows]


def test_rows_are_short_and_in_their_language():
    for row in GENERAL:
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert all(len(answer) < (120 if row["lang"] == "zh" else 280) for answer in answers), row["id"]
        text = "".join(questions(row) if row["lang"] == "zh" else map(str, row["messages"]))
        assert agentfabric.language_of(text) == row["lang"], row["id"]
        assert not re.search(r"Action:|Action Input:|Observation:|Answer:|\{\{", "".join(answers)), row["id"]


def test_the_seeds_two_questions_are_held_out():
    heldout = [[message["content"] for message in row["messages"]] for row in mix.general("heldout", ["zh"])]
    first = ["浙江的省会在哪里？", "浙江的省会是杭州。"]
    assert first in heldout
    (talk,) = [turns for turns in heldout if turns[2:3] == ["这有什么好吃的"]]
    assert talk[:2] == first and "杭州" in talk[3]
    assert not any("浙江" in str(row) for row in mix.general("train"))


def test_no_question_is_asked_twice():
    last = [normal(questions(row)[-1]) for row in GENERAL] + [normal(row["query"]) for row in SELF]
    assert [text for text, n in Counter(last).items() if n > 1] == []
    for language in mix.LANGUAGES:
        words = [(row["id"], set(normal(questions(row)[-1]).split() if language == "en" else normal(questions(row)[-1])))
                 for row in GENERAL if row["lang"] == language]
        alike = [(a, b) for (a, one), (b, other) in itertools.combinations(words, 2) if likeness(one, other) >= ALIKE]
        assert alike == []


def test_held_out_questions_read_like_none_that_trains():
    heldout = [row for split in (mix.general("heldout"), mix.self_cognition("N", "A", "heldout")) for row in split]
    train = asked(text for row in mix.general() + mix.self_cognition("N", "A") for text in questions(row))
    chats = asked(line["question"] for lines in load_catalogue()[1].values() for line in lines)  # in ms_agent_authored
    assert splits.drop_similar(heldout, train + chats)[1] == []


def test_every_equation_in_an_answer_holds():
    found = [match for row in GENERAL for message in row["messages"] for match in EQUATION.findall(message["content"])]
    assert len(found) >= 50
    for left, right in found:
        assert abs(eval(left.replace("×", "*").replace("÷", "/")) - float(right)) < 1e-9, f"{left} = {right}"


def test_no_question_comes_from_the_instruction_sets_that_can_be_seen_here(shared):
    rows = [row for path in (shared / "llamafactory_demo").glob("alpaca_*.json") for row in json.loads(path.read_text("utf-8"))]
    theirs = asked(f"{row['instruction']} {row.get('input') or ''}" for row in rows)
    assert len(theirs) > 1000
    assert splits.drop_similar([row for row in mix.general() + mix.general("heldout")], theirs)[1] == []


def test_no_self_cognition_answer_comes_from_swifts_set(shared):
    theirs = {row["response"] for row in storage.read_jsonl(shared / "self-cognition" / "self_cognition.jsonl")}
    assert len(theirs) > 100 and theirs.isdisjoint(row["response"] for row in SELF)


@pytest.mark.parametrize("text, message", [
    ("train: [", "not YAML"), ("- a\n- b\n", "two lists"), ("train: []\n", "two lists"),
    ("train:\n- [one turn]\nheldout: []\n", "train, dialogue 1"), ("train: []\nheldout:\n- [How many, 3]\n", "heldout, dialogue 1"),
    ("train:\n- - Why?\n  - Because: it is so.\nheldout: []\n", "quote what holds a colon")])
def test_a_badly_written_file_is_named(tmp_path, text, message):
    (tmp_path / "en_broken.yaml").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        authored.authored_rows(tmp_path)
    assert "en_broken.yaml" in str(error.value)
