"""First calls on data sets of others: to choose by, never to train on, and not in this repository.

    python -m helpers.study.foreign FOLDER laptop            a run's base model and last checkpoint
    python -m helpers.study.foreign FOLDER laptop --every    and the checkpoints between

FOLDER holds metatool/ (MetaTool, MIT: questions that no offered tool fits, and that one fits; names
and descriptions only), seal_tools/ (Seal-Tools, Apache-2.0) and llamafactory_demo/ (its glaive
demo, Apache-2.0), each as its publisher gives it.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers import assets, data, evaluate, profiles, train
from helpers.agentfabric import call_message
from helpers.assets import processes
from helpers.convert import turns_of
from helpers.model import Model

COUNT = 60  # questions of each set: the first ones, in the publisher's order


def read(folder: Path) -> dict[str, list[dict]]:
    """Name of a set → canonical rows whose last turn is asked. KitError where a file is missing."""
    rows = {}
    for name in ("no_fitting_tool", "one_fitting_tool"):
        path = folder / "metatool" / f"{name}.jsonl"
        rows[f"MetaTool, {name}"] = [_metatool(row) for row in assets.read_jsonl(path)]
    seal, _ = data.load(str(folder / "seal_tools" / "dev.jsonl"))
    rows["Seal-Tools, dev"] = seal
    glaive, _ = data.load(str(folder / "llamafactory_demo" / "glaive_toolcall_en_demo.json"))
    first = [_first_turn(row) for row in glaive if row["tools"]]
    rows["glaive, a call is due"] = [row for row in first if turns_of(row)[0].calls]
    rows["glaive, no call is due"] = [row for row in first if not turns_of(row)[0].calls]
    return {name: found[:COUNT] for name, found in rows.items()}


def _metatool(row: dict) -> dict:
    """The tools take no parameters: only whether to call, and what, is asked."""
    messages = [{"role": "user", "content": row["query"]}]
    messages += [call_message(row["tool"], {})] if row["tool"] else []
    return {"id": row["query"][:40], "tools": data.openai_tools(row["tools"]), "messages": messages}


def _first_turn(row: dict) -> dict:
    ends = [at for at, one in enumerate(row["messages"]) if one["role"] == "user"][1:2]
    return {**row, "messages": row["messages"][: ends[0] if ends else None]}


def score(rows: dict[str, list[dict]], profile: profiles.Profile, model, checkpoint) -> dict:
    """Name of a set → "called k/n, right tool k/n, exact k/n" of the first calls."""
    found = {}
    for name, asked in rows.items():
        cases = [{**row, "messages": _answered(row["messages"])} for row in asked]
        scores = evaluate.score_episodes(cases, profile, model, checkpoint, turns=1)
        summary = evaluate.summarise([one["metrics"] for one in scores])
        shown = {"no_call": "no call", "called": "called", "tool_name": "right tool"}
        shown |= {} if "MetaTool" in name else {"full_call": "exact"}
        parts = [
            f"{word} {summary[key]['k']}/{summary[key]['n']}"
            for key, word in shown.items()
            if summary[key]["n"]
        ]
        found[name] = ", ".join(parts)
    return found


def _answered(messages: list[dict]) -> list[dict]:
    """With some result and answer behind a call, as a case has; neither is asked for."""
    if messages[-1]["role"] == "tool_call":
        messages = [*messages, {"role": "tool_response", "content": "{}"}]
    if messages[-1]["role"] != "assistant":
        messages = [*messages, {"role": "assistant", "content": "-"}]
    return messages


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser("python -m helpers.study.foreign", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", help="the name of a run in runs/, made with a profile of this kit")
    parser.add_argument("--every", action="store_true", help="every checkpoint")
    options = parser.parse_args(arguments)

    def make():
        run = train.Run(assets.ROOT / "runs" / options.run)
        profile = profiles.Profile(**run.manifest()["profile"])
        profile = replace(profile, torch_dtype=run.manifest()["number_format"])
        model, rows, table = Model(profile), read(options.folder), {}
        points = run.checkpoints if options.every else run.checkpoints[:: len(run.checkpoints) - 1]
        for checkpoint in points:
            table[f"step {checkpoint.step}"] = score(rows, profile, model, checkpoint)
        print(pd.DataFrame(table).to_string())

    return processes.command(make)


if __name__ == "__main__":
    sys.exit(main())
