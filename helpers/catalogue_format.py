"""The tool catalogue's format: what data/catalogue/<language>_<domain>.yaml may hold, how values are drawn.

The format is this project's own; data/README.md describes it field by field.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CATALOGUE = Path(__file__).resolve().parent.parent / "data" / "catalogue"
PLACEHOLDER = re.compile(r"\{([\w.]+)\}")
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
JOIN = {"en": (", ", " and "), "zh": ("、", "和")}  # how a list reads in running text
DIGITS, CAPITALS = "0123456789", "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool; `values` is a resolved value form (see `resolve`)."""

    name: str
    type: str
    required: bool
    description: str
    values: Any


@dataclass(frozen=True)
class Request:
    """A user's phrasing; `fixed` holds the arguments that the words imply without naming them."""

    text: str
    fixed: dict

    @property
    def names(self) -> set[str]:
        """Names of the arguments that the call made from this request carries."""
        return names_in(self.text) | set(self.fixed)


@dataclass(frozen=True)
class Tool:
    """One tool with everything needed to write dialogues about it."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    requests: tuple[Request, ...]
    result: dict
    answers: tuple[str, ...]
    missing: tuple[dict, ...]
    errors: tuple[dict, ...]


@dataclass(frozen=True)
class Domain:
    """The tools of one file; `near` names domains that are too alike to serve as an impossible request."""

    language: str
    name: str
    tools: tuple[Tool, ...]
    chains: tuple[dict, ...]
    near: tuple[str, ...]


def names_in(*texts: str) -> set[str]:
    """Placeholder names in the texts: "{city} on {date}" gives {"city", "date"}."""
    return {name for text in texts for name in PLACEHOLDER.findall(text)}


def as_text(value: Any, language: str) -> str:
    """A value as it reads in a sentence; a list becomes "a, b and c" (zh: "a、b和c").

    Raises ValueError for true, false and objects.
    """
    require(not isinstance(value, (bool, dict)), f"{value!r} does not read as part of a sentence; use `set`")
    if isinstance(value, list):
        comma, last = JOIN[language]
        words = [as_text(item, language) for item in value]
        return words[0] if len(words) == 1 else comma.join(words[:-1]) + last + words[-1]
    return str(value)


def fill(text: str, values: dict, language: str) -> str:
    """`text` with every {name} replaced by its value. Raises KeyError for a name without a value."""
    filled = PLACEHOLDER.sub(lambda match: as_text(values[match[1]], language), text)
    return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", filled) if language == "en" else filled


def substitute(form: Any, values: dict, language: str) -> Any:
    """Like `fill`, but one placeholder alone keeps its value's type; what is no string passes unchanged."""
    whole = PLACEHOLDER.fullmatch(form) if isinstance(form, str) else None
    if whole:
        return values[whole[1]]
    return fill(form, values, language) if isinstance(form, str) else form


def draw(form: Any, rng: random.Random, values: dict, language: str) -> Any:
    """Draw one value of a resolved value form; `values` fills the placeholders of a plain string."""
    if isinstance(form, list):
        return rng.choice(form)
    if isinstance(form, str):
        return substitute(form, values, language)
    if "pick" in form:
        return rng.sample(form["pick"], rng.randint(*form["count"]))
    if "code" in form:
        pick = {"#": DIGITS, "@": CAPITALS}
        return "".join(rng.choice(pick[char]) if char in pick else char for char in form["code"])
    low, high = form["range"]
    if "decimals" in form:
        return round(rng.uniform(low, high), form["decimals"])
    step = form.get("step", 1)
    value = round(low + step * rng.randint(0, int((high - low) / step + 1e-9)), 6)
    return int(value) if value == int(value) else value


def resolve(form: Any, pools: dict, where: str) -> Any:
    """Check a value form and replace $pool by the pool's list.

    Forms: [choices], "$pool", {range: [low, high], step|decimals}, {code: "AB-####"},
    {pick: $pool, count: [low, high]}, or a plain string, which may hold {param}.
    Raises ValueError naming `where`.
    """
    if isinstance(form, str) and form.startswith("$"):
        form = pools.get(form[1:], form)
        require(
            isinstance(form, list), f"{where}: there is no pool {form}; known: {', '.join(pools) or 'none'}"
        )
    if isinstance(form, (list, str)):
        require(len(form) > 0, f"{where}: empty; give at least one value")
        return form
    require(
        isinstance(form, dict),
        f"{where}: {form!r} is not a value form (list, $pool, range, code, pick, string)",
    )
    kind = next((key for key in ("range", "code", "pick") if key in form), None)
    extra = {"range": {"step", "decimals"}, "pick": {"count"}}.get(kind, set())
    require(kind and set(form) <= {kind} | extra, f"{where}: {form!r} is not a range, code or pick form")
    if kind == "code":
        require(isinstance(form["code"], str), f"{where}: a code is a string such as 'AB-####'")
        return form
    low, high = bounds(form["range"] if kind == "range" else form.get("count"), where)
    if kind == "range":
        return form
    pool = resolve(form["pick"], pools, where)
    require(
        1 <= low <= high <= len(pool), f"{where}: count must lie between 1 and the pool's {len(pool)} values"
    )
    return {"pick": pool, "count": [low, high]}


def bounds(pair: Any, where: str) -> list:
    """[low, high] checked: two numbers in rising order."""
    good = isinstance(pair, list) and len(pair) == 2 and all(fits(item, "number") for item in pair)
    require(good and pair[0] <= pair[1], f"{where}: {pair!r} must be two numbers, [low, high]")
    return pair


def require(condition: Any, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def fits(value: Any, type_name: str) -> bool:
    """Whether a value has the JSON-schema type; True and False are no numbers."""
    return isinstance(value, TYPES[type_name]) and (type_name == "boolean" or not isinstance(value, bool))


def check_keys(entry: Any, needed: str, optional: str, where: str) -> None:
    """Raise ValueError unless `entry` is a mapping with all `needed` and else only `optional` keys."""
    require(isinstance(entry, dict), f"{where}: expected a mapping, found {entry!r}")
    lacking = set(needed.split()) - set(entry)
    unknown = set(entry) - set(needed.split()) - set(optional.split())
    require(not lacking, f"{where}: missing {', '.join(sorted(lacking))}")
    require(not unknown, f"{where}: unknown {', '.join(map(str, unknown))}; known: {needed} {optional}")


def check_names(text: Any, known: Iterable[str], where: str) -> None:
    """Raise ValueError when `text` is no string or holds a {name} outside `known`."""
    require(isinstance(text, str) and text.strip(), f"{where}: expected a sentence, found {text!r}")
    unknown = names_in(text) - set(known)
    require(
        not unknown,
        f"{where}: {{{', '.join(sorted(unknown))}}} is unknown; known: {', '.join(known) or 'none'}",
    )


def read_yaml(path: Path) -> dict:
    """A YAML file's mapping. Raises ValueError with file and line when it is not one."""
    try:
        content = yaml.load(
            path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not readable as YAML: {error}") from None
    require(isinstance(content, dict), f"{path.name}: the file must hold a mapping at its top level")
    return content
