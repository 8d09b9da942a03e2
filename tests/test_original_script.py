"""The port of the published conversion script: it equals the script, and its losses are counted."""

import gzip
import json
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, tool

from helpers import assets, ms_agent
from helpers.agentfabric import Unreadable
from helpers.study import original_script


def test_it_equals_the_published_script_on_every_prompt(shared):
    path = shared / "original_script" / "outputs.jsonl.gz"
    kept = [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]
    assert len(kept) == 1565 and sum("error" in one for one in kept) == 10
    for one in kept:
        try:
            made = "out", original_script.process_system(one["system"])
        except Exception as error:
            made = "error", f"{type(error).__name__}: {error}"
        assert made in one.items(), one["id"]


def test_what_it_loses_of_the_authored_prompts():
    lost, without_tools, from_ten_on = Counter(), 0, 0
    for row in assets.read_jsonl(assets.dataset_file("authored")):
        system = row["conversations"][0]["value"]
        lost.update(original_script.losses(system))
        without_tools += not original_script.original_tools(system)
        from_ten_on += max(0, len(ms_agent.parse_tools(system)) - 9)
    assert (lost["prompts"], lost["prompts the script dies on"]) == (1536, 0)
    assert (lost["parameters"], lost["parameters gone"]) == (10542, 10542 - 4700)
    assert (lost["tools"], lost["tools gone"], from_ten_on, without_tools) == (4843, 143, 82, 4)
    assert (lost["required flags gone"], lost["types turned to string"]) == (6719, 223)


def test_what_it_leaves_of_tools():
    hotel = tool("Hotel finder", "Version 1.2 of it.")
    left = original_script.schemas([hotel])
    city = {"city": {"type": "string", "description": "City of the hotel"}}
    assert left == [tool("Hotel finder", "Version 1", required=(), **city)]
    lost = original_script.losses(ms_agent.render_tools([hotel]))
    gone = ["tools gone", "parameters gone", "required flags gone", "descriptions cut"]
    assert [lost[what] for what in gone] == [0, 1, 1, 1]
    with pytest.raises(Unreadable, match="dies"):
        original_script.schemas([tool(description="First line,\nsecond line.")])


def test_a_file_keeps_the_rows_on_which_it_dies(tmp_path):
    good = assets.read_jsonl(assets.dataset_file("authored"))[0] | {"more": 1}
    bad = {"conversations": [{"from": "system", "value": "\n1. x: [{}]"}]}
    assets.write_jsonl(tmp_path / "in.jsonl", [bad, good, {}])
    module = [sys.executable, "-m", "helpers.study.original_script"]
    subprocess.run([*module, tmp_path / "in.jsonl", tmp_path / "out.jsonl"], cwd=ROOT, check=True)
    (made,) = assets.read_jsonl(tmp_path / "out.jsonl")
    prompt = original_script.process_system(good["conversations"][0]["value"])
    system = {"from": "system", "value": prompt}
    assert made == {**good, "conversations": [system, *good["conversations"][1:]]}
    rejected = assets.read_jsonl(tmp_path / "out.rejected.jsonl")
    assert [(one["line"], one["row"]) for one in rejected] == [(1, bad), (3, {})]
    failed = subprocess.run(
        [*module, "none.jsonl", "x.jsonl"], cwd=ROOT, capture_output=True, text=True
    )
    assert failed.returncode == 1 and "none.jsonl" in failed.stderr.splitlines()[0]
