"""Start AgentFabric's own app.py, unchanged, with one fault mended and tools that need no network.

Runs in .venv-agentfabric only; `helpers.runtime.app` starts it: source, working folder, language.
"""

import os
import runpy
import sys
from pathlib import Path

from helpers.runtime.tools import ROOT, data, tool_class


def without_token(chat):
    """Drop the `user_token` that the app sends along: the openai client refuses such requests
    ("Max retries reached")."""

    def mended(self, *arguments, **named):
        named.pop("user_token", None)
        return chat(self, *arguments, **named)

    return mended


def shown_in_the_app(offline: type) -> type:
    """The tool class with a picture's address as Gradio serves it, seen from the working folder."""

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
    for tool in data("tools")[language]:
        offline = tool_class(tool["function"])
        register_tool(offline.name)(shown_in_the_app(offline))
    pictures = ROOT / "runs" / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    gradio.set_static_paths([pictures])
    sys.path.insert(0, source)
    sys.argv = ["app.py"]
    runpy.run_path(str(Path(source) / "app.py"), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
