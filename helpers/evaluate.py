"""Metrics of an episode, and scores of every checkpoint of a run.

An episode succeeds, as in the original recipe, if it makes exactly the right calls, repeats none,
stops, and its answer has the facts of the results. `<run>/scores/step-000020.episodes.json` and
`….bfcl.json` keep every reply as the model wrote it: each number can be computed from them again.
"""

import ast
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from scipy.stats import binomtest
from tqdm.auto import tqdm

from helpers import agent, assets
from helpers.agentfabric import STOP_WORDS, Call, first_request, parse_arguments, read_calls
from helpers.assets import bfcl
from helpers.assets.judge import DENIALS, read_value
from helpers.convert import turns_of
from helpers.model import Model
from helpers.profiles import Profile
from helpers.train import Checkpoint, Run


@dataclass(frozen=True)
class Case:
    """A held-out question. calls: gold ({"name", "arguments"}, result text) pairs in order; none
    where no tool is needed. facts: values that the answer has to state. answer: the gold answer."""

    id: str
    tools: list
    query: str
    calls: tuple
    facts: tuple
    answer: str

    @property
    def schemas(self) -> dict[str, dict]:
        """Each tool's JSON schema of its parameters, by name."""
        return {one["function"]["name"]: one["function"]["parameters"] for one in self.tools}


def case_of(row: dict) -> Case:
    """The case that a canonical row with one user turn makes."""
    (turn,) = turns_of(row)
    return Case(row["id"], row["tools"], turn.query, turn.calls, marked_facts(turn), turn.answer)


def marked_facts(turn, most: int = 3) -> tuple[str, ...]:
    """At most `most` values of a turn's results that its gold answer states and its question does
    not: only who reads the results can know them."""
    results = [read_value(result, parse_arguments, ast.literal_eval) for _, result in turn.calls]
    known = {value for value in _leaves(results) if value in turn.answer}
    known = {value for value in known if value not in turn.query and len(value) > 1}
    return tuple(sorted(known, key=turn.answer.index)[:most])


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    elif not isinstance(value, bool | None):
        yield str(value)


def case_tools(case: Case) -> Callable[[Call], str]:
    """The tools of a case: a call of the tool whose turn it is gets its recorded result, whatever
    the arguments (the answer is judged apart from them); any other the runtime's error text."""
    left = list(case.calls)

    def execute(call: Call) -> str:
        if left and call.name == left[0][0]["name"]:
            return left.pop(0)[1]
        detail = "no result" if call.name in case.schemas else repr(call.name)
        return f"Tool api {call.name} failed to call. Args: {call.arguments}.Details: {detail}"

    return execute


def same_value(given: object, gold: object) -> bool:
    """Equal as arguments: text without case and outer blanks; 5 is 5.0, but "5" is not 5."""
    if isinstance(given, str) and isinstance(gold, str):
        return given.strip().casefold() == gold.strip().casefold()
    if isinstance(given, dict) and isinstance(gold, dict):
        same_keys = given.keys() == gold.keys()
        return same_keys and all(same_value(given[key], gold[key]) for key in gold)
    if isinstance(given, list) and isinstance(gold, list):
        return len(given) == len(gold) and all(map(same_value, given, gold))
    return given == gold and isinstance(given, bool) == isinstance(gold, bool)


def argument_f1(given: dict, gold: dict) -> float:
    """Argument F1 of MSAgent-Bench (arXiv 2309.00986): a point for an equal argument, half a point
    for a right name with another value; recall and precision are points / |gold| and / |given|."""
    if not given and not gold:
        return 1.0
    both = given.keys() & gold.keys()
    points = sum(1.0 if same_value(given[key], gold[key]) else 0.5 for key in both)
    return 2 * points / (len(given) + len(gold))


def carries(answer: str, case: Case) -> bool:
    """Whether an answer states every fact, and denies no more than the gold answer does."""
    gold = case.answer.casefold()
    denies = any(word in answer.casefold() and word not in gold for word in DENIALS)
    return all(fact in answer for fact in case.facts) and not denies


def judge(case: Case, transcript: list[agent.Step]) -> dict:
    """Every metric of an episode: booleans, a float (argument_f1), None where it does not apply.
    success is asked of cases that need a tool, no_tool_accuracy of the others. Never pool the two:
    a model that never calls has the latter right."""
    calls = [step.call for step in transcript if step.kind == "call"]
    read = [read_value(call.arguments, parse_arguments) for call in calls]
    gold, schemas, last = [call for call, _ in case.calls], case.schemas, transcript[-1]
    right = gold[0] if gold else {}  # the first call, where only one is compared
    first = read[0] if read and isinstance(read[0], dict) else {}
    named = [(call.name, given) for call, given in zip(calls, read) if isinstance(given, dict)]
    known = [(given, schemas[name]) for name, given in named if name in schemas]
    ended = last.kind == "answer" and bool(last.text.strip())
    stopped = ended and all(step.finished for step in transcript)
    exact = len(calls) == len(gold) and all(
        call.name == wanted["name"] and same_value(given, wanted["arguments"])
        for call, given, wanted in zip(calls, read, gold)
    )
    repeated = len(set(calls)) < len(calls)
    faithful = last.kind == "answer" and carries(last.text, case)
    strict = [isinstance(read_value(call.arguments, json.loads), dict) for call in calls]
    invented = any(set(given) - set(schema["properties"]) for given, schema in known)
    missing = any(set(schema.get("required", ())) - set(given) for given, schema in known)
    return {
        "success": exact and stopped and not repeated and faithful if gold else None,
        "called": bool(calls) if gold else None,
        "tool_name": bool(calls) and calls[0].name == right["name"] if gold else None,
        "argument_f1": argument_f1(first, right["arguments"]) if gold else None,
        "json5": all(isinstance(given, dict) for given in read) if calls else None,
        "strict_json": all(strict) if calls else None,
        "hallucinated_tool": any(call.name not in schemas for call in calls) if calls else None,
        "hallucinated_argument": invented if known else None,
        "missing_argument": missing if known else None,
        "full_call": exact if gold else None,
        "clean_stop": stopped,
        "repeated_call": repeated,
        "wrote_observation": any(STOP_WORDS[0] in step.raw for step in transcript),
        "faithful_answer": faithful if gold and calls and case.facts else None,
        "no_tool_accuracy": None if gold else not calls and stopped,
    }


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, by scipy; (0, 1) for n = 0."""
    return tuple(binomtest(successes, n).proportion_ci(method="wilson")) if n else (0.0, 1.0)


def summarise(metrics: list[dict]) -> dict[str, dict]:
    """Metric → {"n", "rate"} over the episodes to which it applies; for booleans also {"k", "low",
    "high"}: how many are true, and the interval of their share."""
    summary = {}
    for metric in metrics[0] if metrics else ():
        values = [one[metric] for one in metrics if one[metric] is not None]
        k, n = sum(values), len(values)
        summary[metric] = {"n": n, "rate": k / n if n else None}
        if values and all(isinstance(value, bool) for value in values):
            low, high = wilson(k, n)
            summary[metric] |= {"k": k, "low": low, "high": high}
    return summary


def score_episodes(rows, profile: Profile, model: Model, checkpoint: Checkpoint) -> list[dict]:
    """One episode with each of the held-out `rows`: [{"id", "metrics", "transcript"}]."""
    cases = [case_of(row) for row in rows]
    # two requests more than the gold calls need: one that is still going then has failed either way
    loops = [agent.episode(one.tools, one.query, max_turns=len(one.calls) + 2) for one in cases]
    episodes = zip(loops, map(case_tools, cases))
    transcripts = agent.run_batch(episodes, lambda requests: model.ask(requests, checkpoint.path))
    scores = []
    for case, transcript in zip(cases, transcripts):
        kept = [asdict(step) for step in transcript]
        for step in kept:
            del step["messages"]
        scores.append({"id": case.id, "metrics": judge(case, transcript), "transcript": kept})
    return scores


def step_of(kept: dict) -> agent.Step:
    """A step of a kept transcript, as `judge` reads it."""
    return agent.Step(**kept | {"call": kept["call"] and Call(**kept["call"])})


def score_bfcl(rows, profile, model, checkpoint, categories=bfcl.CATEGORIES[:2]) -> list[dict]:
    """BFCL's own cases in AgentFabric's prompt, first reply only, judged by BFCL's own checker:
    [{"id", "category", "reply", "valid", "error"}]. (`rows` are not used.)"""
    cases = bfcl.load_cases(categories, n=profile.bfcl, max_chars=profile.max_chars)
    requests = [first_request(case["tools"], case["query"]) for case in cases]
    return [
        {"id": case["id"], "category": case["category"], "reply": reply, **checked(case, reply)}
        for case, reply in zip(cases, model.ask(requests, checkpoint.path))
    ]


def checked(case: dict, reply: str) -> dict:
    """BFCL's verdict on a reply's first call, or on all if several are due: {"valid", "error"}."""
    calls = read_calls(reply)[: None if "parallel" in case["category"] else 1]
    try:
        calls = [(call.name, parse_arguments(call.arguments)) for call in calls]
    except ValueError as error:
        return {"valid": False, "error": f"arguments are not json5: {error}"}
    valid, error = bfcl.check(case, calls)
    return {"valid": valid, "error": error}


SCORERS = {"episodes": score_episodes, "bfcl": score_bfcl}


def score_run(run: Run, profile: Profile, scorers=SCORERS, workers=None) -> list[dict]:
    """The scores of every checkpoint, as `kept_scores` returns them. Each part is kept as soon as
    it is done, and what is kept is not scored again. workers: processes side by side (an int); by
    default two on a CPU, one for few cases or on a GPU."""
    # a small model's matrices are too small for many threads: two processes of few are faster
    cores, alone = os.cpu_count() or 1, profile.cases < 20 or profile.device != "cpu"
    workers = workers or (1 if alone else min(2, cores))
    jobs, rows = [], run.cases
    for checkpoint in run.checkpoints:
        for kind, scorer in scorers.items():
            path = run.path / "scores" / f"step-{checkpoint.step:06d}.{kind}.json"
            jobs.append((path, scorer, rows, profile, checkpoint, cores // workers or 1))
    missing = [job for job in jobs if not job[0].exists()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn) if workers > 1 and missing else nullcontext() as pool:
        done = pool.map(_score, missing) if pool else map(_score, missing)
        list(tqdm(done, "scoring", len(missing), unit="part", disable=not missing))
    print(f"Scored {len(missing)} parts, reused {len(jobs) - len(missing)}.")
    return kept_scores(run)


_MODEL: dict[str, Model] = {}  # the latest one of this process: loading takes seconds


def _score(job: tuple) -> None:
    path, scorer, rows, profile, checkpoint, threads = job
    if multiprocessing.parent_process():
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if repr(profile) not in _MODEL:
        _MODEL.clear()
        _MODEL[repr(profile)] = Model(profile)
    scores = scorer(rows, profile, _MODEL[repr(profile)], checkpoint)
    with assets.whole_file(path) as partial:
        partial.write_text(json.dumps(scores, ensure_ascii=False, indent=1), "utf-8")


def kept_scores(run: Run) -> list[dict]:
    """The scores in a run folder or its record: [{"step", "episodes", "bfcl", …}], by step."""
    scores = {}
    for path in sorted(run.path.glob("scores/step-*.json")):
        step, kind = re.fullmatch(r"step-(\d+)\.(\w+)\.json", path.name).groups()
        score = scores.setdefault(int(step), {"step": int(step)})
        score[kind] = json.loads(path.read_text("utf-8"))
    return [scores[step] for step in sorted(scores)]
