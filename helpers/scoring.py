"""Measures of a visit, and their intervals. Pure functions: this module knows no files and no models.

A case is a held-out dialogue turn with its gold calls; a visit is what a model made of it through AgentFabric's loop
(`helpers.agent`). The headline is *visit success*, the seed recipes' own notion: exactly the gold calls, nothing
repeated, an answer that carries the facts of the observation, and a stop.
"""

import ast
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import binomtest

from helpers.agent import Step
from helpers.agentfabric import STOP_WORDS, Call, function_of, parse_arguments, read_calls
from helpers.corpus import turns_of

DENIALS = ("cannot obtain", "can't obtain", "unable to", "i cannot", "i can't", "无法", "不能获取", "抱歉")


@dataclass(frozen=True)
class Case:
    """A held-out question: `calls` are gold ({"name", "arguments"}, result text) pairs, in order; none where the
    right thing is to answer or to ask back. `facts` are the values an answer has to carry, `answer` the gold answer."""

    id: str
    tools: list
    query: str
    calls: tuple
    facts: tuple
    answer: str


def case_of(row: dict) -> Case:
    """A canonical row with one user turn → a case."""
    (turn,) = turns_of(row)
    return Case(row["id"], row["tools"], turn.query, turn.calls, marked_facts(turn), turn.answer)


def marked_facts(turn, most: int = 3) -> tuple[str, ...]:
    """The values of a turn's observations that its gold answer states and its question does not: what a model can
    only know by reading the observation. At most `most`, in the answer's order."""
    values = [value for _, result in turn.calls for value in _leaves(_read(result, ast.literal_eval))]
    known = {value for value in values if value in turn.answer and value not in turn.query and len(value) > 1}
    return tuple(sorted(known, key=turn.answer.index)[:most])


def _read(text: str, otherwise: Callable[[str], object] = str) -> object:
    """Arguments as the runtime reads them, else `otherwise` (results may be Python literals), else the text."""
    for read in (parse_arguments, otherwise):
        try:
            return read(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in _leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in _leaves(one)]
    return [] if isinstance(value, bool) or value is None else [str(value)]


def case_tools(case: Case) -> Callable[[Call], str]:
    """What a case's tools answer: the recorded result for a call of the tool whose turn it is (whatever the
    arguments, so that the summary can be judged apart from them), the runtime's error text for any other call."""
    results = iter(case.calls)
    expected = next(results, None)

    def execute(call: Call) -> str:
        nonlocal expected
        if expected and call.name == expected[0]["name"]:
            result, expected = expected[1], next(results, None)
            return result
        detail = "no result" if call.name in _schemas(case) else repr(call.name)
        return f"Tool api {call.name} failed to call. Args: {call.arguments}.Details: {detail}"

    return execute


def _schemas(case: Case) -> dict[str, dict]:
    return {function_of(tool)["name"]: function_of(tool)["parameters"] for tool in case.tools}


def same_value(given: object, gold: object) -> bool:
    """Equal as arguments: text without case and outer blanks, 5 and 5.0 alike, but never "5" and 5."""
    if isinstance(given, str) and isinstance(gold, str):
        return given.strip().casefold() == gold.strip().casefold()
    if isinstance(given, dict) and isinstance(gold, dict):
        return given.keys() == gold.keys() and all(same_value(given[key], gold[key]) for key in gold)
    if isinstance(given, list) and isinstance(gold, list):
        return len(given) == len(gold) and all(map(same_value, given, gold))
    return given == gold and isinstance(given, bool) == isinstance(gold, bool)


def argument_f1(given: dict, gold: dict) -> float:
    """Argument F1 of MSAgent-Bench (arXiv 2309.00986): half a point for a right key with a wrong value (HM), one for
    a full match (FM); R = (0.5·HM + FM) / |gold|, P = (0.5·HM + FM) / |given|. Two empty sets match: 1.0."""
    if not given and not gold:
        return 1.0
    points = sum(1.0 if same_value(given[key], gold[key]) else 0.5 for key in given.keys() & gold.keys())
    return 2 * points / (len(given) + len(gold))


def judge(case: Case, transcript: list[Step]) -> dict:
    """Every measure of one visit: booleans, one float (argument_f1), and None where a measure does not apply.

    Visit success is asked of cases that need a tool, no-tool accuracy of those that do not: a model that never calls
    would win the latter, so the two are read side by side and never pooled.
    """
    calls = [step.call for step in transcript if step.kind == "call"]
    read = [_read(call.arguments) for call in calls]
    gold = [call for call, _ in case.calls]
    last = transcript[-1]
    stopped = last.kind == "answer" and bool(last.text.strip()) and all(step.finished for step in transcript)
    exact = len(calls) == len(gold) and all(
        call.name == right["name"] and isinstance(given, dict) and same_value(given, right["arguments"])
        for call, given, right in zip(calls, read, gold))
    repeated = any(count > 1 for count in Counter(calls).values())
    faithful = last.kind == "answer" and carries(last.text, case)
    return {
        "visit_success": exact and stopped and not repeated and faithful if gold else None,
        **_judge_calls(case, calls, read),
        "full_call": exact if gold else None,
        "clean_stop": stopped,
        "repeated_call": repeated,
        "wrote_observation": any(STOP_WORDS[0] in step.raw for step in transcript),
        "faithful_answer": faithful if gold and calls and case.facts else None,
        "no_tool_accuracy": (not calls and stopped) if not gold else None,
    }


def judge_first(case: Case, reply: str) -> dict[str, bool]:
    """Whether the first call in a reply names the first gold call's tool, and equals it: {"tool_name", "full_call"}.
    Arguments may also be a Python literal, as ms_agent writes them."""
    call, right = next(iter(read_calls(reply)), None), case.calls[0][0]
    named = call is not None and call.name == right["name"]
    return {"tool_name": named,
            "full_call": named and same_value(_read(call.arguments, ast.literal_eval), right["arguments"])}


def carries(answer: str, case: Case) -> bool:
    """Whether an answer states every fact of the case and does not deny where the gold answer does not."""
    denied = [word for word in DENIALS if word in answer.casefold() and word not in case.answer.casefold()]
    return all(fact in answer for fact in case.facts) and not denied


def _judge_calls(case: Case, calls: list[Call], read: list) -> dict:
    """The measures that look at single calls; the first call stands for the visit where only one is compared."""
    schemas, gold = _schemas(case), [call for call, _ in case.calls]
    first = read[0] if read and isinstance(read[0], dict) else {}
    known = [(given, schemas[call.name]) for call, given in zip(calls, read)
             if call.name in schemas and isinstance(given, dict)]
    return {
        "called": bool(calls) if gold else None,
        "tool_name": bool(calls) and calls[0].name == gold[0]["name"] if gold else None,
        "argument_f1": argument_f1(first, gold[0]["arguments"]) if gold else None,
        "json5": all(isinstance(given, dict) for given in read) if calls else None,
        "strict_json": all(_strict(call.arguments) for call in calls) if calls else None,
        "hallucinated_tool": any(call.name not in schemas for call in calls) if calls else None,
        "hallucinated_argument": any(set(given) - set(schema["properties"]) for given, schema in known)
        if known else None,
        "missing_argument": any(set(schema.get("required", ())) - set(given) for given, schema in known)
        if known else None,
    }


def _strict(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (scipy's `binomtest(...).proportion_ci`); (0, 1) for n = 0."""
    if not n:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def summarise(judged: list[dict]) -> dict[str, dict]:
    """Measure → {"n", "k", "rate", "low", "high"} over all visits to which it applies (k and interval for booleans)."""
    summary = {}
    for measure in judged[0] if judged else ():
        values = [one[measure] for one in judged if one[measure] is not None]
        rate = sum(values) / len(values) if values else None
        summary[measure] = {"n": len(values), "rate": rate}
        if values and all(isinstance(value, bool) for value in values):
            low, high = wilson(sum(values), len(values))
            summary[measure] |= {"k": sum(values), "low": low, "high": high}
    return summary
