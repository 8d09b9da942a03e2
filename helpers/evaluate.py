"""Metrics of an episode, and scores of every checkpoint of a run.

An episode succeeds, as in the original recipe, if it makes exactly the right calls, repeats none,
stops, and its answer is faithful to the results, by the rule of `helpers.assets.judge`. The files
`<run>/scores/step-000020.episodes.json` and `….bfcl.json` keep every reply as the model wrote it:
each number can be computed from them again.
"""

import ast
import json
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from tqdm.auto import tqdm

from helpers import agent, assets
from helpers.agentfabric import STOP_WORDS, Call, first_request, parse_arguments, read_calls
from helpers.assets import bfcl
from helpers.assets.judge import count, fault, leaves, read_value
from helpers.convert import Turn, trace_text, turns_of
from helpers.model import Model
from helpers.profiles import Profile
from helpers.train import Checkpoint, Run


@dataclass(frozen=True)
class Case:
    """A held-out question. calls: gold ({"name", "arguments"}, result text) pairs in order; none
    where no tool is needed. facts: values that the answer has to state. answer: the gold answer.
    history: messages of the user turns before, as `convert.requests_of` makes them."""

    id: str
    tools: list
    query: str
    calls: tuple
    facts: tuple
    answer: str
    history: tuple = ()

    @property
    def schemas(self) -> dict[str, dict]:
        """Each tool's JSON schema of its parameters, by name."""
        return {one["function"]["name"]: one["function"]["parameters"] for one in self.tools}


def case_of(row: dict) -> Case:
    """The case that a canonical row makes: its last user turn, after the earlier ones."""
    *earlier, turn = turns_of(row)
    history = []
    for one in earlier:
        history.append({"role": "user", "content": one.query})
        history.append({"role": "assistant", "content": trace_text(one)})
    facts = marked_facts(turn)
    return Case(row["id"], row["tools"], turn.query, turn.calls, facts, turn.answer, tuple(history))


def marked_facts(turn, most: int = 3) -> tuple[str, ...]:
    """At most `most` values of a turn's results that its gold answer states and its question does
    not: only who reads the results can know them."""
    results = [read_value(result, parse_arguments, ast.literal_eval) for _, result in turn.calls]
    known = {value for _, value in leaves(results) if count(turn.answer, value)}
    known = {value for value in known if value in turn.answer and not count(turn.query, value)}
    return tuple(sorted(known, key=turn.answer.index)[:most])


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
    """Whether an answer is faithful to a case: the rule is `helpers.assets.judge`."""
    return not fault(answer, case)


def judge(case: Case, transcript: list[agent.Step]) -> dict:
    """Every metric of an episode: booleans, a float (argument_f1), None where it does not apply.
    success is asked of cases that need a tool, no_call of the others. Never pool the two: a model
    that never calls has the latter right."""
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
        "faithful_answer": faithful if gold and calls else None,
        "full_call_no_arguments": exact if gold and not any(g["arguments"] for g in gold) else None,
        "no_call": None if gold else not calls,
    }


def failure_kind(case: Case, transcript: list[agent.Step]) -> str:
    """The first thing that went wrong in an episode, or "success": "no call" (none, or fewer than
    due), "call not due", "unreadable" (a call that the runtime cannot read), "wrong tool", "wrong
    arguments", "repeats or does not stop", "wrong answer". Without a call due, stopping is enough.
    """
    found = judge(case, transcript)
    calls = [step.call for step in transcript if step.kind == "call"]
    gold = [call for call, _ in case.calls]
    read = [read_value(call.arguments, parse_arguments) for call in calls]
    attempt = len(calls) < len(gold) and "Action:" in transcript[-1].raw
    rest = list(zip(calls, read, gold))
    checks = {
        "call not due": calls and not gold,
        "unreadable": attempt or found["json5"] is False,
        "wrong tool": any(call.name != wanted["name"] for call, _, wanted in rest),
        "wrong arguments": any(not same_value(args, one["arguments"]) for _, args, one in rest),
        "no call": len(calls) < len(gold),
        "repeats or does not stop": len(calls) > len(gold) or not found["clean_stop"],
        "wrong answer": found["success"] is False,
    }
    return next((kind for kind, failed in checks.items() if failed), "success")


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, by scipy; (0, 1) for n = 0."""
    return tuple(binomtest(successes, n).proportion_ci(method="wilson")) if n else (0.0, 1.0)


def clustered_interval(values: list[float], clusters: list[str]) -> tuple[float, float]:
    """The 95 % interval of the mean of `values` where those of one cluster (the same gold tool)
    succeed or fail together: percentiles over 2,000 resamples of whole clusters, with one seed.
    (0, 1) for no values."""
    if not values:
        return 0.0, 1.0
    _, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, weights=np.array(values, float)), np.bincount(index)
    picks = np.random.default_rng(0).integers(len(sizes), size=(2000, len(sizes)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    return tuple(float(end) for end in np.percentile(means, [2.5, 97.5]))


def right_tool_by_offered(cases: list[Case], episodes: list[dict]) -> list[dict]:
    """How often the first call names the right tool, by how many tools were offered: rows
    {"offered", "n", "rate", "low", "high", "chance"} of the bins that hold a case with a call due.
    chance: the mean of 1 / number of tools, what calling any of them would reach."""
    offered, rows = {case.id: len(case.tools) for case in cases}, []
    for first, last in ((1, 1), (2, 2), (3, 4), (5, 8)):
        part = [one for one in episodes if first <= offered[one["id"]] <= last]
        part = [one for one in part if one["metrics"]["tool_name"] is not None]
        if n := len(part):
            k = sum(one["metrics"]["tool_name"] for one in part)
            chance = sum(1 / offered[one["id"]] for one in part) / n
            low, high = wilson(k, n)
            name = str(first) if first == last else f"{first}-{last}"
            rows.append({"offered": name, "n": n, "rate": k / n, "low": low, "high": high})
            rows[-1]["chance"] = chance
    return rows


def judge_agreement(path: Path, part: str | None = None) -> dict:
    """How the rule for answers agrees with a file of labels made by hand, of one "part" or all:
    {"tp", "fp", "fn", "tn", "precision", "recall"}; positive is an answer that passes. A line holds
    {"id", "source", "part", "query", "calls", "observations", "gold", "answer", "label", "why"}."""
    table = Counter()
    for line in assets.read_jsonl(path):
        if part in (None, line["part"]):
            turn = Turn(line["query"], line["calls"], line["gold"])
            case = Case(line["id"], [], *turn[:2], marked_facts(turn), turn.answer)
            table[carries(line["answer"], case), line["label"]] += 1
    tp, fp, fn, tn = (table[key] for key in ((1, 1), (1, 0), (0, 1), (0, 0)))
    shares = {"precision": tp / max(tp + fp, 1), "recall": tp / max(tp + fn, 1)}
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn} | shares


def summarise(metrics: list[dict], clusters: list[str] | None = None) -> dict[str, dict]:
    """Metric → {"n", "rate"} over the episodes to which it applies; for booleans also {"k", "low",
    "high"}: how many are true, and the 95 % interval of their share: Wilson's, and where `clusters`
    says which episodes belong together, as wide as `clustered_interval` if that is wider."""
    summary = {}
    for metric in metrics[0] if metrics else ():
        kept = [at for at, one in enumerate(metrics) if one[metric] is not None]
        values = [metrics[at][metric] for at in kept]
        k, n = sum(values), len(values)
        summary[metric] = {"n": n, "rate": k / n if n else None}
        if values and all(isinstance(value, bool) for value in values):
            low, high = wilson(k, n)
            if clusters:
                left, right = clustered_interval(values, [clusters[at] for at in kept])
                low, high = min(low, left), max(high, right)
            summary[metric] |= {"k": k, "low": low, "high": high}
    return summary


def score_episodes(
    rows,
    profile: Profile,
    model: Model,
    checkpoint: Checkpoint,
    *,
    turns=None,
    grammar=False,
    **more,
) -> list[dict]:
    """One episode with each of the held-out `rows`: [{"id", "cluster", "metrics", "transcript"}].
    turns: requests before an episode ends; None: two more than the gold calls need (who is still
    going then has failed either way). grammar: hold replies to the tools (`Model.ask`). more: parts
    of the prompt. cluster: the tool that is due, or the tools offered where none is."""
    cases = [case_of(row) for row in rows]
    if turns == 1:  # then the first call is judged
        cases = [replace(case, calls=case.calls[:1]) for case in cases]
    loops, offered = [], {}
    for one in cases:
        parts = {"history": one.history, **more}
        most = turns or len(one.calls) + 2
        loops.append(agent.episode(one.tools, one.query, max_turns=most, **parts))
        system = first_request(one.tools, one.query, **parts)[0]["content"]
        offered[system] = one.tools

    def ask(requests):
        held = [offered[request[0]["content"]] for request in requests] if grammar else None
        return model.ask(requests, checkpoint.path, grammar=held)

    transcripts = agent.run_batch(zip(loops, map(case_tools, cases)), ask)
    scores = []
    for case, transcript in zip(cases, transcripts):
        kept = [asdict(step) for step in transcript]
        for step in kept:
            del step["messages"]
        cluster = case.calls[0][0]["name"] if case.calls else ", ".join(sorted(case.schemas))
        score = {"id": case.id, "cluster": cluster, "metrics": judge(case, transcript)}
        scores.append({**score, "transcript": kept})
    return scores


# What a baseline without training may read in its instruction; the tool is none of the data sets'.
EXAMPLES = """You are a helpful assistant. Two examples of good replies:

User: When does the bakery on Mill Road open?
Action: opening_hours
Action Input: {"shop": "bakery", "street": "Mill Road"}
Observation: <result>{"opens": "06:30"}</result>
Answer: The bakery on Mill Road opens at 06:30.

User: Thank you, that helps.
Answer: You are welcome."""


def step_of(kept: dict) -> agent.Step:
    """A step of a kept transcript, as `judge` reads it."""
    return agent.Step(**kept | {"call": kept["call"] and Call(**kept["call"])})


def score_bfcl(
    rows, profile, model, checkpoint, categories=bfcl.CATEGORIES[:2], grammar=False
) -> list[dict]:
    """BFCL's own cases in AgentFabric's prompt, first reply only, judged by BFCL's own checker:
    [{"id", "category", "reply", "valid", "error"}]. grammar: as in `score_episodes`. (`rows` are
    not used.)"""
    cases = bfcl.load_cases(categories, n=profile.bfcl, max_chars=profile.max_chars)
    requests = [first_request(case["tools"], case["query"]) for case in cases]
    held = [case["tools"] for case in cases] if grammar else None
    return [
        {"id": case["id"], "category": case["category"], "reply": reply, **checked(case, reply)}
        for case, reply in zip(cases, model.ask(requests, checkpoint.path, grammar=held))
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


# What is asked of every checkpoint: the development cases' first calls, which is quick.
SCORERS = {"dev": partial(score_episodes, turns=1)}
# What is asked of the base model and the last checkpoint: as they are, and under a grammar.
WHOLE = {"episodes": score_episodes, "bfcl": score_bfcl}
WHOLE |= {f"{kind}_grammar": partial(scorer, grammar=True) for kind, scorer in WHOLE.items()}
# What else the base model can do without training: with examples in the prompt.
BASELINES = {"episodes_examples": partial(score_episodes, instruction=EXAMPLES)}


def score_run(run: Run, profile: Profile, scorers=None, workers=None) -> list[dict]:
    """The scores of a run's checkpoints, as `kept_scores` returns them. Each part is kept as soon
    as it is done, and what is kept is not scored again. scorers: name → function that is asked of
    every checkpoint; None: those of SCORERS, WHOLE and BASELINES; then what the kit's record holds
    of the base model is taken from there. workers: processes side by side (an int); by default two
    on a CPU, one for few cases or on a GPU."""
    if not scorers:
        _take_base_scores(run, profile)
    # a small model's matrices are too small for many threads: two processes of few are faster
    cores, alone = os.cpu_count() or 1, profile.cases < 20 or profile.device != "cpu"
    workers = workers or (1 if alone else min(2, cores))
    jobs, rows, ends = [], {"dev": run.dev}, (run.checkpoints[0], run.checkpoints[-1])
    for checkpoint in run.checkpoints:
        asked = scorers or SCORERS | (WHOLE if checkpoint in ends else {})
        asked = asked if scorers or checkpoint.step else asked | BASELINES
        for kind, scorer in asked.items():
            path = run.path / "scores" / f"step-{checkpoint.step:06d}.{kind}.json"
            judged = rows.get(kind, run.cases)
            jobs.append((path, scorer, judged, profile, checkpoint, cores // workers or 1))
    jobs.sort(key=lambda job: job[1] in SCORERS.values())  # the longest first
    missing = [job for job in jobs if not job[0].exists()]
    # under a grammar most replies stay as they are: the process that wrote those knows them
    together = {}
    for job in missing:
        together.setdefault(job[0].name.replace("_grammar", ""), []).append(job)
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, spawn) if workers > 1 and missing else nullcontext() as pool,
        tqdm(desc="scoring", total=len(missing), unit="part", disable=not missing) as bar,
    ):
        for parts in (pool.map if pool else map)(_score, together.values()):
            bar.update(parts)
    print(f"Scored {len(missing)} parts, reused {len(jobs) - len(missing)}.")
    return kept_scores(run)


def _take_base_scores(run: Run, profile: Profile) -> None:
    """Copy the base model's scores from data/runs/<profile> where they were made with the same
    model, cases and limits: training does not change them, and they would take minutes."""
    record = Run(assets.ROOT / "data" / "runs" / profile.name)
    if not (record.finished and run.finished):
        return
    one, other = record.manifest(), run.manifest()
    same = ("model", "bfcl", "max_chars", "max_new_tokens")
    if any(one["profile"].get(key) != other["profile"][key] for key in same):
        return
    if any(one["data_sha256"].get(key) != other["data_sha256"][key] for key in ("dev", "cases")):
        return
    for path in record.path.glob("scores/step-000000.*.json"):
        kept = run.path / "scores" / path.name
        if not kept.exists():
            with assets.whole_file(kept) as part:
                part.write_text(path.read_text("utf-8"), "utf-8")


_MODEL: dict[str, Model] = {}  # the latest one of this process: loading takes seconds


def _score(jobs: list[tuple]) -> int:
    for path, scorer, rows, profile, checkpoint, threads in jobs:
        if multiprocessing.parent_process():
            os.environ["OMP_NUM_THREADS"] = str(threads)
        if repr(profile) not in _MODEL:
            _MODEL.clear()
            _MODEL[repr(profile)] = Model(profile)
        scores = scorer(rows, profile, _MODEL[repr(profile)], checkpoint)
        with assets.whole_file(path) as partial:
            partial.write_text(json.dumps(scores, ensure_ascii=False, indent=1), "utf-8")
    return len(jobs)


def kept_scores(run: Run) -> list[dict]:
    """The scores in a run folder or its record: [{"step", "dev", "episodes", …}], by step."""
    scores = {}
    for path in sorted(run.path.glob("scores/step-*.json")):
        step, kind = re.fullmatch(r"step-(\d+)\.(\w+)\.json", path.name).groups()
        score = scores.setdefault(int(step), {"step": int(step)})
        score[kind] = json.loads(path.read_text("utf-8"))
    return [scores[step] for step in sorted(scores)]
