"""One truth for dependencies, a thin house whose imports point one way, documents that keep up."""

import ast
import re
import tomllib
from importlib.metadata import version

import networkx as nx
import pytest
import yaml
from conftest import ROOT

from helpers import assets

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DIRECT = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
HELPERS = sorted((ROOT / "helpers").rglob("*.py"))
# The learner's modules in the order of the walk; each imports only what stands before it.
FOURTEEN = (
    "profiles agentfabric ms_agent data convert split swift_plugin tokens train agent model".split()
)
FOURTEEN += ["evaluate", "plots", "playground"]
ROOMS = {  # behind the fourteen: what a room may import of the other rooms
    "assets": set(),
    "serving": {"assets"},
    "runtime": {"assets", "serving"},
    "record": {"assets"},
    "study": {"assets", "serving", "runtime", "record"},
}


def imported(path) -> set[str]:
    """The modules of helpers that a file imports, anywhere in it, as dotted names below helpers."""
    known, found = {f"helpers.{module_of(one)}" for one in HELPERS}, set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: helpers are imported by their whole name"
            for alias in node.names:  # from helpers.room import module, or a name of helpers.room
                whole = f"{node.module}.{alias.name}"
                found |= {whole if whole in known else node.module} & known
    return {name.removeprefix("helpers.") for name in found}


def module_of(path) -> str:
    """helpers/serving/merge.py → "serving.merge"; a package's __init__ is the package."""
    parts = path.relative_to(ROOT / "helpers").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.fixture(scope="module")
def graph():
    """The import graph of helpers: an edge from each module to each that it imports."""
    graph = nx.DiGraph()
    for path in HELPERS:
        graph.add_node(module_of(path))
        graph.add_edges_from((module_of(path), name) for name in imported(path))
    return graph


def room(module: str) -> str:
    return module.split(".")[0] if module.split(".")[0] in ROOMS else "front"


def test_there_is_no_circle_and_nothing_points_back(graph):
    assert nx.is_directed_acyclic_graph(graph), nx.find_cycle(graph)
    for one, other in graph.edges:
        if room(one) == "front":
            assert room(other) in ("front", "assets"), f"{one} imports {other}"
            if room(other) == "front":
                assert FOURTEEN.index(other) < FOURTEEN.index(one), f"{one} imports {other}"
        elif room(other) not in ("front", room(one)):
            assert room(other) in ROOMS[room(one)], f"{one} imports {other}"
        assert room(one) != "assets" or room(other) == "assets", f"{one} imports {other}"


def test_the_front_is_the_fourteen_and_each_stands_in_a_lesson(graph):
    assert sorted(module for module in graph if room(module) == "front") == sorted(FOURTEEN)
    for module in FOURTEEN:
        users = [lesson.stem[:2] for lesson in lessons() if module in imported(lesson)]
        assert users, f"no lesson imports {module}"


def lessons():
    return sorted((ROOT / "notebooks" / "text").glob("*.py"))


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_a_lesson_reaches_only_what_it_teaches(path, graph):
    reached = set(imported(path))
    for name in imported(path):
        reached |= nx.descendants(graph, name)
    rooms = {room(name) for name in reached}
    allowed = {"front", "assets"}
    allowed |= {"07": {"serving"}, "08": {"serving", "runtime"}, "09": {"study"}}.get(
        path.stem[:2], set()
    )
    assert rooms <= allowed, rooms - allowed


def test_nothing_imports_authoring_or_a_lesson():
    for path in HELPERS:
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        }
        siblings = {one.stem for one in (ROOT / "data" / "authoring").glob("*.py")}
        assert not names & (siblings | {"data", "notebooks"}), path


def test_the_house_is_thin():
    size = {path: len(path.read_text("utf-8").splitlines()) for path in HELPERS}
    tests = sum(len(path.read_text("utf-8").splitlines()) for path in (ROOT / "tests").glob("*.py"))
    assert sum(n for path, n in size.items() if room(module_of(path)) == "front") <= 2900
    assert sum(size.values()) <= 6800
    assert tests <= 4100


@pytest.mark.parametrize("path", HELPERS, ids=module_of)
def test_public_functions_are_documented(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module_of(path)}.{node.name}"


def pins(lines):
    return dict(re.fullmatch(r"([A-Za-z0-9_.-]+)==([^ ;]+).*", line).groups() for line in lines)


def test_requirements_hold_every_direct_dependency_and_are_what_is_installed():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    exported = pins(line for line in lines if line and not line.startswith("#"))
    assert len(exported) > 100
    assert pins(DIRECT).items() <= exported.items()
    for package, pinned in pins(DIRECT).items():
        assert version(package).split("+")[0] == pinned, package


def test_conda_installs_the_same_pins_on_the_same_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, _, _, pip = environment["dependencies"]
    assert python == "python=3.11" and PROJECT["requires-python"] == ">=3.11,<3.12"
    assert pip["pip"] == ["-r requirements.txt", "-e ."]


def test_every_direct_dependency_says_why_it_is_there():
    block = (
        (ROOT / "pyproject.toml").read_text("utf-8").split("dependencies = [")[1].split("\n]")[0]
    )
    for line in block.splitlines():
        if "==" in line:
            assert re.search(r'",\s+# \w', line), line


def test_the_readme_names_every_lesson_and_a_picture_that_exists():
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in readme, path.name
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert picture.startswith("../../actions/") or (ROOT / picture).exists(), picture
    assert "make tutorial" in readme and "make test" in readme


@pytest.mark.parametrize(
    "page", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "data/README.md"]
)
def test_paths_that_a_page_names_exist(page):
    text = (ROOT / page).read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith(("http", "../../actions/")):  # GitHub's own pages
            assert ((ROOT / page).parent / link).exists(), link
    for name in re.findall(r"`((?:helpers|notebooks|data|tests|figures)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", assets.AUTHORED)
def test_the_data_cards_sha256_is_that_of_the_file(name):
    digest = assets.sha256_of(assets.dataset_file(name))
    card = (ROOT / "data" / "README.md").read_text("utf-8").splitlines()
    (line,) = [line for line in card if line.startswith(f"| `{name}` |")]
    assert f"`{digest[:8]}…{digest[-6:]}`" in line
