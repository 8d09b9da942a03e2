"""Write the authored data sets from the YAML files beside this script.

python data/authoring/write.py                           all four files of data/
python data/authoring/write.py --rows 30000 --out FILE   that many ms_agent dialogues
python data/authoring/write.py --stats FILE              counts of such a file, for the card
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import dialogues
import roles
from catalogue import HERE, Entry, Text, check, read
from pydantic import Field

from helpers.assets import KitError, read_jsonl, write_jsonl

ROWS = 1536
SPEAKERS = ("user", "assistant")

Turns = Annotated[list[Text], Field(min_length=2)]


class Questions(Entry):
    """A file general/<language>_<topic>.yaml: dialogues, each question and answer in turn."""

    train: list[Turns]
    heldout: list[Turns]


def general_rows(folder: Path = HERE / "general") -> tuple[list[dict], list[dict]]:
    """The general and the self-cognition rows of a folder, training rows first."""
    general, self_cognition = [], []
    files = {path.stem: read(path, Questions) for path in sorted(folder.glob("*.yaml"))}
    for split in ("train", "heldout"):
        for stem, content in files.items():
            language, topic = stem.split("_", 1)
            for number, turns in enumerate(getattr(content, split), 1):
                check(len(turns) % 2 == 0, f"{stem}.yaml: {split}, {number}: lacks an answer")
                key = f"{split}-{language}-{topic.replace('_', '-')}-{number:02}"
                if topic == "self_cognition":
                    row = {"id": key, "query": turns[0], "response": turns[1], "tag": language}
                    self_cognition.append({**row, "split": split})
                    continue
                row = {"id": f"general-{key}", "lang": language, "topic": topic, "split": split}
                parts = enumerate(turns)
                messages = [{"role": SPEAKERS[at % 2], "content": turn} for at, turn in parts]
                general.append({**row, "messages": messages})
    return general, self_cognition


def report(path: Path) -> str:
    """The counts of a file of authored dialogues, as a Markdown table."""
    tables = {name: Counter() for name in ("language", "kind", "tools in the prompt", "domain")}
    rows, offered, called = read_jsonl(path), [], []
    for row in rows:
        known = "conversations" in row and str(row.get("id")).count("-") == 4
        check(known, f"{path}: {row.get('id')!r} is no authored dialogue")
        system, *texts = (turn["value"] for turn in row["conversations"])
        _, language, domain, kind, _ = row["id"].split("-")
        names = re.findall(r"^\d+\. (\S+): Call this tool", system, re.M)
        offered += names
        called += re.findall(r"^Action: (.+)$", "\n".join(texts), re.M)
        keys = (language, kind, len(names), f"{language} {domain}")
        for counts, key in zip(tables.values(), keys):
            counts[key] += 1
    lines = [
        f"{len(rows):,} rows, {path.stat().st_size / 1e6:.2f} MB; {len(called):,} calls of "
        f"{len(set(called))} of the {len(set(offered))} tools, {len(tables['domain'])} domains.",
        "\n| | rows |\n|---|---|",
    ]
    for title, counts in tables.items():
        found = ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items()))
        lines.append(f"| {title} | {found} |")
    return "\n".join(lines)


def main() -> None:
    """The command line; status 1 and a line for each mistake where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="dialogues to write to --out")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same dialogues")
    parser.add_argument("--out", type=Path, help="write only ms_agent dialogues, to this file")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="count the rows of FILE")
    options = parser.parse_args()
    try:
        if options.stats:
            print(report(options.stats))
        elif options.out:
            write_jsonl(options.out, dialogues.author_rows(options.rows, options.seed))
        else:
            general, self_cognition = general_rows()
            files = {
                "ms_agent_authored.jsonl": list(dialogues.author_rows(ROWS)),
                "general_authored.jsonl": general,
                "self_cognition_authored.jsonl": self_cognition,
                "agentfabric_addition.jsonl": list(roles.author_rows()),
            }
            for name, rows in files.items():
                print(f"{name}: {write_jsonl(HERE.parent / name, rows)} rows")
    except (KitError, ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
