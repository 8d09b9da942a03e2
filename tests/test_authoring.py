"""data/authoring: the committed files, what may be trusted in them, and the errors of bad YAML."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

from helpers import agentfabric, assets, convert, data, ms_agent, split
from helpers.agent import REGISTRY
from helpers.runtime.tools import LOCAL

AUTHORING = ROOT / "data" / "authoring"
sys.path.insert(0, str(AUTHORING))  # the scripts import each other as siblings
import catalogue  # noqa: E402
import dialogues  # noqa: E402
import write  # noqa: E402

RAW, GENERAL, SELF, ADDITION = (
    assets.read_jsonl(assets.dataset_file(name))
    for name in ("authored", "general", "self_cognition", "addition")
)
ROWS = [(row["id"].split("-"), row) for row in data.load("authored")[0]]
BOOKS = catalogue.load()
DOMAINS = [domain for domains, *_ in BOOKS.values() for domain in domains]
TOOLS = {name: tool for domain in DOMAINS for name, tool in domain.tools.items()}
EQUATION = re.compile(r"((?:[\d.]+ [-+×÷] )+[\d.]*\d) = (\d+(?:\.\d+)?)")
ALIKE = 0.7  # share of common words (Chinese: characters) from which two questions are alike


def names_of(row):
    return [agentfabric.function_of(tool)["name"] for tool in row["tools"]]


def questions(row):
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


def asked(texts):
    return [{"tools": [], "messages": [{"role": "user", "content": text}]} for text in texts]


def command(folder, *options):
    words = [sys.executable, str(folder / "write.py"), *map(str, options)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path):
    """A copy of data/authoring; its script writes into the folder above it."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(AUTHORING, tmp_path / "data" / "authoring", ignore=ignored)


# the command
def test_the_command_writes_all_four_files_byte_for_byte(copied):
    done = command(copied)
    assert done.returncode == 0, done.stderr
    for name in assets.AUTHORED.values():
        assert (copied.parent / name).read_bytes() == (ROOT / "data" / name).read_bytes(), name


def test_more_rows_only_append_and_another_seed_differs():
    assert list(dialogues.author_rows(1540))[:1536] == RAW
    assert list(dialogues.author_rows(40, seed=1)) != RAW[:40]


def test_a_broken_file_gives_one_line_and_nothing_is_written(copied):
    file = copied / "catalogue" / "en_weather.yaml"
    broken = file.read_text("utf-8").replace("required: true", "required: perhaps", 1)
    file.write_text(broken, "utf-8")
    done = command(copied, "--rows", 5, "--out", copied / "rows.jsonl")
    assert done.returncode == 1 and done.stdout == "" and not (copied / "rows.jsonl").exists()
    line = r"en_weather\.yaml: tools, \w+, parameters, \w+, required: .*'perhaps'\n"
    assert re.fullmatch(line, done.stderr)


def test_the_card_holds_the_counts_and_other_files_have_none():
    card = (ROOT / "data" / "README.md").read_text("utf-8")
    assert write.report(assets.dataset_file("authored")) in card
    with pytest.raises(ValueError, match="general_authored.jsonl: .* is no authored dialogue"):
        write.report(assets.dataset_file("general"))


# ms_agent_authored
def test_the_set_is_as_large_and_varied_as_promised():
    assert len(ROWS) >= 1500 and len(DOMAINS) >= 15 and len(TOOLS) >= 120
    assert len({json.dumps(row["conversations"]) for row in RAW}) == len(RAW)
    kinds = Counter(name[3] for name, _ in ROWS)
    sizes = Counter(len(row["tools"]) for _, row in ROWS)
    for kind, share in dialogues.KINDS.items():
        assert abs(kinds[kind] / len(ROWS) - share / 100) < 0.03
    bins = {(1, 1): 25, (2, 2): 25, (3, 3): 20, (4, 6): 20, (7, 9): 6, (10, 12): 4}
    for (low, high), share in bins.items():
        count = sum(sizes[size] for size in range(low, high + 1))
        assert abs(count / len(ROWS) - share / 100) < 0.03


def test_every_dialogue_is_what_its_kind_says():
    """Calls are valid, arguments come from the request or its wording (`set`), answers tell what
    only the observation does, and no call stands twice in a dialogue (two drawn results)."""
    called, places = set(), Counter()
    for (_, language, domain, kind, _), row in ROWS:
        turns, names = convert.turns_of(row), names_of(row)
        calls = [call for turn in turns for call, _ in turn.calls]
        expected = {"single": [1], "error": [1], "missing": [0], "no_tool": [0], "chain": [2]}
        assert len(calls) in expected.get(kind, [1, 2, 3]), row["id"]
        assert len(turns) in ((2, 3) if kind == "multi_turn" else (1,))
        assert len(set(map(str, calls))) == len(calls) and len(set(names)) == len(names)
        (home,) = [one for one in DOMAINS if (one.language, one.name) == (language, domain)]
        assert set(names) <= set(home.tools)
        called |= {call["name"] for call in calls}
        for call in calls:
            tool = TOOLS[call["name"]]
            catalogue.check_schema(call["arguments"], tool.function["parameters"], row["id"])
            for key, value in call["arguments"].items() if kind in ("single", "error") else ():
                implied = any(one.fixed.get(key) == value for one in tool.requests)
                said = catalogue.as_text(value, language) in turns[0].query
                assert call["name"] in names and (implied or said), (row["id"], key)
        for turn in turns if kind != "error" else ():
            for _, text in turn.calls[-1:]:
                values = ms_agent.parse_input(text).values()
                parts = [one for v in values for one in (v if isinstance(v, list) else [v])]
                new = [one for one in map(str, parts) if one not in turn.query]
                assert any(one in turn.answer for one in new), row["id"]
        if kind == "chain":
            first = ms_agent.parse_input(turns[0].calls[0][1]).values()
            passed = [value for value in calls[1]["arguments"].values() if value in first]
            assert any(str(value) not in turns[0].query for value in passed)
        if kind == "single" and len(names) == 3:
            places[names.index(calls[0]["name"])] += 1
    assert called == set(TOOLS)
    assert all(0.2 < places[place] / places.total() < 0.47 for place in range(3)), places


# the catalogue's format
GARDEN = (catalogue.FOLDER / "en_gardening.yaml").read_text("utf-8")
BREAKS = [  # old, new, the error after the file's name
    ("values: $bed", "values: $bet", r"soil_test, parameters, bed, values: .* no pool \$bet"),
    ("[tomato,", "[10:30,", r"parameters, plant: values .* 630 is not of type 'string'"),
    ("Test the soil of the {bed}.", "Test it.", r"soil_test: requests\[1\]: 'bed' is a required"),
    ("Moisture is {moisture} percent, pH {ph}", "{bed}", r"soil_test: answers\[1\]: states no res"),
    ("result:\n      ph", "results:\n      ph", r"tools, soil_test, result: Field required"),
    ("Test the soil, please.", "Test {bed}.", r"soil_test: missing\.text: .* lacks no required"),
    ("{1.nursery_id}", "{1.x}", r"chains\[0\], order_plants\.nursery_id: \{1\.x\} is unknown"),
    ("domain: gardening", "domain: x", r"language and domain are those of a file en_x\.yaml"),
    ("tools:", "tools: [", r"not readable as YAML"),
    ("name: soil_test", "name: plant_care", r"tools: two entries have the same name"),
]


def garden(folder, text=GARDEN):
    (folder / "en_gardening.yaml").write_text(text, encoding="utf-8")
    for name in ("en_chat.yaml", "phrases.yaml"):
        shutil.copy(catalogue.FOLDER / name, folder)
    return folder


@pytest.mark.parametrize("old, new, message", BREAKS)
def test_a_broken_catalogue_gives_a_clear_error(tmp_path, old, new, message):
    assert old in GARDEN
    with pytest.raises(ValueError, match=rf"^en_gardening\.yaml: .*{message}|yaml: {message}"):
        catalogue.load(garden(tmp_path, GARDEN.replace(old, new, 1)))


def test_a_small_catalogue_works_and_says_when_it_is_too_small(tmp_path, monkeypatch):
    rows = dialogues.author_rows(99, folder=garden(tmp_path, GARDEN[: GARDEN.index("chains:")]))
    assert {row["id"].split("-")[3] for row in rows} == set(dialogues.KINDS) - {"chain"}
    known = re.sub("cause: .*", "cause: [a]", re.sub("remedy: .*", "remedy: [s]", GARDEN))
    with pytest.raises(ValueError, match="tools, identify_pest, result: too few values"):
        list(dialogues.author_rows(200, folder=garden(tmp_path, known)))
    monkeypatch.setattr(dialogues, "TRIES", 1)
    with pytest.raises(ValueError, match="too few texts for 4000 different rows, stopped after"):
        list(dialogues.author_rows(4000, folder=garden(tmp_path)))
    with pytest.raises(ValueError, match="1 or more"):
        next(dialogues.author_rows(0))


# agentfabric_addition
def test_the_addition_set_has_its_own_tools_and_is_as_varied_as_its_card_says():
    own = {name for row in ADDITION for name in names_of(row)}
    assert len(own) == 42 and not own & {*TOOLS, *REGISTRY, *LOCAL}
    languages = [agentfabric.language_of(questions(row)[0]) for row in ADDITION]
    assert languages.count("zh") == languages.count("en") == 244
    assert len({row["role"] for row in ADDITION if "role" in row}) == 12
    assert sum("knowledge" in row for row in ADDITION) == 238
    assert sum(len(questions(row)) > 1 for row in ADDITION) == 99
    assert not any("source" in row for row in ADDITION)
    requests = [str(sent) for row in ADDITION for sent, _ in convert.requests_of(row)]
    assert len(set(requests)) == len(requests), "one request, two replies"
    rows, rejected = data.load("addition")
    assert rejected == []
    for key in ("tools", "messages", "instruction", "role", "knowledge"):
        assert [row.get(key) for row in rows] == [row.get(key) for row in ADDITION]


# general_authored and self_cognition_authored
def test_general_rows_are_enough_read_whole_short_and_in_their_language():
    topics = {(row["split"], row["lang"], row["topic"]) for row in GENERAL}
    assert len(topics) == 4 * len({topic for *_, topic in topics}) and len(GENERAL) >= 640
    assert len({row["id"] for row in GENERAL + SELF}) == len(GENERAL) + len(SELF)
    rows, rejected = data.load("general")
    assert rejected == [] and not any(row["tools"] for row in rows)
    assert [row["messages"] for row in rows] == [row["messages"] for row in GENERAL]
    for row in GENERAL:
        answers = [one["content"] for one in row["messages"] if one["role"] == "assistant"]
        assert all(len(one) < (120 if row["lang"] == "zh" else 280) for one in answers), row["id"]
        text = "".join(questions(row) if row["lang"] == "zh" else map(str, row["messages"]))
        assert agentfabric.language_of(text) == row["lang"], row["id"]
        assert not re.search(r"Action:|Action Input:|Observation:|Answer:|\{\{", "".join(answers))


def test_no_question_is_asked_twice_or_nearly_so():
    last = [(row["lang"], questions(row)[-1].casefold()) for row in GENERAL]
    last = [(language, re.sub(r"[\W_]+", " ", text).strip()) for language, text in last]
    own = [(row["tag"], row["query"]) for row in SELF]
    assert [text for text, n in Counter(last + own).items() if n > 1] == []
    for language, words in (("zh", list), ("en", str.split)):
        sets = [set(words(text)) for lang, text in last if lang == language]
        for one, other in itertools.combinations(sets, 2):
            assert len(one & other) < ALIKE * len(one | other), (one, other)


def test_held_out_questions_are_like_none_that_trains_and_not_the_tutorials():
    texts = {"train": [], "heldout": []}
    for row in GENERAL + SELF:
        texts[row["split"]] += questions(row) if "messages" in row else [row["query"]]
    chats = [pair.question for _, chat, _ in BOOKS.values() for pair in chat]
    train = asked(texts["train"] + chats)
    assert split.drop_similar(asked(texts["heldout"]), train)[1] == []
    everything = json.dumps([RAW, GENERAL, SELF, ADDITION], ensure_ascii=False)
    assert "西湖醋鱼怎么" not in everything and "新冠" not in everything


def test_every_equation_in_an_answer_holds():
    texts = [one["content"] for row in GENERAL for one in row["messages"]]
    found = [match for text in texts for match in EQUATION.findall(text)]
    assert len(found) >= 50
    for left, right in found:
        assert abs(eval(left.replace("×", "*").replace("÷", "/")) - float(right)) < 1e-9, left


def test_no_row_comes_from_the_public_sets_that_can_be_seen_here(shared):
    files = (shared / "llamafactory_demo").glob("alpaca_*.json")
    rows = [row for path in files for row in json.loads(path.read_text("utf-8"))]
    theirs = asked(f"{row['instruction']} {row.get('input') or ''}" for row in rows)
    ours = [row | {"tools": []} for row in GENERAL]
    assert len(theirs) > 1000 and split.drop_similar(ours, theirs)[1] == []
    swift = assets.read_jsonl(shared / "self-cognition" / "self_cognition.jsonl")
    assert len(swift) > 100
    assert {row["response"] for row in swift}.isdisjoint(row["response"] for row in SELF)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: []\n", "heldout: Field required"),
        ("train: []\nheldout:\n- [a, b, c]\n", "heldout, 1: lacks an answer"),
        ("train: [[Why?, {Because: it is so.}]]\nheldout: []\n", "train, 0, 1: .*Because"),
    ],
)
def test_a_badly_written_file_of_questions_is_named(tmp_path, text, message):
    (tmp_path / "en_broken.yaml").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=f"^en_broken.yaml: {message}"):
        write.general_rows(tmp_path)
