"""Generate and score every checkpoint of a run, once: results are kept beside the checkpoint's run and reused.

`<run>/scores/step-000020.json` holds for one checkpoint every visit and every BFCL reply as the model wrote it, and
what the scorer said: each number of a table or figure can be computed again from it.
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from helpers import agent, bfcl, finetune, inference, scoring
from helpers.agentfabric import first_request, parse_arguments, read_calls
from helpers.profiles import Profile

BFCL_CATEGORIES = ("simple_python", "multiple")


def score_run(run: finetune.Run, profile: Profile, model: inference.Model | None = None) -> list[dict]:
    """The scores of every checkpoint of a run, step 0 (the base model) included; what is on disk is not made again.

    Returns one dict per checkpoint, by step: {"step", "visits", "bfcl", "seconds"}, see `score_checkpoint`.
    """
    model = model or inference.Model(profile)
    scores, made = [], 0
    for checkpoint in run.checkpoints:
        path = run.path / "scores" / f"step-{checkpoint.step:06d}.json"
        if not path.exists():
            _write(path, score_checkpoint(run.cases, profile, model, checkpoint))
            made += 1
        scores.append(json.loads(path.read_text("utf-8")))
    print(f"Scored {made} checkpoints, reused {len(scores) - made}.")
    return scores


def score_checkpoint(rows: list[dict], profile: Profile, model: inference.Model,
                     checkpoint: finetune.Checkpoint) -> dict:
    """Visit every held-out case and answer the BFCL cases with one checkpoint.

    Args:
        rows: canonical held-out rows, one user turn each.

    Returns {"step", "seconds", "visits": [{"id", "judged", "transcript"}], "bfcl": [{"id", "category", "reply",
    "valid", "error"}]}.
    """
    started, label = time.time(), f"step {checkpoint.step}"

    def ask(requests):
        return model.ask(requests, checkpoint.path, progress=f"{label}: visits")

    cases = [scoring.case_of(row) for row in rows]
    # two requests more than the gold calls need: a visit that is still going then has failed either way
    visits = [(agent.visit(case.tools, case.query, max_turns=len(case.calls) + 2), scoring.case_tools(case))
              for case in cases]
    transcripts = agent.run_batch(visits, ask)
    judged = [{"id": case.id, "judged": scoring.judge(case, transcript), "transcript": [
        {key: value for key, value in asdict(step).items() if key != "messages"} for step in transcript]}
        for case, transcript in zip(cases, transcripts)]
    return {"step": checkpoint.step, "visits": judged, "bfcl": score_bfcl(profile, model, checkpoint.path, label),
            "seconds": round(time.time() - started)}


def score_bfcl(profile: Profile, model: inference.Model, adapter: Path | None, label: str = "") -> list[dict]:
    """BFCL cases in AgentFabric's prompt, first reply only, judged by BFCL's own checker."""
    cases = bfcl.load_cases(BFCL_CATEGORIES, n=profile.bfcl, max_chars=profile.max_chars)
    replies = model.ask([first_request(case["tools"], case["query"]) for case in cases], adapter,
                        progress=f"{label}: BFCL")
    return [{"id": case["id"], "category": case["category"], "reply": reply, **_checked(case, reply)}
            for case, reply in zip(cases, replies)]


def _checked(case: dict, reply: str) -> dict:
    try:
        calls = [(call.name, parse_arguments(call.arguments)) for call in read_calls(reply)[:1]]
    except ValueError as error:
        return {"valid": False, "error": f"arguments are not json5: {error}"}
    valid, error = bfcl.check(case, calls)
    return {"valid": valid, "error": error}


def _write(path: Path, scores: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(scores, ensure_ascii=False, indent=1), "utf-8")
    os.replace(partial, path)
