"""What a YAML file of tools may hold, and how values are drawn from it.

data/README.md describes the fields. pydantic checks them; `read` gives each mistake as one line.
"""

import random
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, Tag, model_validator

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "catalogue"
PLACEHOLDER = re.compile(r"\{([\w.]+)\}")
JOIN = {"en": (", ", " and "), "zh": ("、", "和")}  # how a list reads in running text
SIGNS = {"#": "0123456789", "@": "ABCDEFGHJKLMNPQRSTUVWXYZ"}  # what a code draws from
FORMS = ({"range"}, {"range", "step"}, {"range", "decimals"}, {"code"}, {"pick", "count"})


def names_in(*texts: str) -> set[str]:
    """Placeholder names in the texts: "{city} on {date}" gives {"city", "date"}."""
    return {name for text in texts for name in PLACEHOLDER.findall(text)}


def as_text(value: Any, language: str) -> str:
    """A value as it reads in a sentence; a list becomes "a, b and c" (zh: "a、b和c")."""
    if not isinstance(value, list):
        return str(value)
    comma, last = JOIN[language]
    words = [as_text(item, language) for item in value]
    return last.join([comma.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fill(text: str, values: dict, language: str) -> str:
    """`text` with every {name} replaced by its value. Raises KeyError for a name without one."""
    filled = PLACEHOLDER.sub(lambda match: as_text(values[match[1]], language), text)
    return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", filled) if language == "en" else filled


def substitute(form: Any, values: dict, language: str) -> Any:
    """Like `fill`, but one placeholder alone keeps its value's type, and no string stays itself."""
    if not isinstance(form, str):
        return form
    whole = PLACEHOLDER.fullmatch(form)
    return values[whole[1]] if whole else fill(form, values, language)


def draw(form: Any, rng: random.Random, values: dict, language: str) -> Any:
    """Draw one value of a value form; `values` fills the placeholders of a text."""
    if isinstance(form, list):
        return rng.choice(form)
    if not isinstance(form, Form):
        return substitute(form, values, language)
    if form.pick:
        return rng.sample(form.pick, rng.randint(*form.count))
    if form.code:
        return "".join(rng.choice(SIGNS[sign]) if sign in SIGNS else sign for sign in form.code)
    low, high = form.range
    if form.decimals is not None:
        return round(rng.uniform(low, high), form.decimals)
    steps = rng.randint(0, int((high - low) / form.step + 1e-9))
    value = round(low + form.step * steps, 6)
    return int(value) if value == int(value) else value


def check(condition: Any, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_schema(value: Any, schema: dict, field: str) -> None:
    """Raise ValueError where `value` does not fit a JSON schema."""
    validator = jsonschema.Draft202012Validator(schema | {"additionalProperties": False})
    for error in validator.iter_errors(value):
        raise ValueError(f"{field}: {error.message}")


def try_text(form: Any, values: dict, field: str) -> None:
    """Raise ValueError where a text holds a {name} without a value, or one that cannot be said."""
    for name in sorted(names_in(form)) if isinstance(form, str) else ():
        known = ", ".join(values) or "none"
        check(name in values, f"{field}: {{{name}}} is unknown; known: {known}")
        sayable = form == f"{{{name}}}" or not isinstance(values[name], bool | dict)
        check(sayable, f"{field}: {{{name}}} is no text: use `set`")


def _from_pool(form: Any, info: pydantic.ValidationInfo) -> Any:
    """`$name` → that pool's list; everything else as it is."""
    if not isinstance(form, str) or not form.startswith("$"):
        return form
    pools = info.context["pools"]
    check(form[1:] in pools, f"there is no pool {form}; known: {', '.join(pools) or 'none'}")
    return pools[form[1:]]


def _named(entries: Any) -> Any:
    """A list of entries → name → entry, so that errors name them."""
    try:
        named = {str(entry["name"]): entry for entry in entries}
    except (TypeError, KeyError):
        return entries
    check(len(named) == len(entries), "two entries have the same name")
    return named


Text = Annotated[str, StringConstraints(pattern=r"\S")]
Plain = Annotated[str, StringConstraints(pattern=r"^[^{}]+$")]  # no {name}
Thought = Annotated[str, StringConstraints(pattern=r"^([^{}]|\{tool\})+$")]
_listed = BeforeValidator(lambda one: [one] if isinstance(one, str) else one)
_text = BeforeValidator(lambda one: {"text": one} if isinstance(one, str) else one)
Texts = Annotated[list[Text], Field(min_length=1), _listed]
Choices = Annotated[list, Field(min_length=1), BeforeValidator(_from_pool)]
Bounds = Annotated[list[int | float], Field(min_length=2, max_length=2)]


class Entry(BaseModel):
    """A mapping of the YAML: no unknown keys, no conversion of types."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Form(Entry):
    """What a value is drawn from, see FORMS: a number of a range [low, high], a code such as
    "AB-##@" (# a digit, @ a capital), or a pick of count [low, high] different values."""

    range: Bounds | None = None
    step: int | float = 1
    decimals: int | None = None
    code: Text | None = None
    pick: Choices | None = None
    count: Bounds | None = None

    @model_validator(mode="after")
    def _checked(self):
        check(self.model_fields_set in FORMS, f"the keys must be one of {FORMS}")
        low, high = self.range or self.count or (0, 0)
        check(low <= high and self.step > 0, f"[{low}, {high}] must rise, and step be above 0")
        check(not self.pick or 1 <= low <= high <= len(self.pick), "count: more than there are")
        return self


ValueForm = Annotated[
    Annotated[Choices, Tag("list")] | Annotated[Text, Tag("str")] | Annotated[Form, Tag("dict")],
    pydantic.Discriminator(lambda form: type(form).__name__),
    BeforeValidator(_from_pool),
]


class Parameter(Entry):
    """One parameter of a tool."""

    name: Text
    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    required: bool
    description: Plain
    values: ValueForm

    @model_validator(mode="after")
    def _checked(self):
        check(not isinstance(self.values, str), "values: expected a list, a $pool or a form")
        values = self.values if isinstance(self.values, list) else [self.sample]
        # an unquoted 10:30 is the number 630 in YAML
        check_schema(values, {"items": {"type": self.type}}, "values (quote it?)")
        return self

    @property
    def sample(self) -> Any:
        """A value to try texts with."""
        return draw(self.values, random.Random(0), {}, "en")


class Request(Entry):
    """A user's phrasing; `fixed` (YAML: set) are arguments that the words imply."""

    text: Text
    fixed: dict[str, Any] = Field({}, alias="set")


class Missing(Entry):
    """A request without a required value, and the question to ask back."""

    text: Text
    ask: Text


class Failure(Entry):
    """What a tool returns when it fails, and the honest answer."""

    result: dict[str, Any]
    answer: Text


class Tool(Entry):
    """One tool with everything needed to write dialogues about it."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][\w-]*$")]
    description: Plain
    parameters: Annotated[dict[str, Parameter], BeforeValidator(_named)]
    requests: Annotated[list[Annotated[Request, _text]], Field(min_length=4)]
    result: Annotated[dict[str, ValueForm], Field(min_length=1)]
    answers: Annotated[list[Text], Field(min_length=2)]
    missing: list[Missing] = []
    errors: list[Failure] = []

    @cached_property
    def drawn(self) -> set[str]:
        """Result fields that echo no argument."""
        return {key for key, form in self.result.items() if not isinstance(form, str)}

    @cached_property
    def function(self) -> dict:
        """The tool as a function with a JSON schema of its parameters."""
        properties = {}
        for name, one in self.parameters.items():
            properties[name] = {"type": one.type, "description": one.description}
        required = [name for name, one in self.parameters.items() if one.required]
        schema = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "description": self.description, "parameters": schema}

    @model_validator(mode="after")
    def _checked(self):
        """Try every text on sample values."""
        values = {name: one.sample for name, one in self.parameters.items()}
        schema = self.function["parameters"]
        needed = {name: values[name] for name in schema["required"]}
        for number, request in enumerate(self.requests):
            try_text(request.text, values, f"requests[{number}]")
            given = {name: values[name] for name in names_in(request.text)} | request.fixed
            check_schema(given, schema, f"requests[{number}]")
            fit = [one for one in self.answers if names_in(one) <= {*given, *self.result}]
            check(fit, f"answers: none can be filled after {request.text!r}")
        for key, form in self.result.items():
            try_text(form, needed, f"result.{key}")
            values.setdefault(key, draw(form, random.Random(0), values, "en"))
        for number, answer in enumerate(self.answers):
            try_text(answer, values, f"answers[{number}]")
            states = names_in(answer) & self.drawn
            check(states, f"answers[{number}]: states no result field that is drawn")
        for entry in self.missing:
            try_text(entry.text, values, "missing.text")
            try_text(entry.ask, {name: 0 for name in names_in(entry.text)}, "missing.ask")
            lacks = set(needed) - names_in(entry.text)
            check(lacks, f"missing.text: {entry.text!r} lacks no required parameter")
        for entry in self.errors:
            for text in (entry.answer, *entry.result.values()):
                try_text(text, needed, "errors")
        return self


class Call(Entry):
    """A call of a chain; {name} is a value of the request, {1.field} one of the first result."""

    tool: str
    arguments: dict[str, Any]


class Chain(Entry):
    """A request that takes two calls or more, the later ones with results of the earlier."""

    request: Texts
    calls: Annotated[list[Call], Field(min_length=2)]
    answer: Texts


class Domain(Entry):
    """A file of tools; `near` names domains too alike to serve as an impossible request."""

    name: str = Field(alias="domain")
    language: Literal["en", "zh"]
    pools: dict[str, Choices] = {}
    tools: Annotated[dict[str, Tool], Field(min_length=1), BeforeValidator(_named)]
    chains: list[Chain] = []
    near: list[str] = []

    def parameters_of(self, chain: Chain) -> dict[str, Parameter]:
        """What a name in a chain's request stands for: the first parameter of that name."""
        found: dict[str, Parameter] = {}
        for call in reversed(chain.calls):
            found |= self.tools[call.tool].parameters
        return found

    @model_validator(mode="after")
    def _checked(self, info: pydantic.ValidationInfo):
        """Run every chain once on sample values."""
        own = f"{self.language}_{self.name}.yaml"
        check(own == info.context["file"], f"language and domain are those of a file {own}")
        for number, chain in enumerate(self.chains):
            field = f"chains[{number}]"
            for call in chain.calls:
                check(call.tool in self.tools, f"{field}: no tool {call.tool}")
            samples = {name: one.sample for name, one in self.parameters_of(chain).items()}
            for text in chain.request:
                try_text(text, samples, f"{field}, request")
            values = {name: samples[name] for name in names_in(*chain.request)}
            for at, call in enumerate(chain.calls, start=1):
                tool, arguments = self.tools[call.tool], {}
                for name, form in call.arguments.items():
                    try_text(form, values, f"{field}, {call.tool}.{name}")
                    arguments[name] = substitute(form, values, self.language)
                check_schema(arguments, tool.function["parameters"], f"{field}, {call.tool}")
                for key, form in tool.result.items():
                    values[f"{at}.{key}"] = draw(form, random.Random(0), arguments, self.language)
            for text in chain.answer:
                try_text(text, values, f"{field}, answer")
                stated = [name for name in names_in(text) if "." in name]
                check(stated, f"{field}, answer: states no result, such as {{2.price}}")
        return self


class Chat(Entry):
    """A question that needs no tool; `not_with` names domains whose tools would serve after all."""

    question: Plain
    answer: Plain
    not_with: list[str] = []


class Chats(Entry):
    """A file of chats, or an entry that has some."""

    chat: Annotated[list[Chat], Field(min_length=1)]


class Phrases(Entry):
    """Small texts between the others, in one language."""

    thought: Annotated[list[Thought], Field(min_length=1)]
    next: Annotated[list[Thought], Field(min_length=1)]
    opener: Texts
    follow_up: list[str]  # "" for none
    refuse: Texts


def read(path: Path, kind: Any) -> Any:
    """A YAML file as `kind`. Raises ValueError: a line for each mistake, with its place."""
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{path.name}: not readable as YAML: {problem}") from None
    pools = content.get("pools") if isinstance(content, dict) else None
    context = {"file": path.name, "pools": pools if isinstance(pools, dict) else {}}
    try:
        return pydantic.TypeAdapter(kind).validate_python(content, context=context)
    except pydantic.ValidationError as problems:
        lines = []
        for error in problems.errors():
            place, problem = ", ".join(map(str, error["loc"])), error["msg"]
            problem = problem.removeprefix("Value error, ")
            if error["type"] not in ("missing", "value_error"):
                problem += f", found {error['input']!r:.80}"
            lines.append(": ".join(filter(None, (path.name, place, problem))))
        raise ValueError("\n".join(lines)) from None


def load(folder: Path = FOLDER, *more: Path) -> dict[str, tuple]:
    """Language → its domains (by file name), chats and phrases. Raises ValueError, see `read`.
    `folder` has the chats and phrases; `more` folders add domains."""
    books, owner, phrases = {}, {}, read(folder / "phrases.yaml", dict[str, Phrases])
    paths = [path for one in (folder, *more) for path in sorted(one.glob("*_*.yaml"))]
    for path in paths:
        if path.stem.endswith("_chat"):
            continue
        domain = read(path, Domain)
        for name in domain.tools:
            first = owner.setdefault(name, path.name)
            check(first == path.name, f"{path.name}: tools, {name}: is in {first} too")
        if domain.language not in books:
            chats = read(folder / f"{domain.language}_chat.yaml", Chats)
            check(domain.language in phrases, f"phrases.yaml: nothing for {domain.language}")
            books[domain.language] = ([], chats.chat, phrases[domain.language])
        books[domain.language][0].append(domain)
    return books
