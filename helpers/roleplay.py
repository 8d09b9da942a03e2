"""Visits through ModelScope-Agent's real RolePlay, against any OpenAI-compatible endpoint.

    .venv-roleplay/bin/python -m helpers.roleplay v.jsonl --to http://127.0.0.1:8000/v1 --model smol --out done.jsonl

A visit is one user turn: `{"id", "query", "tools"}`, and as needed `results` (`[tool, result]` pairs in order: what the
tools answer; without them the tools of `roleplay_tools.LOCAL` run), `instruction` (text, or RolePlay's own
`{"name", "description", "instruction"}`), `history` and `knowledge`. Its transcript is
`{"id", "steps", "requests", "error"}`, with steps as `helpers.agent` makes them, so that both loops are scored alike.

The program runs in an environment of its own (`make roleplay`); `visits` calls it from the kit's.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers.agent import Step
from helpers.agentfabric import Call, function_of
from helpers.corpus import trace_text, turns_of
from helpers.roleplay_tools import LOCAL
from helpers.storage import read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-roleplay" / "bin" / "python"
# How RolePlay writes a role of its own, and the app every role (agents/role_play.py, _parse_role_config_*)
_ROLE = {"zh": "你扮演AI-Agent，你的名字是{name}。{description}\n你具有下列具体功能：{instruction}\n"
               "下面你将开始扮演{name}",
         "en": "You are playing as an AI-Agent, Your name is {name}.{description}\nYou have the following specific "
               "functions:{instruction}\nNow you will start playing as{name}"}


class RolePlayError(RuntimeError):
    """The visits could not be made; the message says why, and what to do."""


@dataclass(frozen=True)
class Transcript:
    """What became of a visit: its `steps` (as `agent.run` gives them), the number of `requests` to the model, and what
    went wrong, if anything did."""

    id: str
    steps: tuple[Step, ...]
    requests: int
    error: str | None


def role_text(role: dict, language: str) -> str:
    """The instruction that RolePlay makes of `{"name", "description", "instruction"}`."""
    return _ROLE[language].format(**role)


def role_of(text: str) -> dict:
    """The role that an instruction text was made of; the inverse of `role_text`.

    Raises:
        ValueError: it was made of none.
    """
    for template in _ROLE.values():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*?)", re.escape(template), count=3)
        found = re.fullmatch(pattern.replace(r"\{name\}", "(?P=name)"), text, re.S)
        if found:
            return found.groupdict()
    raise ValueError(f"not an instruction that RolePlay makes of a role: {text[:80]!r}")


def visits_of(row: dict) -> list[dict]:
    """A canonical row (with results) as visits, one for each user turn; earlier turns are its history, as the app
    keeps them. A row of one turn keeps its id."""
    turns, history, made = turns_of(row), [], []
    for number, turn in enumerate(turns):
        made.append({"id": row["id"] if len(turns) == 1 else f"{row['id']}#{number + 1}", "query": turn.query,
                     "tools": row["tools"], "results": [[call["name"], result] for call, result in turn.calls],
                     "instruction": role_of(row["instruction"]) if row.get("role") else row.get("instruction"),
                     "history": list(history), "knowledge": row.get("knowledge")})
        history += [{"role": "user", "content": turn.query}, {"role": "assistant", "content": trace_text(turn)}]
    return made


def visits(rows: Iterable[dict], url: str, model: str, out: str | Path, *, timeout: float = 120,
           parallel: int = 1, quiet: bool = False) -> list[Transcript]:
    """Make visits through the real RolePlay, in a process of its environment; transcripts in the visits' order.

    Args:
        rows: visits, see above.
        url: the endpoint's address, ending in /v1.
        model: its served name.
        out: the .jsonl file of transcripts; visits that it holds already, without an error, are not made again.
        timeout: seconds to wait for one reply.
        parallel: visits under way at once.
        quiet: show no progress bar.

    Raises:
        RolePlayError: no environment, no endpoint, no such model, a malformed visit.
    """
    from tqdm.auto import tqdm

    if not PYTHON.exists():
        raise RolePlayError("ModelScope-Agent has an environment of its own, not there yet: run `make roleplay`")
    rows, out = list(rows), Path(out).absolute()
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "errors", "w+", encoding="utf-8") as errors:
        write_jsonl(Path(folder) / "visits.jsonl", rows)
        command = [PYTHON, "-m", "helpers.roleplay", Path(folder) / "visits.jsonl", "--to", url, "--model", model,
                   "--out", out, "--timeout", timeout, "--parallel", parallel]
        child = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors,
                                 encoding="utf-8")
        try:
            with tqdm(total=len(rows), desc="RolePlay", unit="visit", mininterval=1, disable=quiet) as bar:
                for _ in child.stdout:
                    bar.update()
            code = child.wait()
        finally:
            child.kill()
            child.wait()
        if code:
            errors.seek(0)
            raise RolePlayError((errors.read().strip() or f"RolePlay ended with code {code}").splitlines()[-1])
    found = {one.id: one for one in read_transcripts(out)}
    return [found[row["id"]] for row in rows]


def read_transcripts(path: str | Path) -> list[Transcript]:
    """The transcripts of a file, in its order."""
    return [Transcript(one["id"], tuple(
        Step(**{**step, "messages": (), "call": Call(**step["call"]) if step["call"] else None})
        for step in one["steps"]), one["requests"], one["error"]) for one in read_jsonl(path)]


def _read_visits(path: Path) -> list[dict]:
    """The visits of a file.

    Raises:
        RolePlayError: no such file, or the line that is no visit.
    """
    try:
        rows = read_jsonl(path)
    except OSError as error:
        raise RolePlayError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RolePlayError(f"{path} is not .jsonl: {error}") from None
    for number, row in enumerate(rows, 1):
        lacking = {"id", "query", "tools"} - set(row if isinstance(row, dict) else ())
        if lacking:
            raise RolePlayError(f"{path}, visit {number}: no {', '.join(sorted(lacking))}")
        unknown = {function_of(tool)["name"] for tool in row["tools"]} - set(LOCAL)
        if unknown and row.get("results") is None:
            raise RolePlayError(f"{path}, visit {number}: no results for {', '.join(sorted(unknown))}; the tools that "
                                f"need none are {', '.join(LOCAL)}")
    return rows


def _connect(url: str, model: str, timeout: float):
    """An `openai` client of an endpoint that is there and serves the model. It waits `timeout` seconds for a reply
    (the runtime's own waits ten minutes), and goes through a proxy only to other machines.

    Raises:
        RolePlayError: nobody answers, or the model is not served.
    """
    import openai

    local = url.startswith(("http://127.0.0.1", "http://localhost"))
    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"), timeout=timeout,
                           max_retries=1, http_client=openai.DefaultHttpxClient(trust_env=not local))
    try:
        served = [one.id for one in client.with_options(timeout=10).models.list().data]
    except openai.APIConnectionError as error:
        raise RolePlayError(f"no connection to {url} ({error.__cause__ or error}). Start the server, or give the right "
                            "address; it ends in /v1") from None
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):
        return client  # a server that does not list its models
    if model not in served:
        raise RolePlayError(f"{url} serves no model {model!r}, but {', '.join(served) or 'none at all'}")
    return client


def main(arguments: list[str] | None = None) -> int:
    """The command line, for `.venv-roleplay`; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("visits", type=Path, help="the .jsonl file of visits")
    parser.add_argument("--to", required=True, help="the endpoint's address, ending in /v1")
    parser.add_argument("--model", required=True, help="the model's served name")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file of transcripts")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to wait for one reply")
    parser.add_argument("--parallel", type=int, default=1, help="visits under way at once")
    options = parser.parse_args(arguments)
    try:
        rows, out = _read_visits(options.visits), options.out.absolute()
        client = _connect(options.to, options.model, options.timeout)
        _runtime().make_visits(rows, client, options.model, out, options.parallel)
    except RolePlayError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _runtime():
    """The module that drives the runtime, loaded only now: it takes seconds, and needs its own environment."""
    os.environ.update(LOG_LEVEL="CRITICAL", LOG_ENABLE_FILE="off")  # else it logs every token, and the key
    os.chdir(sys.prefix)  # it unpacks nltk's data into the folder that it is started in
    try:
        with contextlib.redirect_stdout(sys.stderr), contextlib.redirect_stderr(open(os.devnull, "w")):
            from helpers import roleplay_runtime
    except ImportError as error:
        raise RolePlayError(f"RolePlay cannot be loaded here ({error}). Make its environment with `make roleplay`, and "
                            "run .venv-roleplay/bin/python -m helpers.roleplay") from None
    return roleplay_runtime


if __name__ == "__main__":
    from helpers import roleplay  # the module that the runtime imports too, so that its errors are caught here

    sys.exit(roleplay.main())
