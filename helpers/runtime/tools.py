"""What tools answer without a network; imported in .venv-roleplay and .venv-agentfabric, too."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from helpers.agentfabric import language_of

ROOT = Path(__file__).resolve().parents[2]


def data(name: str) -> dict:
    """A file of data/roleplay. tools, assistants: by language; weather: by place."""
    return json.loads((ROOT / "data" / "roleplay" / f"{name}.json").read_text("utf-8"))


def recorded(results: list) -> Callable[[str], str]:
    """Answers from `(tool, result)` pairs, each to the call of the tool whose turn it is, whatever
    its arguments (as `evaluate.case_tools`). The runtime words the error of any other call."""
    waiting = [tuple(pair) for pair in results]

    def answer(name: str) -> str:
        if waiting and waiting[0][0] == name:
            return waiting.pop(0)[1]
        raise LookupError("no result")

    return answer


def _weather(arguments: dict) -> str:
    """Weather from the table, in the words of the runtime's own tool."""
    table, place = data("weather"), arguments["location"]
    if place not in table:
        raise ValueError(f"location {place} not found, availables are {', '.join(table)}")
    weather, degrees = table[place]
    if language_of(place) == "zh":
        return f"{place}的天气是{weather}温度是{degrees}度。"
    return f"The weather in {place} is {weather}, {degrees} degrees."


def _picture(arguments: dict) -> str:
    """Two colours made from the words; the result's form is that of the runtime's tool."""
    from PIL import Image

    digest = hashlib.sha256(arguments["text"].encode("utf-8")).digest()
    file = ROOT / "runs" / "pictures" / f"{digest.hex()[:8]}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.linear_gradient("L")
    one, other = (Image.new("RGB", mask.size, tuple(digest[i : i + 3])) for i in (0, 3))
    Image.composite(one, other, mask).save(file)
    return f"![IMAGEGEN](../runs/pictures/{file.name})"  # as a lesson would show it


LOCAL = {"amap_weather": _weather, "image_gen": _picture}


def tool_class(function: dict, answers: Callable[[str], str] | None = None) -> type:
    """A tool class of the runtime, described by exactly this OpenAI function schema.

    answers: tool name → result; without it the tool in LOCAL runs on the call's arguments.
    """
    from modelscope_agent.tools.base import BaseTool

    schema = function["parameters"]
    required = schema.get("required", ())

    class Offline(BaseTool):
        name, description = function["name"], function.get("description", "")
        parameters = [{"name": key, "required": key in required} for key in schema["properties"]]

        def _build_function(self):
            return {"name": self.name, "description": self.description, "parameters": schema}

        def call(self, params, **_):
            return answers(self.name) if answers else LOCAL[self.name](self._verify_args(params))

    return Offline
