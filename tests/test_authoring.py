"""data/authoring: the committed files, what may be trusted in them, and the errors of bad YAML."""

import itertools
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from helpers import agentfabric, assets, convert, data, ms_agent, split
from helpers.agent import REGISTRY
from helpers.runtime.tools import LOCAL

sys.path.insert(0, str(ROOT / "data" / "authoring"))  # its scripts import each other as siblings
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
GARDEN = (catalogue.FOLDER / "en_gardening.yaml").read_text("utf-8")
BREAKS = [  # old, new, the error after the file's name
    ("values: $bed", "values: $bet", r"soil_test, parameters, bed, values: .* no pool \$bet"),
    ("[tomato,", "[10:30,", r"parameters, plant: values .* 630 is not of type 'string'"),
    ("Test the soil of the {bed}.", "Test it.", r"soil_test: requests\[1\]: 'bed' is a required"),
    ("Moisture is {moisture} percent, pH {ph}", "{bed}", r"soil_test: answers\[1\]: states no res"),
    ("Test the soil, please.", "Test {bed}.", r"soil_test: missing\.text: .* lacks no required"),
    ("{1.nursery_id}", "{1.x}", r"chains\[0\], order_plants\.nursery_id: \{1\.x\} is unknown"),
    ("domain: gardening", "domain: x", r"language and domain are those of a file en_x\.yaml"),
    ("tools:", "tools: [", r"not readable as YAML"),
    ("name: soil_test", "name: plant_care", r"tools: two entries have the same name"),
]


def names_of(row):
    return [agentfabric.function_of(tool)["name"] for tool in row["tools"]]


def questions(row):
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


def asked(texts):
    return [{"tools": [], "messages": [{"role": "user", "content": text}]} for text in texts]


def test_the_command_writes_four_files_byte_for_byte_or_says_what_is_broken(tmp_path):
    folder = shutil.copytree(catalogue.HERE, tmp_path / "authoring")
    command = [sys.executable, str(folder / "write.py")]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in assets.AUTHORED.values():
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / name).read_bytes(), name
        (tmp_path / name).unlink()
    file = folder / "catalogue" / "en_weather.yaml"
    file.write_text(file.read_text("utf-8").replace("required: true", "required: yea", 1), "utf-8")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.glob("*.jsonl"))
    assert re.fullmatch(r"en_weather\.yaml: tools, .+, required: .*'yea'\n", done.stderr)


def test_the_card_holds_the_counts_and_the_set_is_large():
    counts = write.report(assets.dataset_file("authored"))
    assert counts in (ROOT / "data" / "README.md").read_text("utf-8")
    called = {call["name"] for _, row in ROWS for call in agentfabric.calls_of(row["messages"])}
    assert called == set(TOOLS) and len(TOOLS) >= 120 and len(ROWS) >= 1500 and len(DOMAINS) >= 15
    assert len({json.dumps(row["conversations"]) for row in RAW}) == len(RAW)
    assert list(dialogues.author_rows(40, seed=1)) != RAW[:40]


def test_every_dialogue_is_what_its_kind_says():
    """Arguments come from the request or its wording, answers tell what only the result does."""
    for (_, language, _, kind, _), row in ROWS:
        turns, names = convert.turns_of(row), names_of(row)
        calls = [call for turn in turns for call, _ in turn.calls]
        expected = {"single": [1], "error": [1], "missing": [0], "no_tool": [0], "chain": [2]}
        assert len(calls) in expected.get(kind, [1, 2, 3]), row["id"]
        assert len(turns) in ((2, 3) if kind == "multi_turn" else (1,))
        assert len(set(map(str, calls))) == len(calls) and len(set(names)) == len(names)
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


def test_the_addition_set_has_its_own_tools_and_is_as_varied_as_its_card_says():
    own = {name for row in ADDITION for name in names_of(row)}
    assert len(own) == 42 and not own & {*TOOLS, *REGISTRY, *LOCAL}
    languages = [agentfabric.language_of(questions(row)[0]) for row in ADDITION]
    assert languages.count("zh") == languages.count("en") == 244
    assert len({row["role"] for row in ADDITION if "role" in row}) == 12
    assert sum("knowledge" in row for row in ADDITION) == 238
    assert sum(len(questions(row)) > 1 for row in ADDITION) == 99
    requests = [str(sent) for row in ADDITION for sent, _ in convert.requests_of(row)]
    assert len(set(requests)) == len(requests), "one request, two replies"


def test_general_rows_are_short_and_in_their_language_and_their_equations_hold():
    assert len(GENERAL) >= 640 and data.load("general")[1] == []
    assert len({row["id"] for row in GENERAL + SELF}) == len(GENERAL) + len(SELF)
    equations = []
    for row in GENERAL:
        answers = [one["content"] for one in row["messages"] if one["role"] == "assistant"]
        assert all(len(one) < (120 if row["lang"] == "zh" else 280) for one in answers), row["id"]
        text = "".join(questions(row) if row["lang"] == "zh" else map(str, row["messages"]))
        assert agentfabric.language_of(text) == row["lang"], row["id"]
        assert not re.search(r"Action:|Action Input:|Observation:|Answer:|\{\{", "".join(answers))
        equations += re.findall(r"((?:[\d.]+ [-+×÷] )+[\d.]*\d) = (\d+(?:\.\d+)?)", str(answers))
    assert len(equations) >= 50
    for left, right in equations:
        assert abs(eval(left.replace("×", "*").replace("÷", "/")) - float(right)) < 1e-9, left


def test_no_questions_are_alike_nor_like_a_held_out_one_or_the_tutorials():
    for language, words in (("zh", list), ("en", str.split)):
        last = [questions(row)[-1].casefold() for row in GENERAL if row["lang"] == language]
        sets = [set(words(re.sub(r"[\W_]+", " ", text).strip())) for text in last]
        for one, other in itertools.combinations(sets, 2):
            assert len(one & other) < 0.7 * len(one | other), (one, other)
    assert len({row["query"] for row in SELF}) == len(SELF)
    texts = {"train": [], "heldout": []}
    for row in GENERAL + SELF:
        texts[row["split"]] += questions(row) if "messages" in row else [row["query"]]
    train = texts["train"] + [pair.question for _, chat, _ in BOOKS.values() for pair in chat]
    assert split.drop_similar(asked(texts["heldout"]), asked(train))[1] == []
    everything = json.dumps([RAW, GENERAL, SELF, ADDITION], ensure_ascii=False)
    assert "西湖醋鱼怎么" not in everything and "新冠" not in everything


def test_no_row_comes_from_the_public_sets_that_can_be_seen_here(shared):
    files = (shared / "llamafactory_demo").glob("alpaca_*.json")
    rows = [row for path in files for row in json.loads(path.read_text("utf-8"))]
    theirs = asked(f"{row['instruction']} {row.get('input') or ''}" for row in rows)
    ours = [row | {"tools": []} for row in GENERAL]
    assert len(theirs) > 1000 and split.drop_similar(ours, theirs)[1] == []
    swift = assets.read_jsonl(shared / "self-cognition" / "self_cognition.jsonl")
    responses = {row["response"] for row in swift}
    assert len(swift) > 100 and responses.isdisjoint(row["response"] for row in SELF)


def test_a_badly_written_file_of_questions_is_named(tmp_path):
    (tmp_path / "en_broken.yaml").write_text("train: []\nheldout:\n- [a, b, c]\n", "utf-8")
    with pytest.raises(ValueError, match="^en_broken.yaml: heldout, 1: lacks an answer"):
        write.general_rows(tmp_path)
