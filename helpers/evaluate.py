"""Generate and score every checkpoint of a run, once: results are kept beside the checkpoints and reused.

`<run>/scores/step-000020.visits.json`, `….bfcl.json` and so on (a profile's `measures`) hold every reply as the model
wrote it, and what the scorer said: each number of a table or figure can be computed again from them.
"""

import json
import multiprocessing
import os
import random
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from helpers import agent, bfcl, canonical, corpus, dialogues, finetune, inference, mix, scoring, training_set
from helpers.agentfabric import Call, first_request, parse_arguments, read_calls
from helpers.profiles import Profile


def score_run(run: finetune.Run, profile: Profile) -> list[dict]:
    """The scores of every checkpoint of a run, step 0 (the base model) included; what is on disk is not made again.

    Returns one dict per checkpoint, by step: {"step", "visits", "bfcl"} and whatever else the profile measures; see
    the functions in `SCORERS`.
    """
    units = {_path(run, checkpoint.step, kind): (kind, run.cases, profile, checkpoint)
             for checkpoint in run.checkpoints for kind in profile.measures}
    missing = {path: unit for path, unit in units.items() if not path.exists()}
    _score_missing(missing, profile)
    print(f"Scored {len(missing)} parts, reused {len(units) - len(missing)}.")
    return kept_scores(run)


def kept_scores(run: finetune.Run) -> list[dict]:
    """The scores on disk of a run folder (or of its record under data/runs), as `score_run` returns them."""
    scores = {}
    for path in sorted(run.path.glob("scores/step-*.json")):
        step, kind = re.fullmatch(r"step-(\d+)\.(\w+)\.json", path.name).groups()
        scores.setdefault(int(step), {"step": int(step)})[kind] = json.loads(path.read_text("utf-8"))
    return [scores[step] for step in sorted(scores)]


def _path(run: finetune.Run, step: int, kind: str) -> Path:
    return run.path / "scores" / f"step-{step:06d}.{kind}.json"


def _score_missing(missing: dict[Path, tuple], profile: Profile) -> None:
    """Score units and keep each as it is done. On a CPU in several processes of few threads: a small model's
    matrices are too small to keep many threads busy, and a core taken by another program stops only one of them."""
    workers = min(profile.scorers, os.cpu_count() or 1, len(missing))
    sizes = {"visits": profile.visits, "bfcl": profile.bfcl}  # what takes the time

    def size(unit: tuple) -> int:
        return sizes.get(unit[0], profile.eval_rows)

    with tqdm(total=sum(map(size, missing.values())), desc="scoring", unit="case", disable=not missing) as bar:
        if workers < 2:
            for path, unit in missing.items():
                _write(path, _score(*unit))
                bar.update(size(unit))
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _limit_threads, (workers,)) as pool:
            futures = {pool.submit(_score, *unit): path for path, unit in missing.items()}
            for future in as_completed(futures):
                _write(futures[future], future.result())
                bar.update(size(missing[futures[future]]))


def _limit_threads(workers: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))


def _score(kind: str, rows: list[dict], profile: Profile, checkpoint: finetune.Checkpoint) -> list[dict]:
    return SCORERS[kind](rows, profile, _MODELS.setdefault(profile.name, inference.Model(profile)), checkpoint)


def score_visits(rows: list[dict], profile: Profile, model: inference.Model,
                 checkpoint: finetune.Checkpoint) -> list[dict]:
    """Visit every held-out case with one checkpoint.

    Args:
        rows: canonical held-out rows, one user turn each.

    Returns [{"id", "judged", "transcript"}], see `scoring.judge` and `agent.Step`.
    """
    cases = [scoring.case_of(row) for row in rows]
    # two requests more than the gold calls need: a visit that is still going then has failed either way
    visits = [(agent.visit(case.tools, case.query, max_turns=len(case.calls) + 2), scoring.case_tools(case))
              for case in cases]
    transcripts = agent.run_batch(visits, lambda requests: model.ask(requests, checkpoint.path))
    return [{"id": case.id, "judged": scoring.judge(case, transcript), "transcript": [
        {key: value for key, value in asdict(step).items() if key != "messages"} for step in transcript]}
        for case, transcript in zip(cases, transcripts)]


def score_bfcl(rows: list[dict], profile: Profile, model: inference.Model,
               checkpoint: finetune.Checkpoint) -> list[dict]:
    """The profile's BFCL cases in AgentFabric's prompt, first reply only, judged by BFCL's own checker. (`rows` are
    not used: BFCL brings its own cases.)

    Returns [{"id", "category", "reply", "valid", "error"}].
    """
    cases = bfcl.load_cases(profile.bfcl_categories, n=profile.bfcl, max_chars=profile.max_chars)
    replies = model.ask([first_request(case["tools"], case["query"]) for case in cases], checkpoint.path)
    return [{"id": case["id"], "category": case["category"], "reply": reply, **checked(case, reply)}
            for case, reply in zip(cases, replies)]


def checked(case: dict, reply: str) -> dict:
    """BFCL's verdict on the first call of a reply, or on all of them where several are due: {"valid", "error"}."""
    most = None if "parallel" in case["category"] else 1
    try:
        calls = [(call.name, parse_arguments(call.arguments)) for call in read_calls(reply)[:most]]
    except ValueError as error:
        return {"valid": False, "error": f"arguments are not json5: {error}"}
    valid, error = bfcl.check(case, calls)
    return {"valid": valid, "error": error}


def score_tokens(rows: list[dict], profile: Profile, model: inference.Model,
                 checkpoint: finetune.Checkpoint) -> list[dict]:
    """Teacher-forced grades of two fixed files, in one form with one mask for every run: the gold calls and answers of
    the first cases in wire shape, and the held-out general rows.

    Returns [{"file": "cases" or "general", "id", "tokens", "right", "nats"}], see `inference.Model.grade`.
    """
    general = mix.general("heldout", profile.languages)
    drawn = random.Random(0).sample(general, min(len(general), 8 * profile.eval_rows))
    files = {"cases": list(corpus.render_rows(rows[:3 * profile.eval_rows], "wire")),
             "general": list(corpus.render_rows(drawn, "wire"))}
    return [{"file": name, "id": row["id"], **grade} for name, kept in files.items()
            for row, grade in zip(kept, model.grade(kept, checkpoint.path), strict=True)]


def score_answers(rows: list[dict], profile: Profile, model: inference.Model,
                  checkpoint: finetune.Checkpoint) -> list[dict]:
    """Teacher-forced grades of the gold answers after the gold calls and observations: what a model knows of
    summarising, whether or not it would have come to it, in the two places of `corpus.answer_rows`.

    Returns [{"place", "id", "tokens", "right", "nats"}], see `inference.Model.grade`.
    """
    asked = [(place, answer) for row in rows if canonical.calls_of(row["messages"])
             for place, answer in corpus.answer_rows(row).items()]
    grades = model.grade([answer for _, answer in asked], checkpoint.path)
    return [{"place": place, "id": answer["id"], **grade} for (place, answer), grade in zip(asked, grades, strict=True)]


def score_identity(rows: list[dict], profile: Profile, model: inference.Model,
                   checkpoint: finetune.Checkpoint) -> list[dict]:
    """Held-out questions about the model itself, without any tools. (`rows` are not used.)

    Returns [{"id", "question", "reply", "right"}]: right if the reply has each name that the gold answer has.
    """
    asked = mix.self_cognition(training_set.MODEL_NAME, training_set.MODEL_AUTHOR, "heldout", profile.languages)
    replies = model.ask([row["messages"][:1] for row in asked], checkpoint.path)
    names = (*training_set.MODEL_NAME, *training_set.MODEL_AUTHOR)
    return [{"id": row["id"], "question": row["messages"][0]["content"], "reply": reply,
             "right": all(name in reply for name in names if name in row["messages"][1]["content"])}
            for row, reply in zip(asked, replies, strict=True)]


def score_native(rows: list[dict], profile: Profile, model: inference.Model,
                 checkpoint: finetune.Checkpoint) -> list[dict]:
    """The first call of the calling cases, asked in ms_agent's own prompt instead of AgentFabric's: what a model
    trained on ms_agent's rows can do where serving has the format of training.

    Returns [{"id", "reply", "tool_name", "full_call"}].
    """
    cases = [case for case in map(scoring.case_of, rows) if case.calls]
    replies = model.ask([[{"role": "system", "content": dialogues.render_tools(case.tools)},
                          {"role": "user", "content": case.query}] for case in cases], checkpoint.path)
    return [{"id": case.id, "reply": reply, **scoring.judge_first(case, reply)}
            for case, reply in zip(cases, replies, strict=True)]


def step_of(kept: dict) -> agent.Step:
    """A step of a kept transcript as the scorer reads it."""
    call = Call(**kept["call"]) if kept["call"] else None
    return agent.Step(**{**kept, "call": call})


SCORERS = {"visits": score_visits, "bfcl": score_bfcl, "tokens": score_tokens, "answers": score_answers,
           "identity": score_identity, "native": score_native}
_MODELS: dict[str, inference.Model] = {}  # one per process, so that a worker loads the base model once


def _write(path: Path, scores: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(scores, ensure_ascii=False, indent=1), "utf-8")
    os.replace(partial, path)
