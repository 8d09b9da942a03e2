"""Local tools: offline, deterministic, with their JSON schemas; and the runtime's way of calling one.

The errors that `execute` returns have ModelScope-Agent's wording (Apache-2.0, tag 0.7.2: `_call_tool` in
`agent.py`, `_verify_args` in `tools/base.py`). None of these tools is in the training data (data/catalogue; a
test holds this), so what a model does with them it did not learn by heart.
"""

import ast
import inspect
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from helpers.agentfabric import Call, language_of, parse_arguments

LANGUAGES = ("en", "zh")
_TYPES = {str: "string", float: "number", int: "integer", bool: "boolean", list: "array", dict: "object"}


@dataclass(frozen=True)
class Tool:
    """`schemas` maps a language ("en", "zh") to the tool's OpenAI function schema; `function` does the work.
    It returns text or what JSON can hold; what it raises, the model reads."""

    schemas: dict[str, dict]
    function: Callable


REGISTRY: dict[str, Tool] = {}


def tool(*descriptions: str, **parameters: tuple[str, str]) -> Callable[[Callable], Callable]:
    """Decorator: put a function into REGISTRY under its own name, replacing one registered before.
    Names, types and "required" (no default) are read off the signature, so schema and function agree.

    Args:
        descriptions: what the tool does, for the model to read: English, Chinese.
        parameters: for each parameter of the function its description: (English, Chinese).

    Raises:
        ValueError: descriptions that do not fit the function, or an annotation that JSON lacks.
    """
    def register(function: Callable) -> Callable:
        name, signature = function.__name__, inspect.signature(function).parameters
        pairs = [descriptions, *parameters.values()]
        if set(signature) != set(parameters) or any(len(pair) != len(LANGUAGES) for pair in pairs):
            raise ValueError(f"tool {name}: it and each of its parameters {sorted(signature)}, nothing else, "
                             f"needs one description in English and one in Chinese; got {sorted(parameters)}")
        REGISTRY[name] = Tool({
            language: _schema(function, descriptions[i], {key: parameters[key][i] for key in signature})
            for i, language in enumerate(LANGUAGES)}, function)
        return function
    return register


def _schema(function: Callable, description: str, parameters: dict[str, str]) -> dict:
    """The OpenAI schema of a function in one language; keys in the order in which AgentFabric writes them."""
    name, signature = function.__name__, inspect.signature(function).parameters
    wrong = [key for key in parameters if signature[key].annotation not in _TYPES]
    if wrong:
        raise ValueError(f"tool {name}: annotate {', '.join(wrong)} as str, float, int, bool, list or dict")
    properties = {key: {"type": _TYPES[signature[key].annotation], "description": text}
                  for key, text in parameters.items()}
    required = [key for key in parameters if signature[key].default is inspect.Parameter.empty]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": required}}}


def schemas(names: Iterable[str], language: str = "en") -> list[dict]:
    """OpenAI function schemas of the named tools, in this order; `schemas(REGISTRY)` gives all of them.

    Raises:
        ValueError: no tool of that name, or no such language.
    """
    try:
        return [REGISTRY[name].schemas[language] for name in names]
    except KeyError as missing:
        raise ValueError(f"no tool or language {missing}; there are the tools {', '.join(REGISTRY)}, each in "
                         f"{', '.join(LANGUAGES)}") from None


def check_arguments(parameters: dict, arguments: object) -> None:
    """Raise ValueError unless `arguments` fit the JSON schema `parameters`.
    First the runtime's own rule (each required parameter is there), in its words. Then, beyond the runtime,
    whatever the schema says, by JSON Schema 2020-12; in effect, the types.
    """
    for name in parameters.get("required", []):
        if name not in arguments:  # asked as the runtime asks, of any type: a list lacks it too
            raise ValueError(f"param `{name}` is required")
    import jsonschema  # only now: its grammar of web addresses takes over a second to build

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(parameters).iter_errors(arguments))
    if error:
        where = f"param `{error.absolute_path[0]}`: " if error.absolute_path else ""
        raise ValueError(where + error.message)


def execute(call: Call, registry: Mapping[str, Tool] = REGISTRY) -> str:
    """Run one call as the runtime does. Never raises: an error is returned, for the model to read.

    Args:
        call: name and raw arguments, as `agentfabric.read_calls` found them.
        registry: the tools that may run; any other name is unknown.

    Returns:
        the tool's result, as JSON unless it is text already; or "Tool api … failed to call. …".
    """
    try:
        found = registry[call.name]
        parameters, arguments = found.schemas["en"]["function"]["parameters"], parse_arguments(call.arguments)
        check_arguments(parameters, arguments)
        # the runtime's tools take what they know and ignore the rest
        result = found.function(**{key: arguments[key] for key in parameters["properties"] if key in arguments})
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except Exception as error:  # the runtime also swallows an interrupt from the keyboard
        return f"Tool api {call.name} failed to call. Args: {call.arguments}.Details: {str(error)[:200]}"


# The fire-alarm desk: tools that follow from one another. They only say what they would do.
def _report(en: str, zh: str, **values: str) -> dict[str, str]:
    """The values and a status, in Chinese where a value is."""
    return {**values, "status": zh if language_of(" ".join(values.values())) == "zh" else en}


@tool("Look at an image and tell whether there is a fire in it.", "识别图片中是否有火情。",
      image=("Path or URL of the image", "图片的路径或URL"))
def fire_recognition(image: str) -> dict:
    """A stand-in: it judges by the words in the path and never opens the file or URL."""
    return {"image": image, "fire": any(word in image.lower() for word in ("fire", "flame", "burn", "火"))}


@tool("Sound the fire alarm of a building.", "拉响建筑物的火灾警报。",
      location=("Where the alarm sounds, for example Building 3", "拉响警报的地点，例如3号楼"))
def fire_alert(location: str) -> dict:
    """Says that the alarm sounds."""
    return _report("the alarm is sounding", "警报已拉响", location=location)


@tool("Call the police.", "拨打报警电话，联系警察。",
      location=("Where they are needed", "需要警察前往的地点"), reason=("Why they are called", "报警原因"))
def call_police(location: str, reason: str = "") -> dict:
    """Says that the police are coming."""
    return _report("a patrol is coming", "警察正在赶来", location=location, reason=reason)


@tool("Call the fire brigade to put out a fire.", "拨打火警电话，请消防员前来灭火。",
      location=("Where the fire is", "起火地点"))
def call_fireman(location: str) -> dict:
    """Says that the fire brigade is coming."""
    return _report("the fire brigade is coming", "消防员正在赶来", location=location)


# Everyday tools and the small tables they read.
_WEATHER = {"beijing": "sunny, 18 °C", "london": "fog, 11 °C", "paris": "light rain, 14 °C",
            "北京": "晴，18℃", "上海": "多云，21℃", "杭州": "小雨，20℃"}
_UNITS = {"m": ("length", 1), "km": ("length", 1000), "cm": ("length", 0.01), "mile": ("length", 1609.344),
          "ft": ("length", 0.3048), "kg": ("mass", 1), "g": ("mass", 0.001), "lb": ("mass", 0.45359237)}
_BOOKS = (("Pride and Prejudice", "Jane Austen", 1813), ("The Time Machine", "H. G. Wells", 1895),
          ("The War of the Worlds", "H. G. Wells", 1898), ("红楼梦", "曹雪芹", 1791), ("呐喊", "鲁迅", 1923))
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.Mod: operator.mod, ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg}
_SIGNS = str.maketrans({"×": "*", "÷": "/", "^": "**", "（": "(", "）": ")"})  # as people and models write


@tool("Get today's weather in a city.", "查询城市今天的天气。", city=("Name of the city", "城市名称"))
def get_weather(city: str) -> dict:
    """Made-up weather, the same every day. Raises ValueError for a city that is not in the small table."""
    if city.strip().lower() not in _WEATHER:
        raise ValueError(f"no weather for {city}; known: {', '.join(_WEATHER)}")
    return {"city": city, "weather": _WEATHER[city.strip().lower()]}


@tool("Search a small library by title or author.", "按书名或作者在小书库中查书。",
      query=("Part of a title or of an author's name", "书名或作者名的一部分"))
def search_books(query: str) -> list[dict]:
    """Every book whose title or author contains the words, ignoring case; an empty list for none."""
    return [{"title": title, "author": author, "year": year} for title, author, year in _BOOKS
            if query.strip().lower() in f"{title} {author}".lower()]


@tool("Convert a quantity from one unit to another.", "单位换算。", value=("The number", "要换算的数值"),
      from_unit=("Its unit, for example km", "原单位，例如km"), to_unit=("The unit wanted", "目标单位"))
def convert_units(value: float, from_unit: str, to_unit: str) -> dict:
    """Six significant digits. Raises ValueError: unknown or unlike units, or a result that is not finite."""
    (kind, factor), (other, target) = _UNITS.get(from_unit, ("?", 1)), _UNITS.get(to_unit, ("??", 1))
    if kind != other or not math.isfinite(value * factor / target):
        raise ValueError(f"cannot convert {value} {from_unit} to {to_unit}; known units: {', '.join(_UNITS)}")
    return {"result": float(f"{value * factor / target:.6g}"), "unit": to_unit}


@tool("Work out an arithmetic expression.", "计算算术表达式。",
      expression=("Numbers, + - * / % ** and brackets, for example (3 + 4) * 2", "算式，例如(3 + 4) * 2"))
def calculator(expression: str) -> dict:
    """Arithmetic without `eval`. Raises ValueError for anything but short arithmetic on moderate numbers."""
    if len(expression) > 200:
        raise ValueError("the expression is longer than 200 characters")
    try:
        return {"result": _value(ast.parse(expression.translate(_SIGNS).strip(), mode="eval").body)}
    except (SyntaxError, ArithmeticError) as error:
        raise ValueError(f"cannot work out {expression}: {error.args[0]}") from None


def _value(node: ast.AST) -> float:
    """The value of a tree that holds only numbers and the operators above; bounded at every step."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):  # no bool, no text
        value = node.value
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise ValueError("exponents beyond 64 are not worked out")
        value = _OPERATORS[type(node.op)](left, right)
    else:
        raise ValueError("only numbers, + - * / % ** and brackets are allowed")
    if isinstance(value, complex) or not abs(value) <= 1e100:  # "not <=" also stops nan
        raise ValueError("the result is no real number up to 1e100")
    return value
