"""The Berkeley Function Calling Leaderboard (BFCL): its cases and its own checker. NEVER TRAIN ON THEM.

Both come from PyPI's wheel bfcl-eval (Apache-2.0; github.com/ShishirPatil/gorilla; Patil et al., ICML 2025).
Its dependencies are not installed: only the pure-Python checker is imported. Single-turn Python categories
only; the gold answers of the Java and JavaScript ones are source text of those languages.
"""

import importlib
import json
import random
import sys
from functools import cache
from itertools import zip_longest
from pathlib import Path
from types import ModuleType, SimpleNamespace

from helpers.downloads import from_wheel

WHEEL = ("bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")
# irrelevance: no tool fits, so no call is right. relevance: some tool fits, so any call counts.
CATEGORIES = (
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance",
    "live_relevance",
)


def load_cases(categories=("simple_python", "multiple"), n: int | None = None, seed: int = 0,
               max_chars: int | None = None) -> list[dict]:
    """BFCL cases of one user turn.

    Args:
        categories: names in `CATEGORIES`.
        n: draw this many, spread evenly over the categories; a smaller n is a prefix of a larger. None: all.
        seed: of the draw.
        max_chars: keep cases whose tools (as JSON) and query have at most so many characters together, before
            drawing. For laptops: a selection by length, so a score on it is not BFCL's.

    Returns:
        {"id", "category", "query": str, "tools": [{"type": "function", "function": {"name", "description",
        "parameters": JSON schema}}], "gold": BFCL's possible answers (empty where it has none), "functions":
        BFCL's own descriptions, for `check`}. Cases of several messages (100 of live_*) are left out.

    Raises:
        ValueError: unknown category, or fewer than n cases.
        AssetError: the wheel cannot be had.
    """
    unknown = [name for name in categories if name not in CATEGORIES]
    if unknown:
        raise ValueError(f"unknown BFCL category {', '.join(unknown)}: choose from {', '.join(CATEGORIES)}")
    pools = [[case for case in _category(name) if max_chars is None or _length(case) <= max_chars]
             for name in categories]
    found = sum(map(len, pools))
    if n is None:
        return [case for pool in pools for case in pool]
    if n > found:
        raise ValueError(f"{n} BFCL cases wanted, {found} found in {', '.join(categories)} with max_chars="
                         f"{max_chars}: ask for fewer, or raise max_chars")
    drawn = [random.Random(f"{seed} {name}").sample(pool, len(pool))
             for name, pool in zip(categories, pools, strict=True)]
    return [case for row in zip_longest(*drawn) for case in row if case is not None][:n]


def check(case: dict, calls: list[tuple[str, dict]]) -> tuple[bool, str]:
    """Score calls with BFCL's own `ast_checker`: (valid, the first error or "").

    Irrelevance is valid without any call, relevance with at least one, as in BFCL's eval_runner. Pair the
    former with a category that must call, or a silent model wins.

    Args:
        case: from `load_cases`.
        calls: (tool name as the prompt shows it, dots included; arguments as parsed from JSON), in order.
    """
    if "relevance" in case["category"]:
        wanted = "irrelevance" not in case["category"]
        valid = bool(calls) == wanted
        return valid, "" if valid else "no call" if wanted else "a call, but no tool fits"
    for name, arguments in calls:
        if not isinstance(arguments, dict):
            return False, f"the arguments of {name} are no JSON object: {arguments!r}"
    checker = _load("eval_checker.ast_eval.ast_checker")
    made = [{name: arguments} for name, arguments in calls]
    try:
        result = checker.ast_checker(case["functions"], made, case["gold"], checker.Language.PYTHON,
                                     case["category"], "kit")
    except OverflowError as error:  # a number of hundreds of digits, as a looping model writes
        return False, f"BFCL's checker: {error}"
    return bool(result["valid"]), "" if result["valid"] else _first_error(result["error"])


def gold_calls(case: dict) -> list[tuple[str, dict]]:
    """One right answer in the form that `check` takes: of every argument the first value that BFCL accepts.

    An argument that may be left out is left out. Where no call is right, or any is, the list is empty.
    """
    required = {each["name"]: each["parameters"].get("required", []) for each in case["functions"]}
    return [(name, {key: _plain(value) for key, value in _first_values(arguments, required[name]).items()})
            for call in case["gold"] for name, arguments in call.items()]


def _first_values(accepted: dict, required: list | tuple = ()) -> dict:
    """{name: [accepted values]} -> {name: value}; "" among the values marks an argument that may be absent.

    An object's members have lists of accepted values again, but only one level down (BFCL's dict_checker).
    """
    kept = {name: values for name, values in accepted.items() if name in required or "" not in values}
    return {name: next((value for value in values if value != ""), "" if values else [])
            for name, values in kept.items()}


def _plain(value):
    """An accepted value as a call would carry it: objects, also in a list, with a value for every member."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _first_values(value) if isinstance(value, dict) else value


def _first_error(error) -> str:
    """The first text in BFCL's error, which may be nested lists and dictionaries."""
    if isinstance(error, str):
        return error
    items = list(error.values() if isinstance(error, dict) else error)
    return _first_error(items[0]) if items else "invalid"


def _length(case: dict) -> int:
    return len(json.dumps(case["tools"], ensure_ascii=False)) + len(case["query"])


def _root() -> Path:
    """The unpacked wheel."""
    members = ("bfcl_eval/__init__.py", "bfcl_eval/constants/", "bfcl_eval/data/", "bfcl_eval/eval_checker/",
               "bfcl_eval-2026.3.23.dist-info/METADATA")
    return from_wheel(*WHEEL, members=members)


def _category(name: str) -> list[dict]:
    """All one-message cases of a category, in the file's order."""
    data = _root() / "bfcl_eval" / "data"
    answers = data / "possible_answer" / f"BFCL_v4_{name}.json"
    gold = {row["id"]: row["ground_truth"] for row in _rows(answers)} if answers.exists() else {}
    cases = []
    for row in _rows(data / f"BFCL_v4_{name}.json"):
        messages = row["question"][0]
        if len(messages) == 1:
            tools = [{"type": "function", "function": {**each, "parameters": _schema(each["parameters"])}}
                     for each in row["function"]]
            cases.append({"id": row["id"], "category": name, "query": messages[0]["content"], "tools": tools,
                          "gold": gold.get(row["id"], []), "functions": row["function"]})
    return cases


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _schema(described: dict) -> dict:
    """BFCL's parameters as JSON schema: types dict, float, tuple, any by BFCL's table GORILLA_TO_OPENAPI."""
    names = _load("constants.type_mappings").GORILLA_TO_OPENAPI
    schema = dict(described)
    if "type" in schema:
        schema["type"] = names.get(schema["type"], schema["type"])
    if "properties" in schema:
        schema["properties"] = {name: _schema(value) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _schema(schema[key])
    return schema


@cache
def _load(name: str) -> ModuleType:
    """Import bfcl_eval.`name` out of the wheel, and leave sys.path and sys.modules as they were.

    `model_config` is replaced: it would import every vendor's SDK, and the checker only asks it if a model
    needs "_" for "." in names ("kit": no, the prompt shows names as they are).
    """
    config = ModuleType("bfcl_eval.constants.model_config")
    config.MODEL_CONFIG_MAPPING = {"kit": SimpleNamespace(underscore_to_dot=False)}
    before = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == "bfcl_eval"}
    sys.modules[config.__name__] = config
    sys.path.insert(0, str(_root()))
    try:
        return importlib.import_module(f"bfcl_eval.{name}")
    finally:
        sys.path.remove(str(_root()))
        for key in [key for key in sys.modules if key.split(".")[0] == "bfcl_eval"]:
            del sys.modules[key]
        sys.modules.update(before)
