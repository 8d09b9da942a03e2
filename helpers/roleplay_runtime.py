"""Drive ModelScope-Agent's own RolePlay, with tools that need no network.

Runs in `.venv-roleplay` only, where modelscope-agent 0.7.2 is; `helpers.roleplay` is the way to it. The runtime writes
the prompts, reads the replies and words every error itself; here it gets its client and its tools, nothing else.
"""

import contextlib
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import httpx
import openai
from modelscope_agent.agents.role_play import RolePlay
from modelscope_agent.callbacks import BaseCallback
from modelscope_agent.llm.openai import OpenAi
from modelscope_agent.tools.base import BaseTool

from helpers.agent import Step
from helpers.agentfabric import DEFAULT_INSTRUCTION, Call, cut_at_stop, function_of, user_message
from helpers.roleplay import RolePlayError
from helpers.roleplay_tools import recorded, tool_class
from helpers.storage import write_jsonl

KEYS = {"amap_weather": "AMAP_TOKEN", "image_gen": "DASHSCOPE_API_KEY"}  # tool → the variable its real service needs


def make_visits(visits: list[dict], client: openai.OpenAI, model: str, out: Path, parallel: int) -> None:
    """Make the visits that `out` does not hold yet. A transcript is kept, in a file beside it, as soon as it is there;
    `out` appears, or is renewed, when all are. A line of progress is printed for each visit.

    Raises:
        RolePlayError: nobody listens any more.
    """
    kept = out.with_name(f".{out.name}.partial")
    before = _transcripts(out) | _transcripts(kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    make, progress = partial(_make, client=client, model=model, before=before), sys.stdout
    with (open(kept, "a", encoding="utf-8") as file, ThreadPoolExecutor(parallel) as pool,
          contextlib.redirect_stdout(sys.stderr)):  # the runtime prints what it likes
        try:
            for number, one in enumerate(pool.map(make, visits), 1):
                before[one["id"]] = one
                file.write(json.dumps(one, ensure_ascii=False) + "\n")
                file.flush()
                print(f"{number} of {len(visits)}: {one['id']}: {one['error'] or one['steps'][-1]['kind']}",
                      file=progress, flush=True)
        except BaseException as problem:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(problem, openai.APIConnectionError):
                raise RolePlayError(f"the connection to {client.base_url} broke. See why the server stopped; then "
                                    "run the same again: what was made is kept") from None
            raise
    write_jsonl(out, before.values())
    kept.unlink()


def _make(visit: dict, client: openai.OpenAI, model: str, before: dict[str, dict]) -> dict:
    """A visit's transcript, the one made before if there is one: of this same visit and model, without an error."""
    key = hashlib.sha256(json.dumps([visit, model], sort_keys=True).encode("utf-8")).hexdigest()[:16]
    old = before.get(visit["id"])
    if old and old["key"] == key and not old["error"]:
        return old
    return {**run_visit(visit, client, model), "key": key}


def _transcripts(file: Path) -> dict[str, dict]:
    """Id → transcript; a last line that an interrupt cut off is passed over."""
    found = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            one = json.loads(line)
            found[one["id"]] = one
    return found


def run_visit(visit: dict, client: openai.OpenAI, model: str) -> dict:
    """One visit (see `helpers.roleplay`) → `{"id", "steps", "requests", "error"}`, its steps as `agent.run` gives them.

    A reply that does not come is the visit's `error`, and its last step is "gave_up".

    Raises:
        openai.APIConnectionError: nobody listens any more.
    """
    heard = _Listener(client, model)
    tools = _tools(visit)
    agent = RolePlay(function_list=[name for name, tool in tools.items() if tool is None], llm=heard,
                     instruction=_instruction(visit), callbacks=heard.calls)
    # what registering them would come to, but for this agent alone: the registry is one for the whole process
    agent.function_map = {name: tool or agent.function_map[name] for name, tool in tools.items()}
    given = {"history": visit.get("history"), "ref_doc": visit.get("knowledge")}
    error = None
    try:
        for _ in agent.run(visit["query"], **{key: value for key, value in given.items() if value}):
            pass
    except (openai.APITimeoutError, httpx.TimeoutException):  # the first before a stream begins, the second within it
        error = f"no reply within {client.timeout:g} s"
    except openai.APIConnectionError:
        raise
    except Exception as problem:  # whatever a server's malformed reply makes of the runtime ends this visit only
        error = f"{type(problem).__name__}: {str(problem)[:300]}"
    return {"id": visit["id"], "steps": _steps(heard, error), "requests": heard.requests, "error": error}


class _Calls(BaseCallback):
    """The runtime tells each tool call and its result to its callbacks."""

    def __init__(self):
        self.made = []

    def on_tool_start(self, name, arguments):
        self.made.append([Call(name, arguments), None])

    def on_tool_end(self, name, result):
        self.made[-1][1] = str(result)


class _Listener(OpenAi):
    """The runtime's own client class, with our connection; it counts requests, and keeps each reply and its end."""

    def __init__(self, client: openai.OpenAI, model: str):
        super().__init__(model, "openai", is_chat=True, is_function_call=False, api_base=str(client.base_url))
        self.client, self.calls, self.requests, self.replies = client, _Calls(), 0, []

    def chat(self, *arguments, **named):
        self.requests += 1
        return super().chat(*arguments, **named)

    def stat_last_call_token_info_stream(self, response):
        text, reason = "", None
        for chunk in super().stat_last_call_token_info_stream(response):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            yield chunk
        if reason is None:
            raise ConnectionError("the reply broke off")
        self.replies.append((text, reason != "length"))


def _steps(heard: _Listener, error: str | None) -> list[dict]:
    """The transcript as plain objects; what was sent is left out, as it follows from the rest."""
    return [{key: value for key, value in asdict(step).items() if key != "messages"}
            for step in _made_steps(heard, error)]


def _made_steps(heard: _Listener, error: str | None) -> list[Step]:
    steps = [Step("call", cut_at_stop(raw), call=call, raw=raw, finished=finished, result=result)
             for (raw, finished), (call, result) in zip(heard.replies, heard.calls.made)]
    if error or len(heard.replies) == len(heard.calls.made):
        return [*steps, Step("gave_up")]
    raw, finished = heard.replies[-1]
    return [*steps, Step("answer", cut_at_stop(raw), raw=raw, finished=finished)]


def _instruction(visit: dict) -> str | dict:
    """The visit's, or the kit's default in the language that the runtime will choose."""
    if visit.get("instruction"):
        return visit["instruction"]
    language, _ = user_message([], visit["query"], history=visit.get("history") or (), knowledge=visit.get("knowledge"))
    return DEFAULT_INSTRUCTION[language]


def _tools(visit: dict) -> dict[str, BaseTool | None]:
    """Each tool by its name: with the visit's recorded answers, else ours, else None for the runtime's own, where the
    variable with its key is set."""
    answers = recorded(visit["results"]) if visit.get("results") is not None else None
    tools = {}
    for function in map(function_of, visit["tools"]):
        name = function["name"]
        if answers is None and os.environ.get(KEYS.get(name, "")):
            tools[name] = None
        else:
            tools[name] = tool_class(function, answers)({})
    return tools
