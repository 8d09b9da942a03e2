"""The real ModelScope-Agent on a model: its app, its RolePlay, or RolePlay beside our loop."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from helpers import assets, profiles, serving
from helpers.assets import processes
from helpers.runtime import agreement, app, roleplay
from helpers.serving.server import last_checkpoint, stopped


def run_app(options: argparse.Namespace) -> None:
    """The AgentFabric app until Ctrl-C, on --endpoint or on the profile's run."""
    source, profile = app.checked_source(options.src or app.clone()), profiles.current()
    url, names = options.endpoint, [options.model]
    with ExitStack() as stack:
        if url is None:
            adapters, names = {"tuned": last_checkpoint(profile)}, ["tuned", "base"]
            url = stack.enter_context(serving.deploy(profile, adapters, port=0)).url
        launched = app.launch(source, url, names, language=options.language, port=options.port)
        page = stack.enter_context(launched)
        print(f"AgentFabric: {page.url} (model {names[0]} at {url}). Ctrl-C stops it.", flush=True)
        page.process.wait()
        raise stopped("the app", page.log)


def run_roleplay(options: argparse.Namespace) -> None:
    """Episodes of a file through RolePlay."""
    try:
        rows = assets.read_jsonl(options.episodes)
    except (OSError, ValueError) as error:
        raise assets.KitError(f"cannot read {options.episodes} as .jsonl: {error}") from None
    settings = {"timeout": options.timeout, "parallel": options.parallel}
    roleplay.episodes(rows, options.to, options.model, options.out, **settings)


def run_agreement(options: argparse.Namespace) -> None:
    """RolePlay beside our loop, and the table."""
    profile = profiles.current()
    root = agreement.KEPT if options.keep else assets.ROOT / "runs"
    folder = agreement.make(profile, options.cases, root / f"agreement-{profile.name}")
    print(agreement.table(folder).to_string(), f"Transcripts: {folder}", sep="\n\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with a message on what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m helpers.runtime", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("app", help="the AgentFabric app, until Ctrl-C (make agentfabric)")
    one.set_defaults(run=run_app)
    one.add_argument("--src", type=Path, help=f"modelscope-agent v{app.VERSION}; else cloned")
    one.add_argument("--endpoint", help="a server's address, ending in /v1; else the run is served")
    one.add_argument("--model", default="tuned", help="the served name at --endpoint")
    one.add_argument("--language", choices=app.ASSISTANT, default="en", help="of the assistant")
    one.add_argument("--port", type=int, default=7860, help="of the page; 0 takes any free one")
    one = commands.add_parser("roleplay", help="episodes through the real RolePlay")
    one.set_defaults(run=run_roleplay)
    one.add_argument("episodes", type=Path, help="a .jsonl file, see helpers/runtime/roleplay.py")
    one.add_argument("--to", required=True, help="the endpoint's address, ending in /v1")
    one.add_argument("--model", required=True, help="the model's served name")
    one.add_argument("--out", type=Path, required=True, help="the .jsonl file of transcripts")
    one.add_argument("--timeout", type=float, default=120, help="seconds to wait for one reply")
    one.add_argument("--parallel", type=int, default=1, help="episodes under way at once")
    one = commands.add_parser("agreement", help="RolePlay beside our loop, case by case")
    one.set_defaults(run=run_agreement)
    one.add_argument("--cases", type=int, default=100)
    one.add_argument("--keep", action="store_true", help="maintainers: write to data/runs")
    options = parser.parse_args(arguments)
    return processes.command(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
