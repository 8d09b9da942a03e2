"""Record what a model is asked and answers, and make canonical rows of it.

python -m helpers.record proxy --to http://127.0.0.1:8000/v1 --port 8900 --out recordings.jsonl
python -m helpers.record rows recordings.jsonl --out rows.jsonl
"""

import argparse
import json
import sys
import threading

from helpers.assets import processes
from helpers.record import proxy, rows


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser("python -m helpers.record")
    commands = parser.add_subparsers(required=True, dest="command")
    record = commands.add_parser("proxy", help="pass requests on and keep them, until Ctrl-C")
    record.add_argument("--to", required=True, help="the server's address, ending in /v1")
    record.add_argument("--port", type=int, default=8900, help="0 takes a free port")
    record.add_argument("--out", default="recordings.jsonl", help="gets a line per chat")
    convert = commands.add_parser("rows", help="make canonical rows")
    convert.add_argument("recordings", help="a file of recordings, or of AgentFabric conversations")
    convert.add_argument("--out", required=True, help="the .jsonl file of rows")
    convert.add_argument("--source", default="recorded", help="who made the replies")
    asked = parser.parse_args(arguments)

    def work() -> None:
        if asked.command == "rows":
            print(json.dumps(rows.convert(asked.recordings, asked.out, asked.source), indent=1))
            return
        with proxy.recording(asked.to, asked.out, port=asked.port) as url:
            print(f"{url} passes on to {asked.to} and keeps chats in {asked.out}", flush=True)
            threading.Event().wait()

    return processes.command(work)


if __name__ == "__main__":
    sys.exit(main())
