"""Serve base and tuned model of the profile's run until Ctrl-C (`make serve`)."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from helpers import profiles
from helpers.assets import processes
from helpers.serving import deploy, merge
from helpers.serving.engines import ENGINES
from helpers.serving.server import last_checkpoint, stopped


def serve(options: argparse.Namespace) -> None:
    """Serve what the options name until Ctrl-C. Raises KitError: it cannot start, or has died."""
    profile = profiles.current()
    adapter = options.adapter or last_checkpoint(profile)
    what = {"adapters": {"tuned": adapter}}
    if options.merged:
        profile, what = replace(profile, model=str(merge(profile, adapter))), {"name": "tuned"}
    with deploy(profile, **what, engine=options.engine, port=options.port) as server:
        body = '{"model": "tuned", "messages": [{"role": "user", "content": "Hello"}]}'
        header = "-H 'Content-Type: application/json'"
        print(f"Try:  curl {server.url}/chat/completions {header} -d '{body}'")
        print("Ctrl-C stops it.", flush=True)
        server.process.wait()
        raise stopped("the server", server.log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m helpers.serving", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="swift")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    parser.add_argument("--adapter", type=Path, help="to serve as `tuned`; else the run's newest")
    parser.add_argument("--merged", action="store_true", help="serve it merged, alone: faster")
    asked = parser.parse_args()
    sys.exit(processes.command(lambda: serve(asked)))
