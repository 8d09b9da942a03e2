"""The tool loop, as a generator of steps, and local tools to try it with.

Whoever drives the generator sends back what a step asks for. So one loop serves the playground (a
person may play the tool), the scorer (many episodes together) and servers. Tools' errors are worded
as in ModelScope-Agent 0.7.2 (`tools/base.py`; Apache-2.0).
"""

import ast
import inspect
import json
import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace

from simpleeval import DEFAULT_OPERATORS, InvalidExpression, simple_eval

from helpers import agentfabric
from helpers.agentfabric import MAX_TURNS, Call


@dataclass(frozen=True)
class Step:
    """kind: "request" (send the reply to `messages`), "call" (send the result of `call`, read from
    `text`), "answer" (`text` is final) or "gave_up" (turn limit). raw: the reply, uncut at stop
    words. finished: False if cut at the token limit. result: of a call, in transcripts."""

    kind: str
    text: str = ""
    messages: tuple = ()
    call: Call | None = None
    raw: str = ""
    finished: bool = True
    result: str | None = None


def episode(tools: list[dict], query: str, *, max_turns=MAX_TURNS, **prompt) -> Generator:
    """One user turn through AgentFabric's loop (ModelScope-Agent, `agents/role_play.py`): yields
    Steps. `max_turns`: requests before it gives up; `prompt`: see `agentfabric.first_request`."""
    messages = agentfabric.first_request(tools, query, **prompt)
    for _ in range(max_turns):
        raw = yield Step("request", messages=tuple(messages))
        reply, finished = agentfabric.cut_at_stop(raw), getattr(raw, "finished", True)
        calls = agentfabric.read_calls(reply)
        if not calls:
            yield Step("answer", reply, raw=str(raw), finished=finished)
            return
        result = yield Step("call", reply, call=calls[0], raw=str(raw), finished=finished)
        messages = agentfabric.next_request(messages, reply, result)
    yield Step("gave_up")


def run(tools: list[dict], query: str, ask: Callable, execute: Callable, **prompt) -> list[Step]:
    """Drive one episode: `ask` is the model (messages → reply), `execute` the tools (call → text).
    Returns the transcript: the "call" steps with their results, then the last step."""
    loop = episode(tools, query, **prompt)
    return run_batch([(loop, execute)], lambda requests: [ask(requests[0])])[0]


def run_batch(episodes: Iterable[tuple[Generator, Callable]], ask: Callable) -> list[list[Step]]:
    """Drive many (episode, execute) pairs together: all open requests go to the model as one batch.
    `ask`: list of message lists → list of replies. Returns a transcript for each, as `run` does."""
    episodes = list(episodes)
    transcripts = [[] for _ in episodes]
    waiting = {i: next(loop) for i, (loop, _) in enumerate(episodes)}  # each one's open request
    while waiting:
        replies = ask([list(step.messages) for step in waiting.values()])
        for i, reply in zip(list(waiting), replies, strict=True):
            loop, execute = episodes[i]
            step = loop.send(reply)
            if step.kind == "call":
                result = execute(step.call)
                transcripts[i].append(replace(step, result=result))
                step = loop.send(result)
            waiting[i] = step
            if step.kind != "request":
                transcripts[i].append(waiting.pop(i))
    return transcripts


REGISTRY: dict[str, Callable] = {}  # a tool's name → its function, which carries its `schemas`
_TYPES = {str: "string", float: "number", int: "integer", bool: "boolean"}
_TYPES |= {list: "array", dict: "object"}
_CHINESE = {  # a tool's description, then its parameters'
    "fire_recognition": ("识别图片中是否有火情。", "图片的路径或URL"),
    "fire_alert": ("拉响建筑物的火灾警报。", "拉响警报的地点，例如3号楼"),
    "call_police": ("拨打报警电话，联系警察。", "需要警察前往的地点", "报警原因"),
    "call_fireman": ("拨打火警电话，请消防员前来灭火。", "起火地点"),
    "get_weather": ("查询城市今天的天气。", "城市名称"),
    "calculator": ("计算算术表达式。", "算式，例如(3 + 4) * 2"),
}


def tool(**parameters: str) -> Callable[[Callable], Callable]:
    """Decorator: put a function into REGISTRY, which returns text or what JSON can hold. The model
    reads its docstring, the descriptions of its `parameters`, and whatever it raises."""

    def register(function: Callable) -> Callable:
        name, signature = function.__name__, inspect.signature(function).parameters
        types = [_TYPES.get(one.annotation) for one in signature.values()]
        if set(signature) != set(parameters) or None in types or not function.__doc__:
            wanted = f"a docstring, and of each of {list(signature)} a description and a type of"
            raise ValueError(f"tool {name}: it needs {wanted} str, float, int, bool, list, dict")
        english = (inspect.getdoc(function), *(parameters[key] for key in signature))
        required = [key for key, one in signature.items() if one.default is one.empty]
        function.schemas = {}
        # (transformers' get_json_schema knows one language, and takes 3 s to import)
        for language, texts in {"en": english, "zh": _CHINESE.get(name, english)}.items():
            pairs = zip(types, texts[1:])
            described = [{"type": type_, "description": text} for type_, text in pairs]
            properties = dict(zip(signature, described))
            schema = {"type": "object", "properties": properties, "required": required}
            whole = {"name": name, "description": texts[0], "parameters": schema}
            function.schemas[language] = {"type": "function", "function": whole}
        REGISTRY[name] = function
        return function

    return register


def schemas(names: Iterable[str], language: str = "en") -> list[dict]:
    """OpenAI schemas of the named tools, in order; `schemas(REGISTRY)` gives all of them.
    ValueError: no such tool, or language ("en", "zh")."""
    try:
        return [REGISTRY[name].schemas[language] for name in names]
    except KeyError as missing:
        known = f"there are the tools {', '.join(REGISTRY)}, each in en and zh"
        raise ValueError(f"no tool or language {missing}; {known}") from None


def check_arguments(parameters: dict, arguments: object) -> None:
    """Raise ValueError unless `arguments` fit the JSON schema `parameters`: first the runtime's own
    check in its words (required ones are there), then JSON Schema 2020-12."""
    for name in parameters.get("required", []):
        if name not in arguments:  # asked as the runtime asks, of any type: a list lacks it too
            raise ValueError(f"param `{name}` is required")
    import jsonschema  # only now: its grammar of web addresses takes over a second to build

    errors = jsonschema.Draft202012Validator(parameters).iter_errors(arguments)
    if error := jsonschema.exceptions.best_match(errors):
        where = f"param `{error.absolute_path[0]}`: " if error.absolute_path else ""
        raise ValueError(where + error.message)


def execute(call: Call, registry: Mapping[str, Callable] = REGISTRY) -> str:
    """Run one call as the runtime does, with the tools of `registry` only. Never raises: returns
    the result, as JSON unless it is text, or the runtime's error text."""
    try:
        function = registry[call.name]
        parameters = function.schemas["en"]["function"]["parameters"]
        arguments = agentfabric.parse_arguments(call.arguments)
        check_arguments(parameters, arguments)
        # the runtime's tools take what they know and ignore the rest
        known = {key: arguments[key] for key in parameters["properties"] if key in arguments}
        result = function(**known)
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except Exception as error:  # the runtime also swallows an interrupt from the keyboard
        details = str(error)[:200]
        return f"Tool api {call.name} failed to call. Args: {call.arguments}.Details: {details}"


@tool(image="Path or URL of the image")
def fire_recognition(image: str) -> dict:
    """Look at an image and tell whether there is a fire in it."""
    # only the path is looked at
    return {"image": image, "fire": bool(re.search("fire|flame|burn|火", image.lower()))}


def _report(en: str, zh: str, **values: str) -> dict[str, str]:
    chinese = agentfabric.language_of(" ".join(values.values())) == "zh"
    return {**values, "status": zh if chinese else en}


@tool(location="Where the alarm sounds, for example Building 3")
def fire_alert(location: str) -> dict:
    """Sound the fire alarm of a building."""
    return _report("the alarm is sounding", "警报已拉响", location=location)


@tool(location="Where they are needed", reason="Why they are called")
def call_police(location: str, reason: str = "") -> dict:
    """Call the police."""
    return _report("a patrol is coming", "警察正在赶来", location=location, reason=reason)


@tool(location="Where the fire is")
def call_fireman(location: str) -> dict:
    """Call the fire brigade to put out a fire."""
    return _report("the fire brigade is coming", "消防员正在赶来", location=location)


_WEATHER = {"beijing": "sunny, 18 °C", "london": "fog, 11 °C", "paris": "light rain, 14 °C"}
_WEATHER |= {"北京": "晴，18℃", "上海": "多云，21℃", "杭州": "小雨，20℃"}


@tool(city="Name of the city")
def get_weather(city: str) -> dict:
    """Get today's weather in a city."""
    if city.strip().lower() not in _WEATHER:
        raise ValueError(f"no weather for {city}; known: {', '.join(_WEATHER)}")
    return {"city": city, "weather": _WEATHER[city.strip().lower()]}


@tool(expression="Numbers, + - * / % ** and brackets, for example (3 + 4) * 2")
def calculator(expression: str) -> dict:
    """Work out an arithmetic expression."""
    text = expression.translate(str.maketrans("×÷（）", "*/()")).replace("^", "**").strip()
    if not re.fullmatch(r"[-0-9eE.+*/%() ]{1,200}", text):
        raise ValueError("only up to 200 of numbers, + - * / % ** and brackets are allowed")

    def power(base: float, by: float) -> float:  # too large a one may not end
        return base**by if abs(base) <= 1e100 and abs(by) <= 64 else math.nan

    try:
        result = simple_eval(text, {**DEFAULT_OPERATORS, ast.Pow: power}, functions={}, names={})
        if not abs(float(result)) <= 1e100:
            raise ValueError("no real number up to 1e100, or with an exponent beyond 64")
    except (InvalidExpression, SyntaxError, TypeError, ArithmeticError) as error:
        raise ValueError(f"cannot work out {expression}: {error}") from None
    return {"result": result}
