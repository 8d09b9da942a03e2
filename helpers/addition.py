"""The addition set: role-play dialogues in AgentFabric's format, recorded from the real RolePlay.

    python -m helpers.addition                    # remakes data/agentfabric_addition.jsonl, byte for byte

The seed recipes call such recordings of AgentFabric their "addition" data. Here the dialogues are written from
data/addition/*.yaml, and then recorded for true: RolePlay puts the questions, a scripted teacher plays the model, a
recorder stands between them, and `helpers.recordings` makes rows of what it heard. What comes out has to be what was
written, or nothing is.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers import dialogues, recordings, roleplay, storage
from helpers.catalogue_dialogues import TRIES, WRITERS, Scene, system_prompt
from helpers.catalogue_format import CATALOGUE, Domain, check_keys, read_yaml
from helpers.catalogue_reader import read_domain
from helpers.recorder import RecorderError, recording
from helpers.scripted_teacher import NAME, script_of, scripted_teacher

FOLDER = CATALOGUE.parent / "addition"
OUT = CATALOGUE.parent / "agentfabric_addition.jsonl"
ROWS = 488  # as many as the seed recipes' addition set has
KINDS = {"single": 0.36, "chain": 0.22, "multi_turn": 0.2, "no_tool": 0.12, "missing": 0.1}
KNOWLEDGE = {"none": 0.5, "text": 0.35, "Empty Response": 0.15}  # the last is what the app sends without documents
NAMED = 0.8  # of the rows that name their role, as the app does; the others have the instruction alone


def read_roles(folder: Path = FOLDER) -> dict[str, tuple[Domain, dict]]:
    """File name → the tools of a role and the role itself.

    Raises:
        ValueError: a broken entry, named by file and field.
    """
    roles = read_yaml(folder / "roles.yaml")
    for name, role in roles.items():
        check_keys(role, "name description instruction chat knowledge", "", f"roles.yaml: {name}")
        for text in role["knowledge"]:
            check_keys(text, "text chat", "", f"roles.yaml: {name}, knowledge")
        for pair in [*role["chat"], *(pair for text in role["knowledge"] for pair in text["chat"])]:
            check_keys(pair, "question answer", "", f"roles.yaml: {name}, chat")
    return {name: (read_domain(folder / f"{name}.yaml"), role) for name, role in roles.items()}


def author(count: int = ROWS, seed: int = 0, folder: Path = FOLDER) -> Iterator[dict]:
    """Canonical rows as they are written, before they are recorded: Chinese and English in turn, the roles of each in
    turn, everything else drawn. The same seed gives the same rows; no request of theirs has two replies.

    Raises:
        ValueError: a broken file, or files too small for so many different dialogues.
    """
    roles, phrases = read_roles(folder), read_yaml(CATALOGUE / "phrases.yaml")
    rng, script = random.Random(seed), {}
    languages = [[one for one in roles.values() if one[0].language == language] for language in ("zh", "en")]
    for number in range(count):
        here = languages[number % 2]
        for _ in range(TRIES):
            row = _author_row(f"authored-{number + 1:04d}", *here[number // 2 % len(here)], phrases, rng)
            new = script_of([row])
            if not script.keys() & new.keys():
                break
        else:
            raise ValueError(f"{folder}: too small for {count} different dialogues, stopped after {number}")
        script |= new
        yield row


def _author_row(id: str, domain: Domain, role: dict, phrases: dict, rng: random.Random) -> dict:
    kind, block = (rng.choices(list(shares), list(shares.values()))[0] for shares in (KINDS, KNOWLEDGE))
    text = rng.choice(role["knowledge"])
    chat = text["chat"] if block == "text" and kind == "no_tool" else role["chat"]
    items = {"chain": domain.chains, "missing": [tool for tool in domain.tools if tool.missing]}
    item = rng.choice(items.get(kind, domain.tools))
    tools = list({tool.name: tool for tool in ([tool for tool, _ in item["calls"]] if kind == "chain" else [item])}
                 .values())
    rest = [tool for tool in domain.tools if tool not in tools]
    tools += rng.sample(rest, rng.randint(0, len(rest)))
    rng.shuffle(tools)
    scene = Scene(domain, tuple(tools), (), tuple(chat), phrases[domain.language], rng)
    turns = [turn for pair in WRITERS[kind](scene, item) for turn in zip(("user", "assistant"), pair)]
    row = dialogues.to_canonical({"id": id, "conversations": [
        {"from": who, "value": value} for who, value in [("system", system_prompt(scene.tools)), *turns]]})
    knowledge = {"none": {}, "text": {"knowledge": text["text"]}}.get(block, {"knowledge": block})
    return {**row, **_instruction(role, domain.language, rng.random() < NAMED), **knowledge}


def _instruction(role: dict, language: str, named: bool) -> dict:
    """The row's instruction, one to several paragraphs; as the app writes it where the role is named."""
    text = "\n\n".join(role["instruction"])
    if not named:
        return {"instruction": text}
    return {"instruction": roleplay.role_text({**role, "instruction": text}, language), "role": role["name"]}


def record(rows: list[dict], out: Path) -> dict:
    """Record rows through RolePlay and write what was heard; the report of `recordings.convert`.

    Raises:
        roleplay.RolePlayError: RolePlay cannot be run.
        RecorderError: what was heard is not what was written.
    """
    visits = [visit for row in rows for visit in roleplay.visits_of(row)]
    with tempfile.TemporaryDirectory() as folder:
        heard, made = Path(folder) / "recordings.jsonl", Path(folder) / out.name
        with scripted_teacher(script_of(rows)) as teacher, recording(teacher, heard) as url:
            transcripts = roleplay.visits(visits, url, NAME, Path(folder) / "transcripts.jsonl")
        report = recordings.convert(heard, made, source="scripted teacher")
        got = storage.read_jsonl(made)
        errors = [f"{one.id}: {one.error}" for one in transcripts if one.error]
        if errors or report["set_aside"] or [_content(row) for row in got] != [_content(row) for row in rows]:
            raise RecorderError(f"what was heard is not what was written: {errors[:3]}, set aside: "
                                f"{report['set_aside']}, {len(got)} rows of {len(rows)}")
        storage.write_jsonl(out, got)
    return report


def _content(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("id", "source")}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    try:
        report = record(list(author(options.rows, options.seed)), options.out)
    except (roleplay.RolePlayError, RecorderError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{report['rows']} rows with {report['turns']} user turns, from {report['recordings']} recorded requests; "
          f"{options.out.stat().st_size / 1e6:.2f} MB in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
