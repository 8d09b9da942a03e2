"""Do ModelScope-Agent's real RolePlay and the kit's loop agree, case by case? `python -m helpers.agreement`

Base and tuned model visit the same held-out cases twice: through the real RolePlay, which asks a server over HTTP, and
through `helpers.agent` in this process. Where two transcripts differ, the kit's loop asks once more, one request at a
time: in a batch, padding may turn a greedy choice between two nearly equal tokens. All transcripts are kept.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from helpers import (
    agent,
    assets,
    evaluate,
    finetune,
    inference,
    merging,
    profiles,
    roleplay,
    scoring,
    serving,
    storage,
    training_set,
)
from helpers.engines import ServingError
from helpers.profiles import Profile

KEPT = assets.repo_root() / "data" / "runs"


def make(profile: Profile, n: int, folder: Path) -> Path:
    """Make `n` visits both ways with base and tuned model; RolePlay's are kept in the run folder as they are made.

    Returns the .jsonl file of {"model", "id", "real", "ours", "alone": transcripts, the last where they differ}, and
    writes the cases beside it.

    Raises:
        RolePlayError, ServingError, assets.AssetError: RolePlay or the server cannot do it.
    """
    run = finetune.finetune(profile)
    tuned = run.checkpoints[-1].path
    rows = training_set.prepare_data(replace(profile, visits=n))["cases"]
    storage.write_jsonl(folder / "cases.jsonl", rows)
    visits = [visit for row in rows for visit in roleplay.visits_of(row)]
    lines = []
    for name, adapter in (("base", None), ("tuned", tuned)):
        served = replace(profile, model=str(merging.merge(profile, tuned))) if adapter else profile
        with serving.deploy(served, name=name, port=0) as server:
            out = run.path / "roleplay" / f"agreement_{name}.jsonl"
            real = roleplay.visits(visits, server.url, name, out, parallel=4)
        real = [_plain(transcript.steps) for transcript in real]
        model = inference.Model(profile)
        ours = _visit(rows, model, adapter, progress=f"our loop, {name}")
        differ = [i for i in range(len(rows)) if real[i] != ours[i]]
        single = inference.Model(replace(profile, batch_size=1))
        alone = dict(zip(differ, _visit([rows[i] for i in differ], single, adapter, progress="one at a time")))
        lines += [{"model": name, "id": row["id"], "real": real[i], "ours": ours[i],
                   **({"alone": alone[i]} if i in alone else {})} for i, row in enumerate(rows)]
    storage.write_jsonl(folder / "transcripts.jsonl", lines)
    return folder / "transcripts.jsonl"


def _visit(rows: list[dict], model: inference.Model, adapter: Path | None, progress: str) -> list[list[dict]]:
    cases = [scoring.case_of(row) for row in rows]
    visits = [(agent.visit(case.tools, case.query), scoring.case_tools(case)) for case in cases]
    transcripts = agent.run_batch(visits, lambda requests: model.ask(requests, adapter, progress))
    return [_plain(transcript) for transcript in transcripts]


def _plain(steps: tuple[agent.Step, ...] | list[agent.Step]) -> list[dict]:
    """Steps as JSON gives them back, without the messages and with replies cut where every server cuts them."""
    kept = [{key: value for key, value in asdict(step).items() if key not in ("messages", "raw")} for step in steps]
    return json.loads(json.dumps(kept))


def judged(line: dict, side: str, cases: dict[str, scoring.Case]) -> dict:
    """The verdicts on one side ("real", "ours" or "alone") of a line of the file that `make` writes."""
    return scoring.judge(cases[line["id"]], [evaluate.step_of(step) for step in line[side]])


def table(folder: Path) -> pd.DataFrame:
    """By model: how many cases, how often the transcripts and the verdicts on visit success are equal, how many of the
    differing ones agree when asked one at a time; and visit success and right tool of both loops with Wilson intervals.
    """
    cases = {row["id"]: scoring.case_of(row) for row in storage.read_jsonl(folder / "cases.jsonl")}
    lines, columns = storage.read_jsonl(folder / "transcripts.jsonl"), {}
    for name in dict.fromkeys(line["model"] for line in lines):
        part = [line for line in lines if line["model"] == name]
        verdicts = {side: [judged(line, side, cases) for line in part] for side in ("real", "ours")}
        differ = [line for line in part if line["real"] != line["ours"]]
        columns[name] = {
            "cases": len(part), "same transcript": len(part) - len(differ),
            "same when asked alone": f"{sum(line['alone'] == line['real'] for line in differ)} of {len(differ)}",
            "same verdict": sum(one == other for one, other in zip(*verdicts.values())),
            **{f"{measure.replace('_', ' ')}, {side}": _share(found, measure) for measure in (
                "visit_success", "tool_name", "full_call") for side, found in verdicts.items()}}
    return pd.DataFrame(columns)


def _share(verdicts: list[dict], measure: str) -> str:
    one = scoring.summarise(verdicts)[measure]
    return f"{one['k']}/{one['n']} [{one['low']:.0%}, {one['high']:.0%}]"


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with a message where it could not be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--keep", action="store_true", help="maintainers: write to data/runs")
    options = parser.parse_args(arguments)
    try:
        profile = profiles.current()
        folder = (KEPT if options.keep else assets.repo_root() / "runs") / f"agreement-{profile.name}"
        made = make(profile, options.cases, folder)
    except (assets.AssetError, finetune.TrainingError, merging.MergeError, roleplay.RolePlayError, ServingError,
            ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(table(folder).to_string())
    print(f"\nTranscripts: {os.path.relpath(made, assets.repo_root())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
