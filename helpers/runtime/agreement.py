"""Do ModelScope-Agent's real RolePlay and the kit's loop agree, case by case?

Base and tuned model run the same cases through the real RolePlay, which asks a server over HTTP,
and through `helpers.agent` in this process. Where two transcripts differ, our loop asks again, one
request at a time: in a batch, padding may turn a choice between two nearly equal tokens.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from helpers import agent, assets, evaluate, serving, train
from helpers.model import Model
from helpers.profiles import Profile
from helpers.runtime import roleplay
from helpers.split import prepare_data

KEPT = assets.ROOT / "data" / "runs"


def make(profile: Profile, n: int, folder: Path) -> Path:
    """Run `n` cases both ways with base and tuned model. Returns the folder, with cases.jsonl and
    transcripts.jsonl: "model", "id", "real" and "ours", and "alone" where these two differ."""
    run = train.finetune(profile)
    tuned = run.checkpoints[-1].path
    rows = prepare_data(replace(profile, cases=n))["cases"]
    assets.write_jsonl(folder / "cases.jsonl", rows)
    episodes = [episode for row in rows for episode in roleplay.episodes_of(row)]
    lines = []
    for name, adapter in (("base", None), ("tuned", tuned)):
        merged = str(serving.merge(profile, tuned)) if adapter else profile.model
        with serving.deploy(replace(profile, model=merged), name=name, port=0) as server:
            out = run.path / "roleplay" / f"agreement_{name}.jsonl"
            made = roleplay.episodes(episodes, server.url, name, out, parallel=4)
        ours = _run(rows, Model(profile), adapter, f"our loop, {name}")
        single = Model(replace(profile, batch_size=1))
        for row, transcript, our in zip(rows, made, ours):
            line = {"model": name, "id": row["id"], "real": _plain(transcript.steps), "ours": our}
            if line["real"] != our:
                line["alone"] = _run([row], single, adapter, "one at a time")[0]
            lines.append(line)
    assets.write_jsonl(folder / "transcripts.jsonl", lines)
    return folder


def _run(rows: list[dict], model: Model, adapter: Path | None, progress: str) -> list[list[dict]]:
    cases = [evaluate.case_of(row) for row in rows]
    episodes = [(agent.episode(one.tools, one.query), evaluate.case_tools(one)) for one in cases]
    made = agent.run_batch(episodes, lambda requests: model.ask(requests, adapter, progress))
    return [_plain(transcript) for transcript in made]


def _plain(steps: list[agent.Step]) -> list[dict]:
    """Steps without the messages, and with replies cut where every server cuts them."""
    kept = [asdict(step) for step in steps]
    for step in kept:
        del step["messages"], step["raw"]
    return kept


def metrics_of(line: dict, side: str, cases: dict[str, evaluate.Case]) -> dict:
    """The metrics of one side ("real", "ours", "alone") of a line of transcripts.jsonl."""
    return evaluate.judge(cases[line["id"]], [evaluate.step_of(step) for step in line[side]])


def table(folder: Path) -> pd.DataFrame:
    """By model: how many cases, equal transcripts (of the others: when asked alone), equal metrics;
    success, right tool and full call of both loops, with Wilson intervals."""
    cases = {row["id"]: evaluate.case_of(row) for row in assets.read_jsonl(folder / "cases.jsonl")}
    lines, columns = assets.read_jsonl(folder / "transcripts.jsonl"), {}
    for name in dict.fromkeys(line["model"] for line in lines):
        part = [line for line in lines if line["model"] == name]
        real, ours = ([metrics_of(line, side, cases) for line in part] for side in ("real", "ours"))
        differ = [line for line in part if line["real"] != line["ours"]]
        alike = sum(line["alone"] == line["real"] for line in differ)
        columns[name] = {"cases": len(part), "same transcript": len(part) - len(differ)}
        columns[name]["same when asked alone"] = f"{alike} of {len(differ)}"
        columns[name]["same metrics"] = sum(one == other for one, other in zip(real, ours))
        for metric in ("success", "tool_name", "full_call"):
            for side, found in (("real", real), ("ours", ours)):
                one = evaluate.summarise(found)[metric]
                share = f"{one['k']}/{one['n']} [{one['low']:.0%}, {one['high']:.0%}]"
                columns[name][f"{metric.replace('_', ' ')}, {side}"] = share
    return pd.DataFrame(columns)
