"""Where AgentFabric's own source comes from: a checkout of modelscope-agent, named or cloned; never committed."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from helpers import assets

VERSION = "0.7.2"  # later ones have no text format: they send native `tools`
REPOSITORY = "https://github.com/modelscope/modelscope-agent"
GET = f"git clone --depth 1 --branch v{VERSION} {REPOSITORY}"
ROOT = assets.repo_root()


class AppError(RuntimeError):
    """The app cannot be started, or has died; the message says why, and what to do."""


def checked_source(src: str | Path) -> Path:
    """The app's folder in a checkout of modelscope-agent.

    Raises:
        AppError: there is none, or it is of another version.
    """
    folder, version = Path(src).expanduser().absolute() / "apps" / "agentfabric", "unknown"
    if not (folder / "app.py").exists():
        raise AppError(f"{src} is no checkout of modelscope-agent: it has no apps/agentfabric/app.py. Get it with: "
                       f"{GET}")
    file = folder.parents[1] / "modelscope_agent" / "version.py"
    if file.exists():
        version = file.read_text("utf-8").split("=")[-1].strip().strip("'\"")
    if version != VERSION:
        raise AppError(f"{src} holds modelscope-agent {version}; the app is wanted of {VERSION}. In the checkout, run: "
                       f"git fetch --depth 1 origin tag v{VERSION} && git checkout v{VERSION}")
    return folder


def cloned() -> Path:
    """The checkout that `clone` has made.

    Raises:
        AppError: there is none yet.
    """
    target = ROOT / ".cache" / f"modelscope-agent-{VERSION}"
    if not target.exists():
        raise AppError(f"AgentFabric's source is not here. Get it with `{GET}`, and set AGENTFABRIC_SRC=<folder>")
    return target


def clone() -> Path:
    """A checkout of the tag under .cache; cloned on first use.

    Raises:
        AppError: the clone failed; most often there is no way to the net.
    """
    with suppress(AppError):
        return cloned()
    target = ROOT / ".cache" / f"modelscope-agent-{VERSION}"
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    print(f"Cloning {REPOSITORY}, tag v{VERSION} ...", flush=True)
    try:
        done = subprocess.run([*GET.removesuffix(REPOSITORY).split(), "--quiet", REPOSITORY, partial], timeout=300,
                              capture_output=True, encoding="utf-8", env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
        problem = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        raise AppError(f"AgentFabric's source could not be cloned ({problem}). Where there is a network, run `{GET}`; "
                       "bring the folder here and name it: make agentfabric AGENTFABRIC_SRC=<folder>")
    os.replace(partial, target)
    return target
