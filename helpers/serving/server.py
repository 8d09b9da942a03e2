"""Serve models on this machine: `with deploy(profile, {"tuned": checkpoint}) as server: ...`"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil

from helpers import assets, train
from helpers.assets import KitError, processes
from helpers.model import Endpoint
from helpers.profiles import Profile
from helpers.serving.engines import command_of
from helpers.serving.merging import checked_adapter

LISTENS = re.compile(r" on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Server:
    """A running server. `url` ends in /v1. `names`: None (the base model) or an adapter's folder →
    served name. `process` ends when the server does."""

    url: str
    names: dict[Path | None, str]
    log: Path
    process: subprocess.Popen


@contextmanager
def deploy(
    profile: Profile,
    adapters: dict[str, str | Path] | None = None,
    *,
    engine: str = "swift",
    name: str = "base",
    port: int = 8000,
    agent_template: str = "react_en",
    timeout: float = 600,
) -> Iterator[Server]:
    """Serve the profile's model as `name` for the length of the block, on 127.0.0.1 only.

    adapters: served name → checkpoint folder, each beside the base model. engine: one of ENGINES.
    port: 0 takes any free one. agent_template: how ms-swift writes native `tools` into the prompt.
    timeout: seconds to wait until the server answers. Raises KitError: a model or adapter is
    missing or incomplete, the port is in use, vLLM is not installed, the server did not start.
    """
    adapters = adapters or {}
    pairs = [f"{served}={checked_adapter(folder)}" for served, folder in adapters.items()]
    names = {None: name, **{Path(folder): served for served, folder in adapters.items()}}
    port, model = checked_port(port), assets.model_dir(profile.model)
    command, environment = command_of(engine, profile, model, name, pairs, port)
    command += ["--agent_template", agent_template] if "swift" in engine else []
    log = assets.ROOT / "runs" / profile.name / "serving" / f"{engine}-{port}.log"

    def address() -> str:
        # The port comes from the server's own log: `swift deploy` silently takes the next one
        # where its port is busy, and a stranger might answer at the one asked for.
        found = LISTENS.search(log.read_text("utf-8", errors="replace"))
        url = f"http://127.0.0.1:{found[1]}/v1" if found else ""
        return url if url and set(names.values()) <= _served(url) else ""

    with processes.running(command, log, environment) as process:
        started = time.monotonic()
        url = until_ready(address, process, log, engine, timeout)
        seconds, place = time.monotonic() - started, os.path.relpath(log, assets.ROOT)
        what = f"{engine} serves {', '.join(names.values())} at {url}"
        print(f"{what} after {seconds:.0f} s; log: {place}", flush=True)
        yield Server(url, names, log, process)


def until_ready(
    ready: Callable[[], str], process: subprocess.Popen, log: Path, what: str, timeout: float
) -> str:
    """What `ready` says in the end. KitError: the process has ended, or `timeout` seconds have."""
    print(f"Starting {what} ...", flush=True)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise stopped(what, log, f"stopped while starting (exit code {process.returncode})")
        if said := ready():
            return said
        time.sleep(0.5)
    raise stopped(what, log, f"did not answer within {timeout:g} s (a larger timeout may help)")


def stopped(what: str, log: Path, problem: str = "stopped") -> KitError:
    """The error that says why a server is not there."""
    return KitError(f"{what} {problem}: {processes.last_error(log)}\nWhole log: {log}")


def _served(url: str) -> set[str]:
    try:
        return {model.id for model in Endpoint(url, {}, timeout=5).client().models.list()}
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):
        return set()  # not there yet, or something else answers


def checked_port(port: int) -> int:
    """The port, if it is free; for 0, a free one. A KitError names the program that holds it."""
    with socket.socket() as probe:
        # as servers do: a port that merely cools down after the last connection counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
        except (OSError, OverflowError) as error:
            problem = f"port {port} cannot be used: {_listener(port) or error}."
            raise KitError(f"{problem} Choose another; 0 takes any free one.") from None


def _listener(port: int) -> str:
    """Who listens on a port, in words; empty where the system does not tell."""
    with suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f"in use by {psutil.Process(one.pid).name()} (process {one.pid})"
    return ""


def last_checkpoint(profile: Profile) -> Path:
    """The newest checkpoint of the profile's run; a KitError where there is none."""
    checkpoint = train.open_run(profile).checkpoints[-1].path
    if checkpoint is None:
        raise KitError(f"the profile {profile.name} has no trained run yet: run lesson 04 first")
    return checkpoint
