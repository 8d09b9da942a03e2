"""Catalogue → dialogues: the sentences of a catalogue filled with drawn values, as ms_agent rows.

Row format: iic/ms_agent on ModelScope (https://modelscope.cn/datasets/iic/ms_agent).
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catalogue
from catalogue import Chain, Chat, Domain, Phrases, Request, Tool, names_in, substitute

from helpers.ms_agent import render_tools

LANGUAGES = {"en": 60, "zh": 40}  # percent, as the next two
KINDS = {"single": 58, "multi_turn": 12, "chain": 10, "no_tool": 10, "missing": 5, "error": 5}
# A quarter of the rows has one tool, a quarter two: a chain drawn with one gets its second tool.
SIZES = {1: 27.5, 2: 22.5, 3: 20, 4: 10, 5: 6, 6: 4, 7: 3, 8: 2, 9: 1, 10: 2.5, 11: 1, 12: 0.5}
OPENER_SHARE = 0.15  # of the first requests that begin with a greeting or the like
THOUGHT_SHARE = 0.3  # of the calls that begin with a thought; ms_agent rows often have none
TRIES = 200  # redraws before the YAML is called too small for what is asked

Turn = tuple[str, str]  # user text, assistant text


@dataclass(frozen=True)
class Scene:
    """What a dialogue is drawn from; the methods named like a key of KINDS write its turns."""

    domain: Domain
    tools: list[Tool]  # of the prompt
    others: list[Domain]  # all at hand
    chat: list[Chat]
    phrases: Phrases
    rng: random.Random

    def single(self, tool: Tool) -> list[Turn]:
        """One request and the call that serves it. The answer states what the request does not."""
        request = self.rng.choice(tool.requests)
        arguments = self._arguments(tool, request)
        user = self._fill(request.text, arguments)
        sayable = set(arguments) | set(tool.result)
        answer = self.rng.choice([text for text in tool.answers if names_in(text) <= sayable])
        for _ in range(TRIES):
            result = self._result(tool, arguments)
            stated = [result[name] for name in names_in(answer) & tool.drawn]
            parts = [part for one in stated for part in (one if isinstance(one, list) else [one])]
            if any(str(part) not in user for part in parts):
                said = self._fill(answer, arguments | result)
                return [(user, self._reply([(tool.name, arguments, result)], said))]
        raise ValueError(f"tools, {tool.name}, result: too few values, all are in {user!r}")

    def multi_turn(self, tool: Tool) -> list[Turn]:
        """Two or three user turns on the prompt's tools; now and then one of them is small talk."""
        turns = self.single(tool)
        for _ in range(self.rng.randint(1, 2)):
            for _ in range(TRIES if self.rng.random() >= 0.12 else 0):
                user, reply = self.single(self.rng.choice(self.tools))[0]
                if _call_of(reply) not in [_call_of(earlier) for _, earlier in turns]:
                    turns.append((self.rng.choice(self.phrases.follow_up) + user, reply))
                    break
            else:  # also where a tool without parameters gives the same call again and again
                turns += self._small_talk()
        return turns

    def chain(self, item: Chain) -> list[Turn]:
        """One request whose later calls use values of earlier observations."""
        known, language = self.domain.parameters_of(item), self.domain.language
        request, values, steps = self.rng.choice(item.request), {}, []
        for name in sorted(names_in(request)):
            values[name] = self._draw_apart(known[name].values, values)
        for number, call in enumerate(item.calls, start=1):
            tool, arguments = self.domain.tools[call.tool], {}
            for name in tool.parameters:
                if name in call.arguments:
                    arguments[name] = substitute(call.arguments[name], values, language)
            result = self._result(tool, arguments)
            values |= {f"{number}.{key}": value for key, value in result.items()}
            steps.append((tool.name, arguments, result))
        answer = self._fill(self.rng.choice(item.answer), values)
        return [(self._fill(request, values), self._reply(steps, answer))]

    def no_tool(self, _: Tool) -> list[Turn]:
        """Small talk, or a request that belongs to another domain and is honestly turned down."""
        near = {self.domain.name, *self.domain.near}
        far = [d for d in self.others if d.name not in near and self.domain.name not in d.near]
        if not far or self.rng.random() < 0.5:
            return self._small_talk()
        tool = self.rng.choice([*self.rng.choice(far).tools.values()])
        request = self.rng.choice(tool.requests)
        user = self._fill(request.text, self._arguments(tool, request))
        return [(user, self._reply([], self.rng.choice(self.phrases.refuse)))]

    def missing(self, tool: Tool) -> list[Turn]:
        """A required value is not given: the assistant asks for it and calls nothing."""
        entry = self.rng.choice(tool.missing)
        values = self._arguments(tool, Request(text=entry.text))
        return [(self._fill(entry.text, values), self._reply([], self._fill(entry.ask, values)))]

    def error(self, tool: Tool) -> list[Turn]:
        """The tool fails and the assistant says so."""
        request, entry = self.rng.choice(tool.requests), self.rng.choice(tool.errors)
        arguments, language = self._arguments(tool, request), self.domain.language
        result = {key: substitute(form, arguments, language) for key, form in entry.result.items()}
        reply = self._reply([(tool.name, arguments, result)], self._fill(entry.answer, arguments))
        return [(self._fill(request.text, arguments), reply)]

    def _small_talk(self) -> list[Turn]:
        pair = self.rng.choice([one for one in self.chat if self.domain.name not in one.not_with])
        return [(pair.question, self._reply([], pair.answer))]

    def _fill(self, text: str, values: dict) -> str:
        return catalogue.fill(text, values, self.domain.language)

    def _draw(self, form: Any, values: dict) -> Any:
        return catalogue.draw(form, self.rng, values, self.domain.language)

    def _draw_apart(self, form: Any, values: dict) -> Any:
        """A value of `form` that is none of `values`, so that a trip from A to B has two ends."""
        for _ in range(TRIES):
            value = self._draw(form, {})
            if not isinstance(value, str) or value not in values.values():
                break
        return value

    def _arguments(self, tool: Tool, request: Request) -> dict:
        """Arguments of the call that serves a request, in the order of the parameters."""
        arguments: dict = {}
        for name, parameter in tool.parameters.items():
            if name in request.fixed:
                arguments[name] = request.fixed[name]
            elif name in names_in(request.text):
                arguments[name] = self._draw_apart(parameter.values, arguments)
        return arguments

    def _result(self, tool: Tool, arguments: dict) -> dict:
        return {key: self._draw(form, arguments) for key, form in tool.result.items()}

    def _reply(self, steps: list[tuple[str, dict, dict]], answer: str) -> str:
        """An assistant turn: each step's (tool, arguments, observation), then the answer."""
        rng, lines = self.rng, []
        for number, (name, arguments, result) in enumerate(steps):
            if rng.random() < THOUGHT_SHARE:
                thought = rng.choice(self.phrases.next if number else self.phrases.thought)
                lines.append(f"Thought: {self._fill(thought, {'tool': name})}")
            shown = json.dumps(result, ensure_ascii=False) if rng.random() < 0.5 else repr(result)
            lines += [f"Action: {name}", f"Action Input: {arguments!r}", f"Observation: {shown}"]
        lines += ["Thought: I now know the final answer", f"Final Answer: {answer}"]
        return "\n".join(lines)


def _call_of(reply: str) -> str:
    """Tool and arguments of a one-call turn as text; of a turn without a call, its beginning."""
    return reply[max(0, reply.find("Action: ")) :].split("\nObservation: ")[0]


def subjects(domain: Domain, kind: str) -> list:
    """What a dialogue of this kind can be about: a chain, or a tool that has what is needed."""
    if kind == "chain":
        return domain.chains
    field = {"missing": "missing", "error": "errors"}.get(kind, "name")
    return [tool for tool in domain.tools.values() if getattr(tool, field)]


def tools_for(domain: Domain, item: Any, rng: random.Random, size: int | None = None) -> list:
    """`size` tools (or any number) of the domain, those that `item` calls among them."""
    names = [call.tool for call in item.calls] if isinstance(item, Chain) else [item.name]
    names = [*dict.fromkeys(names)]
    others = [name for name in domain.tools if name not in names]
    more = rng.randint(0, len(others)) if size is None else max(0, size - len(names))
    names += rng.sample(others, min(len(others), more))
    rng.shuffle(names)
    return [domain.tools[name] for name in names]


def conversation(scene: Scene, turns: list[Turn]) -> list[dict]:
    """The turns under the prompt that lists the scene's tools, as ms_agent writes them."""
    written = [("system", render_tools([tool.function for tool in scene.tools]))]
    for user, reply in turns:
        written += [("user", user), ("assistant", reply)]
    return [{"from": who, "value": value} for who, value in written]


def weighted(shares: dict, rng: random.Random) -> Any:
    """A key of `shares`, drawn with the shares that are its values."""
    return rng.choices(list(shares), list(shares.values()))[0]


def different(rows: int, write: Callable[[int], dict], marks: Callable[[dict], set]) -> Iterator:
    """`write(number)` for each number, drawn again until none of its marks was seen before."""
    catalogue.check(rows > 0, f"rows must be 1 or more, not {rows}")
    seen: set = set()
    for number in range(rows):
        for _ in range(TRIES):
            row = write(number)
            if seen.isdisjoint(new := marks(row)):
                break
        else:
            raise ValueError(f"too few texts for {rows} different rows, stopped after {number}")
        seen |= new
        yield row


def author_rows(rows: int, seed: int = 0, folder: Path = catalogue.FOLDER) -> Iterator[dict]:
    """Different dialogues; the same seed gives the same ones, and more rows only append."""
    books, rng = catalogue.load(folder), random.Random(seed)

    def mark(row: dict) -> set[bytes]:
        return {hashlib.sha256(json.dumps(row["conversations"]).encode()).digest()}

    return different(rows, lambda number: author_row(number, books, rng), mark)


def author_row(number: int, books: dict, rng: random.Random) -> dict:
    """One ms_agent row, drawn from the shares at the top of this file."""
    language = weighted({name: LANGUAGES[name] for name in LANGUAGES if name in books}, rng)
    here, chats, phrases = books[language]
    possible = {kind: KINDS[kind] for kind in KINDS if any(subjects(one, kind) for one in here)}
    kind, size = weighted(possible, rng), weighted(SIZES, rng)
    pairs = [(domain, item) for domain in here for item in subjects(domain, kind)]
    domain, item = rng.choice([pair for pair in pairs if len(pair[0].tools) >= size] or pairs)
    scene = Scene(domain, tools_for(domain, item, rng, size), here, chats, phrases, rng)
    turns = getattr(scene, kind)(item)
    if kind != "no_tool" and rng.random() < OPENER_SHARE:
        turns[0] = (rng.choice(phrases.opener) + turns[0][0], turns[0][1])
    name = f"authored-{language}-{domain.name}-{kind}-{number:06d}"
    return {"id": name, "conversations": conversation(scene, turns)}
