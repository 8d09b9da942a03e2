"""The Berkeley Function Calling Leaderboard (BFCL), its cases and its checker. NEVER TRAIN ON THEM.

From PyPI's bfcl-eval (Apache-2.0; Patil et al., ICML 2025). Single-turn Python categories only: the
answers of the Java and JavaScript ones are source text of those languages.
"""

import importlib
import json
import random
import sys
from functools import cache
from itertools import chain, zip_longest
from types import ModuleType, SimpleNamespace

from helpers.assets.files import read_jsonl, wheel

# irrelevance: no tool fits, so no call is right. relevance: some tool fits, so any call counts.
CATEGORIES = (
    "simple_python multiple parallel parallel_multiple irrelevance live_simple live_multiple "
    "live_parallel live_parallel_multiple live_irrelevance live_relevance"
).split()


def load_cases(categories=CATEGORIES[:2], n=None, seed=0, max_chars=None) -> list[dict]:
    """All cases of one user message, or `n`, evenly drawn; a smaller n is a prefix of a larger.

    max_chars: only cases whose tools (as JSON) and query are not longer; for laptops, not BFCL's.
    Case: id, category, query, tools (OpenAI schemas), gold and functions (as `check` needs them).
    """
    if unknown := ", ".join(set(categories) - set(CATEGORIES)):
        raise ValueError(f"unknown BFCL category {unknown}: choose from {', '.join(CATEGORIES)}")

    def short(case: dict) -> bool:
        chars = len(json.dumps(case["tools"], ensure_ascii=False)) + len(case["query"])
        return max_chars is None or chars <= max_chars

    pools = []
    for name in categories:
        pool = list(filter(short, _category(name)))
        drawn = random.Random(f"{seed} {name}").sample(pool, len(pool))
        pools.append(pool if n is None else drawn)
    if n is None:
        return list(chain(*pools))
    if n > (found := sum(map(len, pools))):
        names = ", ".join(categories)
        raise ValueError(f"{n} BFCL cases wanted, {found} found in {names} (max_chars={max_chars})")
    return [case for case in chain(*zip_longest(*pools)) if case is not None][:n]


def check(case: dict, calls: list[tuple[str, dict]]) -> tuple[bool, str]:
    """Score (tool name, arguments) pairs with BFCL's own `ast_checker`: (valid, first error or "").

    Irrelevance is valid without any call, relevance with at least one, as in BFCL's eval_runner.
    """
    functions, gold, category = case["functions"], case["gold"], case["category"]
    if "irrelevance" in category:
        return not calls, "a call, but no tool fits" if calls else ""
    if "relevance" in category:
        return bool(calls), "" if calls else "no call"
    for name, arguments in calls:
        if not isinstance(arguments, dict):
            return False, f"the arguments of {name} are no JSON object: {arguments!r}"
    checker = _bfcl("eval_checker.ast_eval.ast_checker")
    made, python = [{name: arguments} for name, arguments in calls], checker.Language.PYTHON
    try:
        result = checker.ast_checker(functions, made, gold, python, category, "kit")
    except OverflowError as error:  # a number of hundreds of digits, as a looping model writes
        return False, f"BFCL's checker: {error}"
    error = "" if result["valid"] else result["error"]
    while not isinstance(error, str):  # nested lists and dictionaries: the first text in them
        error = next(iter(error.values() if isinstance(error, dict) else error), "invalid")
    return result["valid"], error


def _category(name: str) -> list[dict]:
    """All one-message cases of a category, in the file's order."""
    data = wheel("bfcl-eval").locate_file("bfcl_eval/data")
    answers, gold = data / "possible_answer" / f"BFCL_v4_{name}.json", {}
    if answers.exists():
        gold = {row["id"]: row["ground_truth"] for row in read_jsonl(answers)}
    cases = []
    for row in read_jsonl(data / f"BFCL_v4_{name}.json"):
        (message, *others), functions = row["question"][0], row["function"]
        if not others:
            tools = [{"type": "function", "function": _schema(each)} for each in functions]
            case = {"id": row["id"], "category": name, "query": message["content"], "tools": tools}
            cases.append({**case, "gold": gold.get(row["id"], []), "functions": functions})
    return cases


def _schema(part):
    """BFCL's description with JSON schema's type names, by BFCL's table GORILLA_TO_OPENAPI."""
    if not isinstance(part, dict):
        return part
    names, kind = _bfcl("constants.type_mappings").GORILLA_TO_OPENAPI, part.get("type")
    schema = {key: _schema(value) for key, value in part.items()}
    # A parameter may be called "type": its description is no string.
    return {**schema, "type": names.get(kind, kind)} if isinstance(kind, str) else schema


@cache
def _bfcl(name: str) -> ModuleType:
    """The module bfcl_eval.`name`, without `model_config`, which imports every vendor's SDK."""
    wheel("bfcl-eval")
    # The checker asks it whether a model needs "_" for "." in names; our prompts show them as is.
    config = ModuleType("bfcl_eval.constants.model_config")
    config.MODEL_CONFIG_MAPPING = {"kit": SimpleNamespace(underscore_to_dot=False)}
    sys.modules[config.__name__] = config
    try:
        return importlib.import_module(f"bfcl_eval.{name}")
    finally:
        del sys.modules[config.__name__]
