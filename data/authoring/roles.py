"""roles/*.yaml → role-play dialogues in the form that AgentFabric's addition set has.

Rows are tools + messages, with `instruction`, and `role` and `knowledge` where the prompt has them.
They are written from templates: nothing is recorded, and no model answers.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from catalogue import FOLDER, HERE, Chats, Domain, Phrases, Text, Texts, check, read
from dialogues import Scene, conversation, different, subjects, tools_for, weighted
from pydantic import Field

from helpers.convert import requests_of
from helpers.ms_agent import to_canonical

ROWS = 488  # as many as the AgentFabric tutorial's addition set has
KINDS = {"single": 36, "chain": 22, "multi_turn": 20, "no_tool": 12, "missing": 10}  # percent
KNOWLEDGE = {"none": 50, "text": 35, "Empty Response": 15}  # the app's words for no documents
NAMED = 0.8  # of the rows name their role, as the app does; the others have the instruction alone
# How ModelScope-Agent words a role (agents/role_play.py, _parse_role_config_*)
ROLE = {
    "zh": "你扮演AI-Agent，你的名字是{name}。{description}\n你具有下列具体功能：{instruction}\n"
    "下面你将开始扮演{name}",
    "en": "You are playing as an AI-Agent, Your name is {name}.{description}\nYou have the "
    "following specific functions:{instruction}\nNow you will start playing as{name}",
}


class Knowledge(Chats):
    """A text that may stand before the prompt, with questions that it answers."""

    text: Text


class Role(Chats):
    """Who speaks: `instruction` is one or more paragraphs, `chat` small talk."""

    name: Text
    description: Text
    instruction: Texts
    knowledge: Annotated[list[Knowledge], Field(min_length=1)]


def author_rows(rows: int = ROWS, seed: int = 0, folder: Path = HERE / "roles") -> Iterator[dict]:
    """Chinese and English rows in turn, the roles of each in turn; no request is in two rows."""
    phrases, rng = read(FOLDER / "phrases.yaml", dict[str, Phrases]), random.Random(seed)
    of_language: dict[str, list] = {"zh": [], "en": []}
    for name, role in read(folder / "roles.yaml", dict[str, Role]).items():
        domain = read(folder / f"{name}.yaml", Domain)
        lacking = [kind for kind in KINDS if not subjects(domain, kind)]
        check(not lacking, f"{name}.yaml: nothing for dialogues of the kind {lacking}")
        of_language[domain.language].append((domain, role))
    check(all(of_language.values()), "roles.yaml: needs roles of both languages")

    def write(number: int) -> dict:
        here = of_language["en" if number % 2 else "zh"]
        name = f"agentfabric_addition-{number + 1:04d}"
        return author_row(name, *here[number // 2 % len(here)], phrases, rng)

    return different(rows, write, lambda row: {json.dumps(sent) for sent, _ in requests_of(row)})


def author_row(name: str, domain: Domain, role: Role, phrases: dict, rng: random.Random) -> dict:
    """One row, drawn from the shares at the top of this file."""
    kind, block = weighted(KINDS, rng), weighted(KNOWLEDGE, rng)
    knowledge = rng.choice(role.knowledge)
    chat = knowledge.chat if block == "text" and kind == "no_tool" else role.chat
    item = rng.choice(subjects(domain, kind))
    tools = tools_for(domain, item, rng)
    scene = Scene(domain, tools, [], chat, phrases[domain.language], rng)
    turns = getattr(scene, kind)(item)
    row = to_canonical({"id": name, "conversations": conversation(scene, turns)})
    row["instruction"] = "\n\n".join(role.instruction)
    if rng.random() < NAMED:
        parts = role.model_dump() | {"instruction": row["instruction"]}
        row["instruction"] = ROLE[domain.language].format(**parts)
        row["role"] = role.name
    if block != "none":
        row["knowledge"] = knowledge.text if block == "text" else block
    return row
