"""How tools and observations of the practice rows look: names, descriptions, JSON schemas."""

import json
import random
import re
from dataclasses import dataclass

from catalogue import Domain, Entry, Parameter, Plain, Texts, Tool
from dialogues import weighted

from helpers.agentfabric import call_message

# How a group's tools are dressed, in percent of the groups; (training, judging) where they differ
CASES = {"own": (35, 20), "snake": (25, 30), "camel": (25, 40), "Pascal": (15, 10)}
TEXTS = {"own": (40, 30), "long": (25, 40), "short": (20, 10), "typed": (15, 20)}  # descriptions
TRAITS = {"bare": 15, "enum": 40, "default": 40, "extra": 40, "nested": 30, "example": 20}
UNITS = {"beside": 40, "inside": 30, "key": 30}  # where an observation says a number's unit
UNIT = re.compile(  # a result field and its unit, in a sentence of the catalogue
    r"\{(\w+)\} (euros|cents|percent|degrees Celsius|degrees|kilo(?:metres|grams|watts|watt-hours)"
    r"|milli(?:metres|litres|grams|seconds)|k?m|metres|kg|grams|tonnes|litres|ml|kWh|watts|lux|decibels"
    r"|cubic metres|calories|points|stars|minutes|hours|days|weeks|years|gems)\b"
)
# A field's name may say its unit itself: "price_eur" needs no other
IN_NAME = "eur cents percent celsius degrees km metres m mm kg grams mg tonnes litres ml kw kwh db"
IN_NAME += " cubic calories points stars ms minutes min hours days weeks years gems"


class Talk(Entry):
    """A question that needs no tool, or (with what it asks for as answer) that no tool serves."""

    question: Plain
    answer: Texts
    not_with: list[str] = []


class Words(Entry):
    """The file breadth/phrases.yaml."""

    chat: list[Talk]
    thanks: list[Talk]
    impossible: list[Talk]
    refuse: Texts
    given: Texts
    again: Texts
    new: Texts
    tell: Texts
    fields: dict[str, str]
    extras: dict[str, dict]
    boxes: dict[str, str]
    words: Texts


def words_of(name: str) -> list[str]:
    """The words of a name in any case: "getUvIndex" and "get_uv-index" give get, uv, index."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)]


def in_case(name: str, case: str) -> str:
    """A name as snake_case, camelCase, PascalCase, or its own."""
    first, *more = words_of(name)
    if case in ("own", "snake"):
        return name if case == "own" else "_".join([first, *more])
    return (first if case == "camel" else first.title()) + "".join(map(str.title, more))


def invented(style: str, words: list[str], rng: random.Random) -> str:
    """A name that says nothing: a code (fn_k7f), syllables (bomita) or two words (maple_comet)."""
    if style == "words":
        return "_".join(rng.sample(words, 2))
    if style == "syllables":
        return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))
    return rng.choice(["fn_", "f_", "x_"]) + "".join(rng.choices("bcdfghkmpqrtvwxz2345678", k=3))


def unit_of(tool: Tool, key: str) -> str:
    """The unit of a result field as the tool's answers say it, or ""."""
    return dict(UNIT.findall(" ".join(tool.answers))).get(key, "")


@dataclass(frozen=True)
class Dress:
    """How a group's tools and observations look."""

    case: str
    mask: str  # the style of invented names, or ""
    texts: str
    traits: set[str]
    units: str
    echo: bool  # observations repeat the arguments: they name what they are about
    words: Words
    rng: random.Random

    def name(self, name: str, taken: set[str]) -> str:
        """A tool's or a parameter's name in this dress, none of `taken`, and put there."""
        new = in_case(name, self.case)
        while self.mask and (new == in_case(name, self.case) or new in taken):
            new = invented(self.mask, self.words.words, self.rng)
        taken.add(new)
        return new

    def parameter(self, tool: Tool, one: Parameter, domain: Domain) -> dict:
        """The JSON schema of a parameter."""
        text, shown, listed = one.description, {"type": one.type}, isinstance(one.values, list)
        if self.texts == "typed":
            text += f" ({one.type}, {'required' if one.required else 'optional'})"
        elif (
            "example" in self.traits
            and " as " not in text
            and one.type in ("string", "integer", "number")
        ):
            text += f", for example {one.sample}"
        shown |= {} if "bare" in self.traits else {"description": text}
        if one.type == "array":
            shown["items"] = {"type": "string"} if isinstance(one.sample[0], str) else {}
        # a chain may pass a value that is not listed here
        chained = {(call.tool, key) for chain in domain.chains for call in chain.calls
                   for key in call.arguments}  # fmt: skip
        few = one.type == "string" and listed and len(one.values) <= 6
        if "enum" in self.traits and few and (tool.name, one.name) not in chained:
            implied = [it.fixed[one.name] for it in tool.requests if one.name in it.fixed]
            shown["enum"] = list(dict.fromkeys([*one.values, *implied]))
        if "default" in self.traits and not one.required and (few or one.type == "boolean"):
            shown["default"] = False if one.type == "boolean" else one.values[0]
        return shown

    def tool(self, tool: Tool, domain: Domain, taken: set[str]) -> "Dressed":
        """A tool in this dress; `taken` are the names of the group's tools."""
        inner: set[str] = set()
        known, rng = tool.parameters, self.rng
        names = {name: self.name(name, inner) for name in known}
        shown = {name: self.parameter(tool, one, domain) for name, one in known.items()}
        boxed, box, key = [], "", ""
        if "nested" in self.traits and len(known) > 1 and rng.random() < 0.6:
            chosen = rng.sample([*known], rng.randint(2, min(3, len(known))))
            boxed = [name for name in known if name in chosen]
            key = rng.choice([key for key in self.words.boxes if key not in known])
            box = self.name(key, inner)
        properties, required = {}, []
        for part, keep in ((boxed, True), ([name for name in known if name not in boxed], False)):
            schema = {names[name]: shown[name] for name in part}
            needed = [names[name] for name in part if known[name].required]
            if keep and part:
                text = {} if "bare" in self.traits else {"description": self.words.boxes[key]}
                schema = {box: {"type": "object", **text, "properties": schema, "required": needed}}
                needed = [box] if needed else []
            properties |= schema
            required += needed
        if "extra" in self.traits and rng.random() < 0.7:
            for name in rng.sample([*self.words.extras], rng.randint(1, 2)):
                if name not in known:
                    properties[self.name(name, inner)] = self.words.extras[name]
        text = tool.description
        if self.texts == "long":
            takes = ", ".join(" ".join(words_of(name)) for name in known) or "no input"
            gives = ", ".join(" ".join(words_of(key)) for key in tool.result)
            text += f" Takes {takes}. Returns {gives}."
        elif self.texts == "short":
            text = " ".join(words_of(tool.name)).capitalize()
        schema = {"type": "object", "properties": properties, "required": required}
        function = {"name": self.name(tool.name, taken), "description": text, "parameters": schema}
        return Dressed({"type": "function", "function": function}, names, box, boxed)

    def observation(self, tool: Tool, arguments: dict, result: dict) -> str:
        """What a tool returns, as JSON text: an error as it is, a result with its units."""
        shown: dict = {}
        if self.echo and result.keys() == tool.result.keys():
            shown = {key: it for key, it in arguments.items() if type(it) in (str, int, float)}
        for key, value in result.items():
            unit = unit_of(tool, key) if type(value) in (int, float) else ""
            if not unit or {*words_of(key)} & {*IN_NAME.split()}:
                shown[key] = value
            elif self.units == "beside":
                shown |= {key: value, f"{key}_unit": unit}
            else:
                inside = self.units == "inside"
                shown |= {key: f"{value} {unit}"} if inside else {f"{key}_{unit}": value}
        return json.dumps(
            {in_case(key, self.case): shown[key] for key in shown}, ensure_ascii=False
        )


def draw_dress(part: str, masked: bool, words: Words, rng: random.Random, easy=False) -> Dress:
    """A dress with the shares at the top. Masked tools keep their descriptions. easy: descriptions
    as in the catalogue, and nothing beside them."""
    case, texts = (
        weighted({name: pair[part != "train"] for name, pair in shares.items()}, rng)
        for shares in (CASES, TEXTS)
    )
    traits = {name for name, share in TRAITS.items() if rng.random() * 100 < share}
    if easy:
        traits, texts = set(), "own"
    mask = rng.choice(["code", "syllables", "words"]) if masked else ""
    if masked:
        traits, texts = traits - {"bare"}, "own" if texts == "short" else texts
    return Dress(case, mask, texts, traits, weighted(UNITS, rng), rng.random() < 0.7, words, rng)


@dataclass(frozen=True)
class Dressed:
    """A tool as a prompt shows it, and how its calls are written."""

    schema: dict
    names: dict[str, str]  # parameter → its name in the schema
    box: str  # the object parameter that holds `boxed`, or ""
    boxed: list[str]

    def call(self, arguments: dict) -> dict:
        """The canonical message of a call with the catalogue's `arguments`."""
        given: dict = {}
        for name, value in arguments.items():
            place = given.setdefault(self.box, {}) if name in self.boxed else given
            place[self.names[name]] = value
        return call_message(self.schema["function"]["name"], given)
