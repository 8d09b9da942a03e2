"""One truth for dependencies, thin modules, and a README that keeps its promises."""

import ast
import re
import tomllib
from importlib.metadata import version

import pytest
import yaml
from conftest import ROOT

from helpers import assets

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DIRECT = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
HELPERS = sorted((ROOT / "helpers").glob("*.py"))


def pins(lines):
    return dict(re.fullmatch(r"([A-Za-z0-9_.-]+)==([^ ;]+).*", line).groups() for line in lines)


def test_requirements_are_pinned_and_hold_every_direct_dependency():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    exported = pins(line for line in lines if line and not line.startswith("#"))
    assert len(exported) > 100
    assert pins(DIRECT).items() <= exported.items()


def test_the_installed_versions_are_the_pinned_ones():
    for package, pinned in pins(DIRECT).items():
        assert version(package).split("+")[0] == pinned, package


def test_conda_installs_the_same_pins_on_the_same_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, _, _, pip = environment["dependencies"]
    assert python == "python=3.11" and PROJECT["requires-python"] == ">=3.11,<3.12"
    assert pip["pip"] == ["-r requirements.txt", "-e ."]


def test_every_direct_dependency_says_why_it_is_there():
    block = (ROOT / "pyproject.toml").read_text("utf-8").split("dependencies = [")[1].split("\n]")[0]
    for line in block.splitlines():
        if "==" in line:
            assert re.search(r'",\s+# \w', line), line


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_modules_are_thin_and_public_functions_documented(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 220
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.stem}.{node.name}"


def test_the_data_flow_points_one_way():
    """canonical → dialogues → corpus → finetune → scoring → curves: nothing imports what comes after it."""
    def imported(name):
        return set(re.findall(r"^from helpers import (.*)|^from helpers\.(\w+)", (ROOT / "helpers" / f"{name}.py").read_text("utf-8"), re.M))

    def names(name):
        return {one.strip() for found in imported(name) for part in found for one in part.split(",") if one.strip()}

    assert names("agentfabric") == set()
    assert names("canonical") <= {"agentfabric"} and names("dialogues") <= {"agentfabric", "canonical"}
    assert names("seed_converter") <= {"agentfabric", "canonical", "dialogues"}
    assert names("corpus") <= {"agentfabric", "canonical", "dialogues", "seed_converter"} and names("splits") <= {"agentfabric"}
    assert names("scoring") <= {"agent", "agentfabric", "corpus"} and names("agent") <= {"agentfabric"}
    assert not any("notebooks" in path.read_text("utf-8") for path in HELPERS if path.stem not in ("tutorial", "playground"))


def test_the_readme_names_every_lesson_and_a_picture_that_exists():
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in readme, path.name
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert (ROOT / picture).exists(), picture
    assert "make tutorial" in readme and "make test" in readme


@pytest.mark.parametrize("name", assets.AUTHORED)
def test_the_data_cards_sha256_is_that_of_the_file(name):
    digest = assets.sha256_of(assets.dataset_file(name))
    (line,) = [line for line in (ROOT / "data" / "README.md").read_text("utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert f"`{digest[:8]}…{digest[-6:]}`" in line
