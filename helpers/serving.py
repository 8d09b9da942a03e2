"""Serve a model and its adapters behind an OpenAI-compatible endpoint on this machine: `with deploy(profile, ...)`.

The servers to choose from are those of `helpers.engines`: "swift", "vllm" and "swift-vllm".

`python -m helpers.serving` serves the profile's trained run until Ctrl-C (`make serve`).
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import psutil
from tqdm import tqdm

from helpers import assets, finetune, merging, profiles, supervisor
from helpers.endpoint import Endpoint
from helpers.engines import ENGINES, Service, ServingError
from helpers.profiles import Profile

LISTENS = re.compile(r" on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Server:
    """A running server: `url` ends in /v1; `names` maps None (the base model) and adapter folders to served names;
    `process` ends when the server does."""

    url: str
    names: dict[Path | None, str]
    log: Path
    process: subprocess.Popen


@contextmanager
def deploy(profile: Profile, adapters: dict[str, str | Path] | None = None, *, engine: str = "swift",
           name: str = "base", port: int = 8000, agent_template: str = "react_en",
           timeout: float = 600) -> Iterator[Server]:
    """Serve the profile's model for the length of the block, on 127.0.0.1 only; it is stopped however the block ends.

    Args:
        adapters: served name → checkpoint folder; each is served beside the base model.
        engine: one of `engines.ENGINES`.
        name: the base model's served name.
        port: 0 takes any free one.
        agent_template: how ms-swift writes native `tools` into the prompt (the "swift" engines only).
        timeout: seconds to wait until the server answers.

    Raises:
        assets.AssetError: a model or adapter folder is missing or incomplete.
        ServingError: the port is in use, vLLM is not installed, or the server did not start.
    """
    folders = {served: merging.checked_adapter(folder) for served, folder in (adapters or {}).items()}
    port = checked_port(port)
    service = Service(profile, assets.model_dir(profile.model), name, folders, port, agent_template)
    command, environment = ENGINES[engine](service)
    log = assets.repo_root() / "runs" / profile.name / "serving" / f"{engine}-{port}.log"
    names = {None: name, **{Path(folder): served for served, folder in (adapters or {}).items()}}
    with supervisor.supervised([str(part) for part in command], log, environment) as process:
        started = time.monotonic()
        url = _wait_until_ready(process, log, set(names.values()), timeout, engine)
        moved = "" if url.endswith(f":{port}/v1") else f" (port {port} was not free yet)"
        print(f"{engine} serves {', '.join(names.values())} at {url}{moved} after {time.monotonic() - started:.0f} s; "
              f"log: {os.path.relpath(log, assets.repo_root())}", flush=True)
        yield Server(url, names, log, process)


def checked_port(port: int) -> int:
    """The port, if no program listens on it; for 0, one that is free.

    Raises:
        ServingError: it is in use; the program is named where the system tells.
    """
    with socket.socket() as probe:
        # as servers do: a port that merely cools down after the last connection counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
        except (OSError, OverflowError) as error:
            raise ServingError(f"port {port} cannot be used: {_listener(port) or error}. Choose another (port=…, or "
                               "make serve PORT=…; 0 takes any free one).") from None


def _listener(port: int) -> str:
    """Who listens on a port, in words; empty where nobody does, or the system does not tell."""
    try:
        found = [one.pid for one in psutil.net_connections("tcp")
                 if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
        return f"in use by {psutil.Process(found[0]).name()} (process {found[0]})" if found and found[0] else ""
    except psutil.Error:
        return ""


def _wait_until_ready(process: subprocess.Popen, log: Path, names: set[str], timeout: float, engine: str) -> str:
    """The endpoint's address, once the server lists every name. The port comes from the server's own log: `swift
    deploy` silently takes the next one where its port is busy, and a stranger might answer at the one asked for."""
    deadline = time.monotonic() + timeout
    patience = 0.5 if sys.stderr.isatty() else 10  # seconds between signs of life in a log file
    with tqdm(desc=f"starting {engine}", leave=False, bar_format="{desc}: {elapsed}{postfix}",
              mininterval=patience) as bar:
        while time.monotonic() < deadline:
            text = log.read_text("utf-8", errors="replace")
            if process.poll() is not None:
                raise ServingError(f"{engine} stopped while starting: {supervisor.cause_in(log)}\nWhole log: {log}")
            found = LISTENS.search(text)
            if found and names <= _served(f"http://127.0.0.1:{found[1]}/v1"):
                return f"http://127.0.0.1:{found[1]}/v1"
            bar.set_postfix_str((text.splitlines() or [""])[-1][:80], refresh=False)
            bar.update()
            time.sleep(0.5)
    raise ServingError(f"{engine} did not answer within {timeout:g} s; its log ends with: {supervisor.cause_in(log)}\n"
                       f"Whole log: {log}. A slow machine may need a larger timeout.")


def _served(url: str) -> set[str]:
    try:
        return {model.id for model in Endpoint(url, {}, timeout=5).client().models.list()}
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):  # not there yet, or something else answers
        return set()


def main(arguments: list[str] | None = None) -> int:
    """The command line: serve base and tuned model of the profile's run until Ctrl-C, or the server's end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="swift")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    parser.add_argument("--adapter", type=Path, help="a checkpoint to serve as `tuned`; the run's last without it")
    parser.add_argument("--merged", action="store_true", help="merge it and serve the result alone, which is faster")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    try:
        _serve_run(parser.parse_args(arguments))
    except (assets.AssetError, merging.MergeError, ServingError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
    return 0


def _serve_run(options: argparse.Namespace) -> None:
    profile = profiles.current()
    adapter = options.adapter or finetune.find(profile).checkpoints[-1].path
    if adapter is None:
        raise ServingError(f"the profile {profile.name} has no trained run yet: run lesson 04, or name --adapter")
    what = {"adapters": {"tuned": adapter}}
    if options.merged:
        profile, what = replace(profile, model=str(merging.merge(profile, adapter))), {"name": "tuned"}
    with deploy(profile, **what, engine=options.engine, port=options.port) as server:
        body = """'{"model": "tuned", "messages": [{"role": "user", "content": "Hello"}]}'"""
        print(f"Try:  curl {server.url}/chat/completions -H 'Content-Type: application/json' -d {body}\n"
              "Ctrl-C stops it.", flush=True)
        server.process.wait()
        raise ServingError(f"the server stopped: {supervisor.cause_in(server.log)}\nWhole log: {server.log}")


if __name__ == "__main__":
    sys.exit(main())
