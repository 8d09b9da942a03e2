"""What tools answer when there is no network: recorded results, a small weather table, a picture drawn here.

Part of `helpers.roleplay_runtime` and `agentfabric_runtime`; only `tool_class` needs the runtime itself.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from helpers.agentfabric import language_of

ROOT = Path(__file__).resolve().parent.parent


def recorded(results: list) -> Callable[[str], str]:
    """Answers from `(tool, result)` pairs, each to the call of the tool whose turn it is, whatever its arguments: as
    `scoring.case_tools` does. The runtime makes its error text of what is raised for any other call."""
    waiting = [tuple(pair) for pair in results]

    def answer(name: str) -> str:
        if waiting and waiting[0][0] == name:
            return waiting.pop(0)[1]
        raise LookupError("no result")

    return answer


def _weather(arguments: dict) -> str:
    """Weather from a small table, in the words of the runtime's own tool; an unknown place is its error, too."""
    table, place = json.loads((ROOT / "data/roleplay/weather.json").read_text("utf-8")), arguments["location"]
    if place not in table:
        raise ValueError(f"location {place} not found, availables are {', '.join(table)}")
    weather, degrees = table[place]
    return (f"{place}的天气是{weather}温度是{degrees}度。" if language_of(place) == "zh" else
            f"The weather in {place} is {weather}, {degrees} degrees.")


def _picture(arguments: dict) -> str:
    """A stand-in that draws two colours made from the words; the result's form is that of the runtime's own tool."""
    from PIL import Image

    digest = hashlib.sha256(arguments["text"].encode("utf-8")).digest()
    file = ROOT / "runs" / "pictures" / f"{digest.hex()[:8]}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.linear_gradient("L")
    Image.composite(Image.new("RGB", mask.size, tuple(digest[:3])), Image.new("RGB", mask.size, tuple(digest[3:6])),
                    mask).save(file)
    return f"![IMAGEGEN](../runs/pictures/{file.name})"  # as a lesson would show it


LOCAL = {"amap_weather": _weather, "image_gen": _picture}


def tool_class(function: dict, answers: Callable[[str], str] | None = None) -> type:
    """A tool class of the runtime that is described by exactly this schema.

    Args:
        function: the tool's OpenAI function schema.
        answers: tool name → result; without it the tool of that name in LOCAL runs on the call's arguments.
    """
    from modelscope_agent.tools.base import BaseTool

    required = function["parameters"].get("required", ())

    class Offline(BaseTool):
        name, description = function["name"], function.get("description", "")
        parameters = [{"name": key, "required": key in required} for key in function["parameters"]["properties"]]

        def _build_function(self):
            return {"name": self.name, "description": self.description, "parameters": function["parameters"]}

        def call(self, params, **_):
            return answers(self.name) if answers else LOCAL[self.name](self._verify_args(params))

    return Offline
