"""Write the practice rows: groups of dialogues over one tool list, for training and for judging.

python data/authoring/practice.py --part train --groups 300 --out FILE
python data/authoring/practice.py --stats FILE           counts of such a file, for the card

Domains are held out whole: no tool of DEV or TEST stands in a training prompt. Up to a third of
the dialogues needs no call. In 3 of 5 training groups the names of tools and parameters are
random (function masking, arXiv 2410.04587), so that only the descriptions say what a tool does.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import catalogue
from catalogue import Chain, Domain, Request, Tool, check, names_in
from dialogues import OPENER_SHARE, TRIES, Scene, tools_for, weighted
from dress import Talk, Words, draw_dress, unit_of

from helpers.agentfabric import calls_of
from helpers.assets import KitError, read_jsonl, write_jsonl

FOLDER, BREADTH = catalogue.FOLDER, catalogue.HERE / "breadth"
# The domains that never train; every other one does. Four of them are those that split.by_tool
# holds out of ms_agent_authored as well: calendar, music, shopping, smart_home.
DEV = ("calendar", "cinema", "fuel", "music", "parking", "podcasts")
TEST = ("clinic", "energy", "gaming", "museums", "printing", "shopping", "smart_home")
GROUPS = {"dev": 20, "test": 40}
DIALOGUES = {"train": (2, 3), "dev": (6, 6), "test": (6, 6)}  # of a group: least, most
# How often a kind is drawn, where the tools allow it: with a call in the last turn, or without
CALLING = {"single": 44, "no_arguments": 24, "error": 8, "chain": 24, "second_turn": 16}
SILENT = {"small_talk": 23, "no_fit": 33, "missing": 18, "follow_up": 15, "thanks": 11}
SIZES = [1] * 5 + [2] * 5 + [3] * 3 + [4] * 2 + [5] * 2 + [6, 7, 8]  # tools of each 20 groups
# The first groups that train are easy, for runs of minutes: one to four tools, names and schemas as
# in the catalogue, and only these kinds. "more groups" of a source go on to the hard ones.
EASY, EASY_SIZES = 200, [1] * 6 + [2] * 7 + [3] * 4 + [4] * 3
EASY_KINDS = {"single", "no_arguments", "small_talk", "no_fit", "thanks"}
# Tools of one domain so close that one could serve the other's request
ALIKE = [{"weather_now", "get_forecast"}, {"find_event", "next_event"}]
ALIKE += [{"emergency_chair", "log_tooth_pain"}, {"send_mail", "schedule-send"}]

load = lru_cache(catalogue.load)  # reading all the YAML takes seconds
Steps = list[tuple[str, dict, dict]]  # tool, arguments, result of each call
Turn = tuple[str, tuple[Steps, str]]  # user text, then the calls and the answer


def able(tool: Tool) -> str:
    """What a tool does, to follow "I can": "Sum up the user's bill." gives "sum up your bill"."""
    text = tool.description.split(". ")[0].rstrip(".")
    text = re.sub(r"\bthe (user|customer|patient)'s\b", "your", text)
    text = re.sub(r"\bthe user\b", "you", text).replace(" of the customer", "")
    return text[0].lower() + text[1:]


def near(one: Domain, other: Domain) -> bool:
    """Whether a tool of one domain could serve a request of the other, as their files say."""
    return one.name in other.near or other.name in one.near


@dataclass(frozen=True)
class Table(Scene):
    """A scene of one domain at a group's table; methods named like a kind write turns."""

    words: Words
    offered: list[Domain]

    def _reply(self, steps: Steps, answer: str) -> tuple[Steps, str]:
        return steps, answer

    def _say(self, texts: list[str], **values: Any) -> str:
        can = able(self.rng.choice(self.tools))
        return self._fill(self.rng.choice(texts), {"can": can, **values})

    def _talk(self, talks: list[Talk]) -> Talk:
        here = {domain.name for domain in self.offered}
        return self.rng.choice([one for one in talks if here.isdisjoint(one.not_with)])

    no_arguments = Scene.single

    def small_talk(self, _: Any) -> list[Turn]:
        """A greeting, an opinion, a question of general knowledge: answered without a tool."""
        talk = self._talk(self.chat)
        return [(talk.question, ([], self._say(talk.answer)))]

    def no_fit(self, _: Any) -> list[Turn]:
        """A request that no offered tool serves: of a tool left out, or of no domain at all."""
        if self.rng.random() < 0.4:
            talk = self._talk(self.words.impossible)
            return [(talk.question, ([], self._say(self.words.refuse, want=talk.answer[0])))]
        names = {tool.name for tool in self.tools}
        far = [one for one in self.others if not any(near(one, it) for it in self.offered)]
        domain = self.rng.choice(self.offered if self.rng.random() < 0.5 else far)
        left = [tool for tool in domain.tools.values() if tool.name not in names]
        left = [tool for tool in left if not any({tool.name, it} in ALIKE for it in names)]
        if not left:
            return self.no_fit(_)
        tool = self.rng.choice(left)
        request = self.rng.choice(tool.requests)
        user = self._fill(request.text, self._arguments(tool, request))
        return [(user, ([], self._say(self.words.refuse, want=able(tool))))]

    def thanks(self, tool: Tool) -> list[Turn]:
        """A request that is served, and then a thank-you."""
        talk = self._talk(self.words.thanks)
        return self.single(tool) + [(talk.question, ([], self._say(talk.answer)))]

    def follow_up(self, tool: Tool) -> list[Turn]:
        """A request that is served, and then a question that its observation answers."""
        ((user, (steps, answer)),) = self.single(tool)
        said = {key: self._fill("{it}", {"it": steps[0][2][key]}) for key in self.askable(tool)}
        left = [key for key in said if said[key] not in answer]  # better to read than to repeat
        key = self.rng.choice(left or [*said])
        value, noun = said[key], self.words.fields[key]
        asked = self._say(self.words.again if value in answer else self.words.new, field=noun)
        value = f"{value} {unit_of(tool, key)}".strip()
        told = self._say(self.words.tell, field=noun, value=value)
        return [(user, (steps, answer)), (asked, ([], told))]

    def askable(self, tool: Tool) -> list[str]:
        """The result fields of a tool that a follow-up may ask for."""
        return [key for key in tool.result if key in tool.drawn and key in self.words.fields]

    def second_turn(self, tool: Tool) -> list[Turn]:
        """Two turns, the second with a call: after a question back, small talk, or another call."""
        way, entry = self.rng.random(), self.rng.choice([*tool.missing, None])
        needed = [name for name, one in tool.parameters.items() if one.required]
        left = [name for name in needed if entry and name not in names_in(entry.text)]
        if len(left) == 1:
            values = self._arguments(tool, Request(text=entry.text))
            first = self._fill(entry.text, values), ([], self._fill(entry.ask, values))
            values[left[0]] = self._draw_apart(tool.parameters[left[0]].values, values)
            given = {name: values[name] for name in tool.parameters if name in values}
            result, sayable = self._result(tool, given), {*given, *tool.result}
            answer = self.rng.choice([one for one in tool.answers if names_in(one) <= sayable])
            said = self._say(self.words.given, value=values[left[0]])
            steps = [(tool.name, given, result)]
            return [first, (said, (steps, self._fill(answer, given | result)))]
        ((user, reply),) = self.single(tool)
        if way < 0.3:
            return [*self.small_talk(None), (user, reply)]
        other = self.rng.choice([one for one in self.tools if one is not tool] or [tool])
        return [*self.single(other), (self.rng.choice(self.phrases.follow_up) + user, reply)]


def called_by(item: Tool | Chain) -> list[str]:
    """The tools that a dialogue about a tool or a chain calls."""
    return [call.tool for call in item.calls] if isinstance(item, Chain) else [item.name]


def subjects_at(scenes: dict[str, Table], kind: str) -> list[tuple[Table, Tool | Chain]]:
    """What a dialogue of this kind can be about at a table, each with its scene."""
    found = []
    for name, scene in scenes.items():
        tool = scene.domain.tools[name]
        if kind == "chain":  # found once, at its first tool
            here = [one for one in scene.domain.chains if one.calls[0].tool == name]
            found += [(scene, one) for one in here if {*called_by(one)} <= {*scenes}]
            continue
        fits = {"no_arguments": not tool.parameters, "single": tool.parameters}
        fits |= {"missing": tool.missing, "error": tool.errors, "follow_up": scene.askable(tool)}
        found += [(scene, tool)] if fits.get(kind, True) else []
    return found


def draw_tools(
    number: int, domains: list[Domain], rng: random.Random, sizes: list[int]
) -> dict[str, Domain]:
    """A group's tools, each with its domain: of one domain, or mixed in every other group."""
    size = random.Random(number // len(sizes)).sample(sizes, len(sizes))[number % len(sizes)]
    large = [one for one in domains if len(one.tools) >= size]
    mixed = size > 1 and (number % 2 or not large)
    home = rng.choice(domains if mixed else large)
    known = [*home.tools.values()]
    bare = [tool for tool in known if size > 1 and not tool.parameters]  # alone it would be dull
    some = rng.choice([home.chains if size > 1 else [], bare])
    item = rng.choice(some or [tool for tool in known if tool.parameters])
    there, names = [home], tools_for(home, item, rng, (size + 1) // 2 if mixed else size)
    owners = {tool.name: home for tool in names}
    for domain in rng.sample(domains, len(domains)):
        if domain is not home and not any(near(domain, it) for it in there):
            few = min(size - len(owners), rng.randint(1, 2))
            owners |= dict.fromkeys(rng.sample([*domain.tools], few), domain)
            there.append(domain)
    return {name: owners[name] for name in rng.sample([*owners], len(owners))}


def write_group(part: str, number: int, book: tuple, words: Words, masked: bool) -> Iterator[dict]:
    """The rows of a group: its tools stay byte for byte the same, and no request is repeated."""
    domains, chat, phrases = book
    rng = random.Random(f"{part} {number}")
    easy = part == "train" and number < EASY
    owners = draw_tools(number, domains, rng, EASY_SIZES if easy else SIZES)
    tools = {name: domain.tools[name] for name, domain in owners.items()}
    dress, taken = draw_dress(part, masked, words, rng, easy), set()
    dressed = {name: dress.tool(tools[name], owners[name], taken) for name in tools}
    offered = [domain for domain in domains if any(domain is one for one in owners.values())]
    one = Table(offered[0], [*tools.values()], domains, chat, phrases, rng, words, offered)
    scenes = {name: replace(one, domain=domain) for name, domain in owners.items()}
    size = rng.randint(*DIALOGUES[part])
    rows, asked, used = 0, set(), Counter()
    for _ in range(TRIES):
        # 3 dialogues in 10, spread evenly over the rows of ten groups
        shares = SILENT if (7 * number + 3 * rows) % 10 < 3 else CALLING
        shares = {it: shares[it] for it in shares if not easy or it in EASY_KINDS}
        kind = weighted({it: shares[it] for it in shares if subjects_at(scenes, it)}, rng)
        pairs = subjects_at(scenes, kind)
        calls = [sum(used[name] for name in called_by(it)) / len(called_by(it)) for _, it in pairs]
        if kind in CALLING and min(calls) > min(used[name] for name in tools) + 1:
            continue  # another kind can call the tools that wait
        fresh = [pair for pair, count in zip(pairs, calls) if count == min(calls)]
        scene, item = rng.choice(fresh)  # of the tools that are called least so far
        turns = getattr(scene, kind)(item)
        if kind != "small_talk" and rng.random() < OPENER_SHARE:
            turns[0] = (rng.choice(phrases.opener) + turns[0][0], turns[0][1])
        if {user for user, _ in turns} & asked:
            continue
        messages = []
        for user, (steps, answer) in turns:
            asked.add(user)
            messages.append({"role": "user", "content": user})
            for name, arguments, result in steps:
                used[name] += 1
                shown = dress.observation(tools[name], arguments, result)
                messages.append(dressed[name].call(arguments))
                messages.append({"role": "tool_response", "content": shown})
            messages.append({"role": "assistant", "content": answer})
        schemas = [one.schema for one in dressed.values()]
        yield {"id": f"{part}-{number:04d}-{rows}-{kind}", "tools": schemas, "messages": messages}
        rows += 1
        if rows == size:
            return
    raise ValueError(f"{part}, group {number}: too few different requests for {size} dialogues")


def part_of(domain: Domain) -> str:
    """The part that a domain belongs to: "train", "dev" or "test"."""
    return "dev" if domain.name in DEV else "test" if domain.name in TEST else "train"


def plain(domain: Domain) -> Domain:
    """The domain with answers that name what they are about, where a tool has such answers."""
    tools = {}
    for name, tool in domain.tools.items():
        sure = {key for key, one in tool.parameters.items() if one.required}  # in every call
        used = {answer: names_in(answer) for answer in tool.answers}
        named = [it for it in used if used[it] & sure and used[it] <= {*sure, *tool.result}]
        tools[name] = tool.model_copy(update={"answers": named or tool.answers})
    return domain.model_copy(update={"tools": tools})


def author_rows(part: str, groups: int, masked: bool = False, language: str = "en") -> Iterator:
    """The rows of so many groups of a part ("train", "dev", "test"); more groups only append.
    Of the training groups 3 in 5 behind the EASY ones are masked; of another part none, or all
    where `masked`.
    """
    check(groups > 0, f"groups must be 1 or more, not {groups}")
    domains, chat, phrases = load(FOLDER, BREADTH)[language]
    lacking = {*DEV, *TEST} - {domain.name for domain in domains}
    check(not lacking, f"DEV and TEST name domains without a file: {sorted(lacking)}")
    domains = [plain(domain) for domain in domains if part_of(domain) == part]
    words = catalogue.read(BREADTH / "phrases.yaml", Words)
    # Small talk is divided, too: a fifth for dev, a fifth for test. en_chat.yaml trains only.
    keep = {"dev": [0], "test": [1], "train": [2, 3, 4]}[part]
    for field in ("chat", "thanks", "impossible"):
        talks = [one for at, one in enumerate(getattr(words, field)) if at % 5 in keep]
        words = words.model_copy(update={field: talks})
    more = [Talk(question=it.question, answer=[it.answer], not_with=it.not_with) for it in chat]
    book = domains, words.chat + (more if part == "train" else []), phrases
    for number in range(groups):
        hidden = number % 5 < 3 and number >= EASY if part == "train" else masked
        yield from write_group(part, number, book, words, hidden)


def report(path: Path) -> str:
    """The counts of a file of practice rows, as Markdown text."""
    rows, tables = read_jsonl(path), {"kind": Counter(), "tools in the prompt": Counter()}
    for row in rows:
        tables["kind"][row["id"].split("-")[3]] += 1
        tables["tools in the prompt"][len(row["tools"])] += 1
    offered = {tool["function"]["name"] for row in rows for tool in row["tools"]}
    called = [call["name"] for row in rows for call in calls_of(row["messages"])]
    silent = sum(tables["kind"][kind] for kind in SILENT)
    lines = [
        f"{len(rows):,} dialogues in {len({row['id'].split('-')[1] for row in rows})} groups, "
        f"{path.stat().st_size / 1e6:.2f} MB; {silent:,} need no call in the last turn; "
        f"{len(called):,} calls of {len(set(called)):,} of the {len(offered):,} names of tools."
    ]
    for title, counts in tables.items():
        found = ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items()))
        lines.append(f"- {title}: {found}")
    return "\n".join(lines)


def main() -> None:
    """The command line; status 1 and a line for each mistake where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("train", *GROUPS), default="train")
    parser.add_argument("--groups", type=int, help="groups to write (dev and test have a size)")
    parser.add_argument("--masked", action="store_true", help="random names in dev or test too")
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="count the rows of FILE")
    options = parser.parse_args()
    try:
        if options.stats:
            print(report(options.stats))
        else:
            check(options.out, "--out FILE is needed")
            groups = GROUPS.get(options.part, 300) if options.groups is None else options.groups
            write_jsonl(options.out, author_rows(options.part, groups, options.masked))
    except (KitError, ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
