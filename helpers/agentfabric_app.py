"""ModelScope's AgentFabric app on our model: `python -m helpers.agentfabric_app --src DIR` (`make agentfabric`).

The app (modelscope-agent, tag v0.7.2, Apache-2.0, folder apps/agentfabric) runs from a checkout that is only read. It
gets a working folder of its own, runs/agentfabric-<port>, with a configuration written for it: our model registered as
an OpenAI-type server, and a weather assistant with offline tools. `helpers.agentfabric_runtime` starts it from there,
in the environment .venv-agentfabric.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers import assets, finetune, profiles, serving, supervisor
from helpers.agentfabric_source import VERSION, AppError, checked_source, clone
from helpers.engines import ServingError

ROOT = assets.repo_root()
PYTHON = ROOT / ".venv-agentfabric" / "bin" / "python"
# What one would type into the app's Configure tab; the tools are described in data/roleplay/tools.json
ASSISTANT = {
    "en": {"name": "Weather Assistant", "description": "An assistant that looks up the weather.",
           "instruction": "Look up the weather with the tool, then answer.",
           "prompt_recommend": ["What is the weather in Oslo?", "Is it raining in Paris today?"]},
    "zh": {"name": "天气助手", "description": "查询天气的助手。", "instruction": "先用工具查询天气，再回答。",
           "prompt_recommend": ["朝阳区今天天气怎么样？", "西湖区在下雨吗？"]}}


@dataclass(frozen=True)
class App:
    """The running app: its page's address, its log; `process` ends when the app does."""

    url: str
    log: Path
    process: subprocess.Popen


def write_folder(folder: Path, source: Path, url: str, names: list[str], language: str) -> None:
    """Make the app's working folder anew: its configuration, and a link to the source's pictures and styles.

    Args:
        source: the app's folder, see `checked_source`.
        url: the model server's address, ending in /v1.
        names: the served names to offer; the assistant starts with the first.
        language: "en" or "zh", of the assistant and its tools.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    os.symlink(source / "assets", folder / "assets")
    shutil.copy(source / "config" / "custom_bot_avatar.png", folder / "config")
    titles = {"amap_weather": "高德天气 (offline)", "image_gen": "Wanx Image Generation (offline)"}
    tools = {name: {"name": title, "is_active": True, "use": name == "amap_weather"} for name, title in titles.items()}
    assistant = {**ASSISTANT[language], "avatar": "custom_bot_avatar.png", "language": language, "prologue": "",
                 "knowledge": [], "tools": tools, "model": names[0]}
    models = {name: model_entry(url, name) for name in names}
    for name, content in {"model_config": models, "tool_config": tools, "builder_config": assistant}.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / "config" / f"{name}.json").write_text(text, "utf-8")


def model_entry(url: str, name: str) -> dict:
    """A model's entry in AgentFabric's model_config.json: text calls over an OpenAI-compatible server. With
    `is_function_call` the runtime fails on a text prompt, without `is_chat` it sends an empty one."""
    return {"type": "openai", "model": name, "api_base": url, "is_chat": True, "is_function_call": False}


@contextmanager
def launch(source: Path, url: str, names: list[str], *, language: str = "en", port: int = 7860,
           timeout: float = 120) -> Iterator[App]:
    """Run the app on 127.0.0.1 for the length of the block; arguments as for `write_folder`.

    Args:
        port: 0 takes any free one.
        timeout: seconds to wait until its page is there.

    Raises:
        AppError: no environment, the port is in use, or the app did not start.
    """
    if not PYTHON.exists():
        raise AppError("AgentFabric has an environment of its own, not there yet: `make agentfabric` makes it")
    try:
        port = serving.checked_port(port)
    except ServingError as error:
        raise AppError(str(error).split(" Choose")[0] + " Choose another: --port (0: any free one).") from None
    folder = ROOT / "runs" / f"agentfabric-{port}"
    write_folder(folder, source, url, names, language)
    log = folder / "app.log"
    command = [str(PYTHON), "-m", "helpers.agentfabric_runtime", str(source), str(folder), language]
    with supervisor.supervised(command, log, _environment(port)) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}", log, timeout)
        yield App(f"http://127.0.0.1:{port}", log, process)


def _environment(port: int) -> dict:
    """For the app's process: this machine only, no usage reports, no proxy on the way to our server. Its paths are
    relative, because the app replaces the word "user" wherever a path has it, somebody's home included."""
    # a notebook's MPLBACKEND names a module that the app's environment does not have
    return {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8", "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port),
            "GRADIO_ANALYTICS_ENABLED": "False", "DEFAULT_AGENT_DIR": ".", "CODE_INTERPRETER_WORK_DIR": "./files",
            "LOG_LEVEL": "ERROR", "LOG_ENABLE_FILE": "off", "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost"}


def _wait_until_ready(process: subprocess.Popen, url: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AppError(f"the app stopped while starting: {supervisor.cause_in(log)}\nWhole log: {log}")
        try:
            opener.open(url, timeout=10).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AppError(f"the app did not answer within {timeout:g} s; its log ends with: {supervisor.cause_in(log)}\n"
                   f"Whole log: {log}")


def main(arguments: list[str] | None = None) -> int:
    """The command line: the app until Ctrl-C; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, help=f"a checkout of modelscope-agent v{VERSION}; cloned without it")
    parser.add_argument("--endpoint", help="a running server's address, ending in /v1; else the run is served")
    parser.add_argument("--model", default="tuned", help="the served name at --endpoint")
    parser.add_argument("--language", choices=ASSISTANT, default="en", help="of the assistant and its tools")
    parser.add_argument("--port", type=int, default=7860, help="of the page; 0 takes any free one")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is stopped then, too
    try:
        _run(parser.parse_args(arguments))
    except (AppError, ServingError, assets.AssetError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
    return 0


def _run(options: argparse.Namespace) -> None:
    source = checked_source(options.src or clone())
    url, names = options.endpoint, [options.model]
    with ExitStack() as stack:
        if url is None:
            url, names = stack.enter_context(_served_run()), ["tuned", "base"]
        app = stack.enter_context(launch(source, url, names, language=options.language, port=options.port))
        print(f"AgentFabric is at {app.url} (model {names[0]} at {url}). Ctrl-C stops it.", flush=True)
        app.process.wait()
        raise AppError(f"the app stopped: {supervisor.cause_in(app.log)}\nWhole log: {app.log}")


@contextmanager
def _served_run() -> Iterator[str]:
    """The address of base and tuned model of the profile's run."""
    profile = profiles.current()
    checkpoint = finetune.find(profile).checkpoints[-1].path
    if checkpoint is None:
        raise AppError(f"the profile {profile.name} has no trained run: run lesson 04, or give --endpoint and --model")
    with serving.deploy(profile, {"tuned": checkpoint}, port=0) as server:
        yield server.url


if __name__ == "__main__":
    sys.exit(main())
