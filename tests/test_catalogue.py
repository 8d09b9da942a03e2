"""The authored data set: the committed file, the rows in it, and the errors of a broken catalogue."""

import ast
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers.catalogue import KINDS, author_rows, report, write_rows
from helpers.catalogue_dialogues import system_prompt
from helpers.catalogue_format import CATALOGUE, Parameter, Tool, as_text, draw, fill, fits, substitute
from helpers.catalogue_reader import load_catalogue

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "data" / "ms_agent_authored.jsonl"
REAL_PROMPTS = ROOT.parent / "shared" / "data" / "ms_agent_real" / "ms_agent_real_system_prompts.jsonl"
CALL = re.compile(r"^Action: (.+)\nAction Input: (.+)\nObservation: (.+)$", flags=re.MULTILINE)
DOMAINS, CHATS, PHRASES = load_catalogue()
TOOLS = {tool.name: (domain, tool) for domain in DOMAINS for tool in domain.tools}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in COMMITTED.read_text(encoding="utf-8").splitlines()]


def kind_of(row: dict) -> str:
    return row["id"].split("-")[3]


def turns_of(row: dict) -> list[tuple[str, str]]:
    values = [turn["value"] for turn in row["conversations"][1:]]
    return list(zip(values[::2], values[1::2], strict=True))


def calls_in(reply: str) -> list[tuple[str, dict, dict]]:
    return [(name, ast.literal_eval(given), literal(seen)) for name, given, seen in CALL.findall(reply)]


def literal(text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def final_answer(reply: str) -> str:
    head, answer = reply.split("Thought: I now know the final answer\nFinal Answer: ")
    return answer


def tools_in(row: dict) -> list[str]:
    return re.findall(r"^\d+\. (\S+): Call this tool", row["conversations"][0]["value"], flags=re.MULTILINE)


def test_committed_file_is_what_the_script_writes(tmp_path):
    write_rows(tmp_path / "again.jsonl", 1536, 0, CATALOGUE)
    assert (tmp_path / "again.jsonl").read_bytes() == COMMITTED.read_bytes()


def test_counts(rows):
    kinds = Counter(map(kind_of, rows))
    assert len(rows) >= 1500
    assert len({row["id"].rsplit("-", 2)[0] for row in rows}) >= 15
    assert set(kinds) == set(KINDS)
    assert all(abs(kinds[kind] / len(rows) - share) < 0.03 for kind, share in KINDS.items())
    assert abs(sum("-en-" in row["id"] for row in rows) / len(rows) - 0.6) < 0.03
    sizes = Counter(len(tools_in(row)) for row in rows)
    assert sum(count for size, count in sizes.items() if size > 9) >= 30
    for low, high, share in [
        (1, 1, 0.25),
        (2, 2, 0.25),
        (3, 3, 0.2),
        (4, 6, 0.2),
        (7, 9, 0.06),
        (10, 12, 0.04),
    ]:
        assert abs(sum(sizes[size] for size in range(low, high + 1)) / len(rows) - share) < 0.03


def test_catalogue_has_the_breadth_it_promises():
    assert len(TOOLS) >= 120
    english = [domain for domain in DOMAINS if domain.language == "en"]
    assert len(english) >= 12 and sum(len(domain.tools) for domain in english) >= 88
    tools = [tool for _, tool in TOOLS.values()]
    third = len(tools) / 3
    assert sum(sum(p.required for p in tool.parameters) >= 2 for tool in tools) >= third
    assert sum(any(not p.required for p in tool.parameters) for tool in tools) >= third
    assert sum(any(p.type != "string" for p in tool.parameters) for tool in tools) >= third
    assert {p.type for tool in tools for p in tool.parameters} >= {
        "integer",
        "number",
        "boolean",
        "array",
        "object",
    }
    assert all(len(CHATS[language]) >= 60 for language in ("en", "zh"))


def test_rows_have_the_shape_of_ms_agent(rows):
    for row in rows:
        assert list(row) == ["id", "conversations"]
        speakers = [turn["from"] for turn in row["conversations"]]
        assert speakers == ["system"] + ["user", "assistant"] * (len(speakers) // 2)
        for _, reply in turns_of(row):
            assert reply.count("Final Answer: ") == 1 and reply.count("\nAction Input: ") == len(
                calls_in(reply)
            )


def test_system_prompt_equals_a_genuine_one():
    if not REAL_PROMPTS.exists():
        pytest.skip("the genuine prompts are not beside this checkout")
    genuine = json.loads(REAL_PROMPTS.read_text(encoding="utf-8").splitlines()[0])["system"]
    entries = re.findall(
        r"^\d+\. (\S+): .*? useful for\? (.*)\. Parameters: (.*)$", genuine, flags=re.MULTILINE
    )
    tools = []
    for name, description, fields in entries:
        parameters = [
            Parameter(p["name"], "string", p["required"] == "True", p["description"], ["x"])
            for p in json.loads(fields)
        ]
        tools.append(Tool(name, description, tuple(parameters), (), {}, (), (), ()))
    assert len(tools) == 5 and system_prompt(tuple(tools)) == genuine


def test_every_call_is_valid_against_its_tool(rows):
    called = Counter()
    for row in rows:
        for name, arguments, _ in [call for _, reply in turns_of(row) for call in calls_in(reply)]:
            tool = TOOLS[name][1]
            types = {p.name: p.type for p in tool.parameters}
            assert name in tools_in(row)
            assert {p.name for p in tool.parameters if p.required} <= set(arguments) <= set(types), (
                row["id"],
                name,
            )
            assert all(fits(value, types[key]) for key, value in arguments.items()), (row["id"], name)
            called[name] += 1
    assert set(called) == set(TOOLS)


def test_string_arguments_are_copied_from_the_request(rows):
    """What a request does not fix by its wording (`set`) stands in it literally."""
    for row in rows:
        if kind_of(row) not in ("single", "error"):
            continue
        user, reply = turns_of(row)[0]
        name, arguments, _ = calls_in(reply)[0]
        fixed = [request.fixed for request in TOOLS[name][1].requests]
        for key, value in arguments.items():
            implied = any(choice.get(key) == value for choice in fixed)
            assert implied or as_text(value, row["id"].split("-")[1]) in user, (row["id"], key)


def test_final_answers_state_what_only_the_observation_tells(rows):
    for row in rows:
        if kind_of(row) == "error":
            continue
        for user, reply in turns_of(row):
            for _, _, result in calls_in(reply)[-1:]:
                parts = [p for v in result.values() for p in (v if isinstance(v, list) else [v])]
                answer = final_answer(reply)
                assert any(str(part) in answer and str(part) not in user for part in parts), row["id"]


def test_chains_pass_on_a_value_of_the_first_observation(rows):
    chains = [row for row in rows if kind_of(row) == "chain"]
    assert len(chains) > 100
    for row in chains:
        user, reply = turns_of(row)[0]
        (_, _, first), (_, arguments, _) = calls_in(reply)[:2]
        assert any(value in first.values() and str(value) not in user for value in arguments.values()), row[
            "id"
        ]


def test_rows_without_a_call_have_none_and_the_others_have(rows):
    for row in rows:
        calls = sum(len(calls_in(reply)) for _, reply in turns_of(row))
        expected = {"single": 1, "error": 1, "missing": 0, "no_tool": 0}.get(kind_of(row))
        assert calls == expected if expected is not None else calls >= (2 if kind_of(row) == "chain" else 1)
        assert len(turns_of(row)) in ((2, 3) if kind_of(row) == "multi_turn" else (1,))


def test_all_tools_of_a_prompt_come_from_the_domain_in_its_id(rows):
    for row in rows:
        _, language, domain, _, _ = row["id"].split("-")
        homes = {(TOOLS[name][0].language, TOOLS[name][0].name) for name in tools_in(row)}
        assert homes == {(language, domain)} and len(set(tools_in(row))) == len(tools_in(row))


def test_the_called_tool_stands_anywhere_in_the_prompt(rows):
    places = Counter()
    for row in rows:
        if kind_of(row) == "single" and len(tools_in(row)) == 3:
            places[tools_in(row).index(calls_in(turns_of(row)[0][1])[0][0])] += 1
    assert all(0.2 < places[place] / sum(places.values()) < 0.47 for place in range(3)), places


def test_no_duplicates(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({json.dumps(row["conversations"]) for row in rows}) == len(rows)


def test_no_call_is_repeated_within_a_dialogue(rows):
    """The same call twice would return two drawn results that contradict each other."""
    for row in rows:
        calls = [(name, str(given)) for _, reply in turns_of(row) for name, given, _ in calls_in(reply)]
        assert len(set(calls)) == len(calls), row["id"]


def test_a_smaller_n_is_a_prefix_and_another_seed_differs():
    few, more, other = list(author_rows(40)), list(author_rows(60)), list(author_rows(40, seed=1))
    assert few == more[:40] and few != other


def test_text_and_values():
    assert fill("{x} for {y}", {"x": ["a", "b", "c"], "y": 2.5}, "en") == "a, b and c for 2.5"
    assert fill("{x}", {"x": ["甲", "乙"]}, "zh") == "甲和乙"
    assert fill("Find a {x}.", {"x": "alarm clock"}, "en") == "Find an alarm clock."
    assert substitute("{x}", {"x": 3}, "en") == 3 and substitute("no {x}", {"x": 3}, "en") == "no 3"
    with pytest.raises(ValueError, match="use `set`"):
        as_text(True, "en")
    rng = random.Random(0)
    assert {draw({"range": [1, 2], "step": 0.5}, rng, {}, "en") for _ in range(60)} == {1, 1.5, 2}
    assert re.fullmatch(r"X-\d\d[A-Z]", draw({"code": "X-##@"}, rng, {}, "en"))


MENDED = """\
domain: tea
language: en
pools:
  leaf: [sencha, oolong, assam]
tools:
  - name: brew
    description: Brew a pot of tea.
    parameters:
      - {name: leaf, type: string, required: true, description: Kind of tea, values: $leaf}
      - {name: time, type: string, required: false, description: Time as HH:MM, values: ["10:30", "11:45"]}
    requests: ["Brew {leaf}.", "Some {leaf} please.", "{leaf} at {time}.", "I want {leaf}."]
    result: {pot: {code: "P-###"}, leaf: "{leaf}"}
    answers: ["Pot {pot} is ready.", "{leaf} is in {pot}."]
    missing: [{text: "Brew tea.", ask: "Which tea?"}]
    errors: [{result: {error: no water}, answer: "No {leaf}: there is no water."}]
  - name: pour
    description: Pour a cup from a pot.
    parameters:
      - {name: pot, type: string, required: true, description: Pot number, values: {code: "P-###"}}
    requests: ["Pour {pot}.", "A cup of {pot}.", "Tea from {pot}.", "Empty {pot}."]
    result: {cup: {code: "C-##"}}
    answers: ["Cup {cup}.", "It is cup {cup}."]
chains:
  - request: "Brew {leaf} and pour it."
    calls:
      - {tool: brew, arguments: {leaf: "{leaf}"}}
      - {tool: pour, arguments: {pot: "{1.pot}"}}
    answer: "Pot {1.pot}, cup {2.cup}."
"""


def tea_catalogue(folder: Path, text: str) -> Path:
    (folder / "en_tea.yaml").write_text(text, encoding="utf-8")
    shutil.copy(CATALOGUE / "en_chat.yaml", folder)
    shutil.copy(CATALOGUE / "phrases.yaml", folder)
    return folder


def test_a_small_catalogue_of_ones_own_works(tmp_path):
    written = list(author_rows(50, catalogue=tea_catalogue(tmp_path, MENDED)))
    assert {kind_of(row) for row in written} == set(KINDS)
    assert {name for row in written for name in tools_in(row)} == {"brew", "pour"}


def test_a_catalogue_without_chains_writes_the_other_kinds(tmp_path):
    text = MENDED[: MENDED.index("chains:")]
    written = list(author_rows(100, catalogue=tea_catalogue(tmp_path, text)))
    assert {kind_of(row) for row in written} == set(KINDS) - {"chain"}


BREAKS = {
    "unknown pool": ("values: $leaf", "values: $leaves", r"tool brew, parameter leaf: .*\$leaves"),
    "unquoted time": ('["10:30", "11:45"]', "[10:30, 11:45]", r"parameter time: value 630 is no string"),
    "unknown type": ("leaf, type: string", "leaf, type: text", r"tool brew, parameter leaf: type 'text'"),
    "required left out": ("I want {leaf}.", "I want tea.", r"brew, requests\[3\]: required leaf is neither"),
    "unknown parameter": ("I want {leaf}.", "{leaf}, {milk}.", r"brew, requests\[3\]: \{milk\} is unknown"),
    "too few requests": ('"Some {leaf} please.", ', "", r"tool brew: needs 4 requests"),
    "unknown result": ("Pot {pot} is ready.", "Pot {jug}.", r"tool brew, answers\[0\]: \{jug\} is unknown"),
    "guessable answer": ("Pot {pot} is ready.", "It is {leaf}.", r"brew, answers\[0\]: states no result"),
    "misspelt key": ("    result: {cup", "    results: {cup", r"tool pour: missing result"),
    "nothing missing": ("Brew tea.", "Brew {leaf}.", r"tool brew, missing\.text: .* lacks no required"),
    "optional in error": ("No {leaf}: there", "No tea at {time}: there", r"brew, errors\.answer: \{time\}"),
    "name with a space": ("name: pour", "name: pour tea", r"tool pour tea: a tool name has letters"),
    "chain to no field": ('{1.pot}"}', '{1.jug}"}', r"chains\[0\], pour\.pot: \{1\.jug\} is unknown"),
    "chain to no tool": ("tool: pour,", "tool: spill,", r"chains\[0\]: no tool spill"),
    "chain misses argument": ('{pot: "{1.pot}"}', "{}", r"chains\[0\]: arguments of pour do not match"),
    "wrong file name": ("domain: tea", "domain: coffee", r"holds language en and domain coffee"),
    "no YAML": ("tools:", "tools: [", r"not readable as YAML"),
    "same name twice": ("name: pour", "name: brew", r"tool brew is in en_tea\.yaml too"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_catalogue_gives_a_clear_error(tmp_path, name):
    old, new, message = BREAKS[name]
    assert old in MENDED
    text = MENDED.replace(old, new, 1)
    if name == "same name twice":  # the chain calls pour by name, and that error would come first
        text = text[: text.index("chains:")]
    with pytest.raises(ValueError, match=rf"^en_tea\.yaml: .*{message}|^en_tea\.yaml: {message}"):
        next(author_rows(1, catalogue=tea_catalogue(tmp_path, text)))


def test_an_empty_folder_or_number_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalogue in"):
        next(author_rows(1, catalogue=tmp_path))
    with pytest.raises(ValueError, match="1 or more"):
        next(author_rows(0))


def test_a_result_that_repeats_the_request_is_refused(tmp_path):
    text = MENDED.replace("[sencha, oolong, assam]", "[sencha]").replace("P-###", "sencha")
    with pytest.raises(ValueError, match="the result tells nothing that .* does not"):
        list(author_rows(200, catalogue=tea_catalogue(tmp_path, text[: text.index("chains:")])))


def test_a_catalogue_too_small_for_the_rows_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.catalogue.TRIES", 1)
    with pytest.raises(ValueError, match="too small for 4000 different dialogues, stopped after"):
        list(author_rows(4000, catalogue=tea_catalogue(tmp_path, MENDED)))


def test_a_failed_run_leaves_no_file(tmp_path):
    (tmp_path / "tea").mkdir()
    folder = tea_catalogue(tmp_path / "tea", MENDED.replace("values: $leaf", "values: $leaves"))
    command = [
        sys.executable,
        "-m",
        "helpers.catalogue",
        "--rows",
        "5",
        "--out",
        str(tmp_path / "out" / "rows.jsonl"),
    ]
    run = subprocess.run([*command, "--catalogue", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("error: en_tea.yaml: tool brew") and run.stdout == ""
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_holds_the_counts_of_the_committed_file():
    card = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert report(COMMITTED) in card


def test_stats_of_a_foreign_file_name_the_line(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"id": "x", "conversations": []}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="other.jsonl, line 1"):
        report(tmp_path / "other.jsonl")
