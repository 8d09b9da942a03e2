"""The port of the published conversion script: it equals the script, and loses no row."""

import gzip
import json
import subprocess
import sys

import pytest
from conftest import ROOT, tool

from helpers import assets
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


def test_what_it_leaves_of_tools():
    left = original_script.schemas([tool("Hotel finder", "Version 1.2 of it.")])
    city = {"city": {"type": "string", "description": "City of the hotel"}}
    assert left == [tool("Hotel finder", "Version 1", required=(), **city)]
    with pytest.raises(Unreadable, match="dies"):
        original_script.schemas([tool(description="First line,\nsecond line.")])


def test_a_file_keeps_the_rows_on_which_it_dies(tmp_path):
    good = assets.read_jsonl(assets.dataset_file("authored"))[0] | {"more": 1}
    bad = {"conversations": [{"from": "system", "value": "\n1. x: [{}]"}]}
    assets.write_jsonl(tmp_path / "in.jsonl", [bad, good, {}])
    files = [tmp_path / "in.jsonl", tmp_path / "out.jsonl"]
    module = [sys.executable, "-m", "helpers.study.original_script"]
    subprocess.run([*module, *files], cwd=ROOT, check=True)
    (made,) = assets.read_jsonl(files[1])
    assert made == original_script.convert_row(good) and made["more"] == 1
    rejected = assets.read_jsonl(tmp_path / "out.rejected.jsonl")
    assert [(one["line"], one["row"]) for one in rejected] == [(1, bad), (3, {})]
