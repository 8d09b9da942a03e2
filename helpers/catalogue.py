"""Write synthetic dialogues in ms_agent's row format from data/catalogue, and count them.

    python -m helpers.catalogue --rows 30000 --seed 0 --out my_rows.jsonl
    python -m helpers.catalogue --stats my_rows.jsonl

Row format: iic/ms_agent on ModelScope (https://modelscope.cn/datasets/iic/ms_agent), one JSON object a line:
{"id": str, "conversations": [{"from": "system" | "user" | "assistant", "value": str}, ...]}.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from helpers.catalogue_dialogues import TRIES, WRITERS, Scene, system_prompt
from helpers.catalogue_format import CATALOGUE, Domain
from helpers.catalogue_reader import load_catalogue

LANGUAGES = {"en": 0.6, "zh": 0.4}
KINDS = {"single": 0.58, "multi_turn": 0.12, "chain": 0.10, "no_tool": 0.10, "missing": 0.05, "error": 0.05}
# Tools in a prompt; gives 25 % of the rows one and 25 % two, for a chain drawn with one gets its second tool.
TOOLS_PER_PROMPT = {1: 0.275, 2: 0.225, 3: 0.20, 4: 0.10, 5: 0.06, 6: 0.04, 7: 0.03, 8: 0.02, 9: 0.01}
TOOLS_PER_PROMPT |= {10: 0.025, 11: 0.01, 12: 0.005}
NEEDS = {"missing": "missing", "error": "errors"}  # what a tool must have for dialogues of the kind
OPENER_SHARE = 0.15  # of the first requests that begin with a greeting or the like


def author_rows(n: int, seed: int = 0, catalogue: Path = CATALOGUE) -> Iterator[dict]:
    """Yield `n` different rows; the same seed gives the same rows, and a larger n only appends to them.

    Raises ValueError for a broken catalogue, or for one too small to give n different dialogues.
    """
    if n < 1:
        raise ValueError(f"rows must be 1 or more, not {n}")
    domains, chats, phrases = load_catalogue(catalogue)
    rng, seen = random.Random(seed), set()
    for number in range(n):
        for _ in range(TRIES):
            row = author_row(number, domains, chats, phrases, rng)
            dialogue = hashlib.sha256(json.dumps(row["conversations"]).encode()).digest()
            if dialogue not in seen:
                break
        else:
            raise ValueError(f"{catalogue}: too small for {n} different dialogues, stopped after {number}")
        seen.add(dialogue)
        yield row


def subjects(domain: Domain, kind: str) -> tuple:
    """What a dialogue of this kind can be about: a chain, or a tool that has what the kind needs."""
    if kind == "chain":
        return domain.chains
    return tuple(tool for tool in domain.tools if kind not in NEEDS or getattr(tool, NEEDS[kind]))


def weighted(table: dict, rng: random.Random):
    """A key of `table`, drawn with the shares that are its values."""
    return rng.choices(list(table), weights=list(table.values()))[0]


def author_row(number: int, domains: list[Domain], chats: dict, phrases: dict, rng: random.Random) -> dict:
    """One row, drawn from the shares at the top of this file."""
    present = {domain.language for domain in domains}
    language = weighted({name: share for name, share in LANGUAGES.items() if name in present}, rng)
    here = tuple(domain for domain in domains if domain.language == language)
    possible = {
        kind: share for kind, share in KINDS.items() if any(subjects(domain, kind) for domain in here)
    }
    kind, size = weighted(possible, rng), weighted(TOOLS_PER_PROMPT, rng)
    pairs = [(domain, item) for domain in here for item in subjects(domain, kind)]
    domain, item = rng.choice([pair for pair in pairs if len(pair[0].tools) >= size] or pairs)
    gold = [tool for tool, _ in item["calls"]] if kind == "chain" else [item]
    tools = list({tool.name: tool for tool in gold}.values())
    rest = [tool for tool in domain.tools if tool not in tools]
    tools += rng.sample(rest, min(len(rest), max(0, size - len(tools))))
    rng.shuffle(tools)
    scene = Scene(domain, tuple(tools), here, tuple(chats[language]), phrases[language], rng)
    turns = WRITERS[kind](scene, item)
    opener = rng.choice(scene.phrases["opener"]) if kind != "no_tool" and rng.random() < OPENER_SHARE else ""
    conversations = [{"from": "system", "value": system_prompt(scene.tools)}]
    for user, reply in [(opener + turns[0][0], turns[0][1]), *turns[1:]]:
        conversations += [{"from": "user", "value": user}, {"from": "assistant", "value": reply}]
    return {"id": f"authored-{language}-{domain.name}-{kind}-{number:06d}", "conversations": conversations}


def write_rows(out: Path, n: int, seed: int, catalogue: Path) -> None:
    """Write `n` rows as JSON lines; `out` appears only when complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for number, row in enumerate(author_rows(n, seed, catalogue), start=1):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                if number % 5000 == 0:
                    print(f"{number:,} of {n:,} rows", file=sys.stderr)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def count_rows(path: Path) -> dict[str, Counter]:
    """Counts of a file: language, kind, domain, tools per prompt, tools offered, tools called.

    Raises ValueError naming the line that is no authored row.
    """
    names_of_counts = ("language", "kind", "domain", "tools", "offered", "called")
    counts: dict[str, Counter] = {name: Counter() for name in names_of_counts}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                _, language, domain, kind, _ = row["id"].split("-")
                texts = [turn["value"] for turn in row["conversations"]]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}: not a row that this module wrote") from None
            names = re.findall(r"^\d+\. (\S+): Call this tool", texts[0], flags=re.MULTILINE)
            counts["language"][language] += 1
            counts["kind"][kind] += 1
            counts["domain"][f"{language} {domain}"] += 1
            counts["tools"][f"{len(names):2d}"] += 1
            counts["offered"].update(names)
            counts["called"].update(re.findall(r"^Action: (.+)$", "\n".join(texts[1:]), flags=re.MULTILINE))
    return counts


def report(path: Path) -> str:
    """The counts of a file as Markdown tables, for the data card."""
    counts = count_rows(path)
    rows = sum(counts["kind"].values())
    called = counts["called"]
    size = f"{rows:,} rows, {path.stat().st_size / 1e6:.2f} MB"
    offer = f"{len(counts['offered'])} tools in {len(counts['domain'])} domains"
    often = f"{min(called.values())} to {max(called.values())} times each" if called else "never"
    lines = [f"{size}, {offer}; {sum(called.values()):,} calls of {len(called)} tools, {often}."]
    titles = {"language": "language", "kind": "kind", "tools": "tools in the prompt", "domain": "domain"}
    for key, title in titles.items():
        lines += ["", f"| {title} | rows | share |", "|---|---:|---:|"]
        lines += [f"| {name} | {n:,} | {100 * n / rows:.1f} % |" for name, n in sorted(counts[key].items())]
    return "\n".join(lines)


def main() -> None:
    """The command line: write rows, or count those of a file."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.catalogue", description="Write or count dialogues."
    )
    parser.add_argument("--rows", type=int, default=1536, help="rows to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same rows (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the .jsonl file to write")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="folder of the YAML files")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="count the rows of FILE")
    options = parser.parse_args()
    if not options.stats and not options.out:
        parser.error("give --out FILE to write rows, or --stats FILE to count them")
    try:
        if options.out:
            write_rows(options.out, options.rows, options.seed, options.catalogue)
        print(report(options.stats or options.out))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
