"""Start AgentFabric's own app.py, unchanged, with one fault mended and tools that need no network.

Runs in `.venv-agentfabric` only; `helpers.agentfabric_app` starts it: source folder, working folder, language.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from helpers.roleplay_tools import ROOT, tool_class


def without_token(chat: Callable) -> Callable:
    """The app hands ModelScope's `user_token` on with every request, and the openai client, which knows no such
    argument, refuses them all ("Max retries reached"): drop it on the way."""
    @wraps(chat)
    def mended(self, *arguments, **named):
        named.pop("user_token", None)
        return chat(self, *arguments, **named)

    return mended


def shown_in_the_app(offline: type) -> type:
    """The tool class with a picture's address as Gradio serves it, relative to the working folder."""
    class Shown(offline):
        def call(self, params, **named):
            return super().call(params, **named).replace("(../runs/", "(/file=../")

    return Shown


def main(source: str, folder: str, language: str) -> None:
    """Register the tools, mend the client, run the app; ends with the process."""
    os.chdir(folder)  # app.py reads ./config and ./assets
    import gradio
    from modelscope_agent.llm.openai import OpenAi
    from modelscope_agent.tools.base import register_tool

    OpenAi.chat = without_token(OpenAi.chat)
    for tool in json.loads((ROOT / "data/roleplay/tools.json").read_text("utf-8"))[language]:
        register_tool(tool["function"]["name"])(shown_in_the_app(tool_class(tool["function"])))
    pictures = ROOT / "runs" / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    gradio.set_static_paths([pictures])
    sys.path.insert(0, source)
    sys.argv = ["app.py"]
    runpy.run_path(str(Path(source) / "app.py"), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
