"""Episodes through ModelScope-Agent's real RolePlay, against any OpenAI-compatible endpoint.

An episode is one user turn: `{"id", "query", "tools"}`. It may have `results` (what the tools
answer: `[tool, result]` pairs in order; without them those of `tools.LOCAL` run), `instruction`
(text, or RolePlay's `{"name", "description", "instruction"}`), `history` and `knowledge`.
RolePlay has an environment of its own (`make roleplay`), where `roleplay_process` runs.
"""

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from helpers import assets
from helpers.agent import Step
from helpers.agentfabric import function_of
from helpers.assets import KitError, processes
from helpers.convert import trace_text, turns_of
from helpers.evaluate import step_of
from helpers.runtime.tools import LOCAL

PYTHON = assets.ROOT / ".venv-roleplay" / "bin" / "python"
# How RolePlay words a role, and the app every role (agents/role_play.py, _parse_role_config_*)
ROLE = {
    "zh": "你扮演AI-Agent，你的名字是{name}。{description}\n你具有下列具体功能：{instruction}\n"
    "下面你将开始扮演{name}",
    "en": "You are playing as an AI-Agent, Your name is {name}.{description}\nYou have the "
    "following specific functions:{instruction}\nNow you will start playing as{name}",
}


@dataclass(frozen=True)
class Transcript:
    """What became of an episode: its `steps` (as `agent.run` gives them), how many `requests` the
    model got, what went wrong, if anything did. key: stands for the episode and the model."""

    id: str
    steps: list[Step]
    requests: int
    error: str | None
    key: str


def role_text(role: dict, language: str) -> str:
    """The instruction that RolePlay makes of `{"name", "description", "instruction"}`."""
    return ROLE[language].format(**role)


def role_of(text: str) -> dict:
    """The role that an instruction was made of; ValueError where `role_text` made it of none."""
    for template in ROLE.values():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*?)", re.escape(template), count=3)
        found = re.fullmatch(pattern.replace(r"\{name\}", "(?P=name)"), text, re.S)
        if found:
            return found.groupdict()
    raise ValueError(f"not an instruction that RolePlay makes of a role: {text[:80]!r}")


def episodes_of(row: dict) -> list[dict]:
    """A canonical row with results as episodes, one for each user turn; earlier turns are its
    history, as the app keeps them. A row of one turn keeps its id."""
    turns, history, made = turns_of(row), [], []
    instruction = role_of(row["instruction"]) if row.get("role") else row.get("instruction")
    for number, turn in enumerate(turns, 1):
        name = row["id"] if len(turns) == 1 else f"{row['id']}#{number}"
        results = [[call["name"], result] for call, result in turn.calls]
        one = {"id": name, "query": turn.query, "tools": row["tools"], "results": results}
        one |= {"instruction": instruction, "knowledge": row.get("knowledge")}
        made.append({**one, "history": list(history)})
        history.append({"role": "user", "content": turn.query})
        history.append({"role": "assistant", "content": trace_text(turn)})
    return made


def episodes(
    rows: list[dict], url: str, model: str, out: Path, *, timeout=120.0, parallel=1, quiet=False
) -> list[Transcript]:
    """Run episodes through the real RolePlay; their transcripts, in order.

    url: ends in /v1. model: its served name. out: a .jsonl file, to which each transcript goes as
    soon as it is there; what it holds without an error is not made again. timeout: seconds for one
    reply. parallel: episodes under way at once. KitError: malformed episode, no endpoint or model.
    """
    if not PYTHON.exists():
        raise KitError("RolePlay has an environment of its own: make it with `make roleplay`")
    rows, out = [_checked(number, row) for number, row in enumerate(rows, 1)], Path(out).absolute()
    kept, todo = {one["id"]: one for one in _lines(out)}, []
    for row in rows:
        text = json.dumps([row, model], sort_keys=True)
        key = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        one = kept.get(row["id"])
        if one is None or one["key"] != key or one["error"]:
            todo.append({**row, "key": key})
    if todo:
        assets.write_jsonl(out, kept.values())  # without a line that an interrupt has cut off
        _run(todo, out, [url, model, timeout, parallel], quiet)
        kept = {one["id"]: one for one in _lines(out)}
    found = [kept[row["id"]] for row in rows]
    return [Transcript(**one | {"steps": list(map(step_of, one["steps"]))}) for one in found]


def _lines(out: Path) -> list[dict]:
    """The transcripts of a file; a last line that an interrupt cut off is passed over."""
    text = out.read_text("utf-8", errors="replace") if out.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _run(todo: list[dict], out: Path, server: list, quiet: bool) -> None:
    """Run `roleplay_process`, which adds a line to `out` for each episode of `todo`."""
    log, asked, before = out.with_suffix(".log"), out.with_suffix(".todo"), len(_lines(out))
    assets.write_jsonl(asked, todo)
    # else the runtime logs every token, and the key
    silent = {"LOG_LEVEL": "CRITICAL", "LOG_ENABLE_FILE": "off", "PYTHONUTF8": "1"}
    path = os.pathsep.join([str(assets.ROOT), os.environ.get("PYTHONPATH", "")])
    command = [PYTHON, "-m", "helpers.runtime.roleplay_process", asked, out, *server]
    environment = {**os.environ, **silent, "PYTHONPATH": path}
    bar = tqdm(desc="RolePlay", total=len(todo), unit="episode", disable=quiet)
    with processes.running(command, log, environment) as child, bar:
        while child.poll() is None:
            time.sleep(0.5)
            bar.update(len(_lines(out)) - before - bar.n)
    asked.unlink()
    if child.returncode:
        raise KitError(f"RolePlay: {processes.last_error(log)}\nWhole log: {log}")


def _checked(number: int, row: dict) -> dict:
    lacking = {"id", "query", "tools"} - set(row if isinstance(row, dict) else ())
    if lacking:
        raise KitError(f"episode {number}: no {', '.join(sorted(lacking))}")
    unknown = {function_of(tool)["name"] for tool in row["tools"]} - set(LOCAL)
    if unknown and row.get("results") is None:
        problem = f"episode {number}: no results for {', '.join(sorted(unknown))}"
        raise KitError(f"{problem}; the tools that need none are {', '.join(LOCAL)}")
    return row
