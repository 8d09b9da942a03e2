"""ModelScope's AgentFabric app on our model.

The app (modelscope-agent v0.7.2, Apache-2.0) runs from a checkout, which is only read, in the
environment .venv-agentfabric. `launch` writes the configuration in its working folder: our model
as an OpenAI-type server, and a weather assistant with offline tools.
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers import assets
from helpers.assets import KitError, processes
from helpers.runtime.tools import data
from helpers.serving.server import Server, checked_port, until_ready

PYTHON = assets.ROOT / ".venv-agentfabric" / "bin" / "python"
VERSION = "0.7.2"  # later ones have no text format: they send native `tools`
CHECKOUT = assets.ROOT / ".cache" / f"modelscope-agent-{VERSION}"
GET = f"git clone --depth 1 --branch v{VERSION} https://github.com/modelscope/modelscope-agent".split()
TITLES = {"amap_weather": "高德天气 (offline)", "image_gen": "Wanx Image Generation (offline)"}
ASSISTANT = data("assistants")  # by language: what one would type into the app's Configure tab


def checked_source(src: str | Path) -> Path:
    """The app's folder in a checkout; a KitError where there is none, or of another version."""
    checkout = Path(src).expanduser().absolute()
    folder, file = checkout / "apps" / "agentfabric", checkout / "modelscope_agent" / "version.py"
    text = file.read_text("utf-8") if file.exists() else "unknown"
    version = text.split("=")[-1].strip().strip("'\"")
    if not (folder / "app.py").exists():
        problem = "is no checkout of modelscope-agent: it has no apps/agentfabric/app.py"
    elif version != VERSION:
        problem = f"holds modelscope-agent {version}; the app is wanted of {VERSION}"
    else:
        return folder
    raise KitError(f"{src} {problem}. Get it with: {' '.join(GET)}")


def cloned() -> Path:
    """The checkout that `clone` has made; a KitError where there is none yet."""
    if CHECKOUT.exists():
        return CHECKOUT
    problem = f"AgentFabric's source is not here. Where there is a network, run `{' '.join(GET)}`"
    raise KitError(f"{problem}; bring the folder here and name it: AGENTFABRIC_SRC=<folder>.")


def clone() -> Path:
    """A checkout of the tag under .cache; cloned on first use. KitError: that failed."""
    if not CHECKOUT.exists() and shutil.which("git"):
        with assets.whole_file(CHECKOUT) as part:
            quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
            if subprocess.run([*GET, part], env=quiet).returncode:  # git says why
                cloned()
    return cloned()


def model_entry(url: str, name: str) -> dict:
    """A model's entry in AgentFabric's model_config.json. With `is_function_call` the runtime fails
    on a text prompt, without `is_chat` it sends an empty one."""
    served = {"type": "openai", "model": name, "api_base": url}
    return {**served, "is_chat": True, "is_function_call": False}


def write_folder(folder: Path, source: Path, url: str, names: list[str], language: str) -> None:
    """Make the app's working folder anew. source: see `checked_source`. url: the model server's.
    names: served models to offer, the assistant's first. language: its and the tools', en or zh."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    os.symlink(source / "assets", folder / "assets")
    shutil.copy(source / "config" / "custom_bot_avatar.png", folder / "config")
    tools = {}
    for tool in data("tools")[language]:
        name = tool["function"]["name"]
        tools[name] = {"name": TITLES[name], "is_active": True, "use": name == "amap_weather"}
    assistant = {**ASSISTANT[language], "avatar": "custom_bot_avatar.png", "language": language}
    assistant |= {"prologue": "", "knowledge": [], "tools": tools, "model": names[0]}
    models = {name: model_entry(url, name) for name in names}
    contents = {"model_config": models, "tool_config": tools, "builder_config": assistant}
    for name, content in contents.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / "config" / f"{name}.json").write_text(text, "utf-8")


@contextmanager
def launch(
    source: Path, url: str, names: list[str], *, language="en", port=7860, timeout=120.0
) -> Iterator[Server]:
    """Run the app on 127.0.0.1 for the length of the block; arguments as for `write_folder`. Waits
    `timeout` seconds for its page; port 0 is any free one. KitError: it could not be started."""
    if not PYTHON.exists():
        raise KitError("AgentFabric has an environment of its own: make it with `make agentfabric`")
    port = checked_port(port)
    folder, address = assets.ROOT / "runs" / f"agentfabric-{port}", f"http://127.0.0.1:{port}"
    write_folder(folder, source, url, names, language)
    log, opener = folder / "app.log", urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def page() -> str:
        with suppress(OSError):
            opener.open(address, timeout=10).close()
            return address
        return ""

    here = "127.0.0.1,localhost"  # no proxy on the way to our server
    network = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    network |= {"NO_PROXY": here, "no_proxy": here, "GRADIO_ANALYTICS_ENABLED": "False"}
    # relative paths, because the app replaces the word "user" wherever a path has it
    paths = {"DEFAULT_AGENT_DIR": ".", "CODE_INTERPRETER_WORK_DIR": "./files"}
    python = {"PYTHONPATH": str(assets.ROOT), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    # a notebook's MPLBACKEND is a module that this environment does not have
    python |= {"MPLBACKEND": "agg", "LOG_LEVEL": "ERROR", "LOG_ENABLE_FILE": "off"}
    environment = {**os.environ, **network, **paths, **python}
    command = [PYTHON, "-m", "helpers.runtime.app_process", source, folder, language]
    with processes.running(command, log, environment) as process:
        yield Server(until_ready(page, process, log, "AgentFabric", timeout), {}, log, process)
