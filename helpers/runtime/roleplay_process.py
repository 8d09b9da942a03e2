"""Drive ModelScope-Agent's own RolePlay, with tools that need no network.

Runs in .venv-roleplay only; `helpers.runtime.roleplay` starts it. The runtime writes the prompts,
reads the replies and words every error itself. Here it gets its client and its tools.
"""
# ruff: noqa: E402

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

os.chdir(sys.prefix)  # importing the runtime unpacks nltk's data into the current folder

import httpx
import openai
from modelscope_agent.agents.role_play import RolePlay
from modelscope_agent.callbacks import BaseCallback
from modelscope_agent.llm.openai import OpenAi

from helpers.agentfabric import DEFAULT_INSTRUCTION, cut_at_stop, function_of, user_message
from helpers.runtime.tools import recorded, tool_class

# tool → the variable with the key of its real service
KEYS = {"amap_weather": "AMAP_TOKEN", "image_gen": "DASHSCOPE_API_KEY"}


def main(asked: str, out: str, url: str, model: str, timeout: float, parallel: int) -> None:
    """Run the episodes of the file `asked`; add a line to `out` as soon as each is over."""
    local = url.startswith(("http://127.0.0.1", "http://localhost"))
    http = openai.DefaultHttpxClient(trust_env=not local)  # no proxy leads to this machine
    access = {"base_url": url, "api_key": os.environ.get("OPENAI_API_KEY", "EMPTY")}
    client = openai.OpenAI(**access, timeout=timeout, max_retries=1, http_client=http)
    run, served = partial(transcript, client=client, model=model), [model]
    with open(asked) as lines, open(out, "a") as file, ThreadPoolExecutor(parallel) as pool:
        try:
            with suppress(openai.APIStatusError, ValueError, TypeError, AttributeError):
                # some servers do not list their models
                served = [one.id for one in client.with_options(timeout=10).models.list().data]
            if model not in served:
                sys.exit(f"Error: {url} serves no model {model!r}, but {', '.join(served)}")
            for one in pool.map(run, map(json.loads, lines)):
                file.write(json.dumps(one, ensure_ascii=False) + "\n")
                file.flush()
        except openai.APIConnectionError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            problem = f"ConnectionError: no connection to {url} ({error.__cause__ or error})"
            sys.exit(
                f"{problem}. Start the server, then run the same again: what was made is kept."
            )


def transcript(episode: dict, client: openai.OpenAI, model: str) -> dict:
    """One episode → `{"id", "steps", "requests", "error", "key"}`, steps as `agent.run` gives them.
    Where a reply does not come, the last step is "gave_up". Raises openai.APIConnectionError."""
    heard, tools, query = _Listener(client, model), _tools(episode), episode["query"]
    history, knowledge = episode.get("history") or [], episode.get("knowledge") or ""
    language, _ = user_message([], query, history=history, knowledge=knowledge)
    role = episode.get("instruction") or DEFAULT_INSTRUCTION[language]  # as the runtime chooses
    own = [name for name, tool in tools.items() if tool is None]
    agent = RolePlay(own, heard, instruction=role, callbacks=heard)
    # as if they were registered, but for this agent alone: the registry is the whole process's
    agent.function_map = {name: tool or agent.function_map[name] for name, tool in tools.items()}
    given = {"history": history, "ref_doc": knowledge}
    error = None
    try:
        for _ in agent.run(query, **{key: one for key, one in given.items() if one}):
            pass
    except (openai.APITimeoutError, httpx.TimeoutException):  # before a stream begins; within it
        error = f"no reply within {client.timeout:g} s"
    except openai.APIConnectionError:
        raise
    except Exception as problem:  # what a malformed reply makes of the runtime ends only this one
        error = f"{type(problem).__name__}: {str(problem)[:300]}"
    steps = [step for step in heard.steps if step["call"] or not error]
    if not steps or steps[-1]["call"]:
        steps.append(_step("gave_up"))
    made = {"steps": steps, "requests": heard.requests, "error": error}
    return {"id": episode["id"], **made, "key": episode["key"]}


def _step(kind: str, raw: str = "", finished: bool = True) -> dict:
    """A step as `helpers.agent` has it, but its request, which follows from the steps before."""
    step = {"kind": kind, "text": cut_at_stop(raw), "call": None}
    return {**step, "raw": raw, "finished": finished, "result": None}


class _Listener(OpenAi, BaseCallback):
    """The runtime's own client class on our connection, and what it tells of its tool calls."""

    def __init__(self, client: openai.OpenAI, model: str):
        settings = {"is_chat": True, "is_function_call": False, "api_base": str(client.base_url)}
        super().__init__(model, "openai", **settings)
        self.client, self.requests, self.steps = client, 0, []

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
        self.steps.append(_step("answer", text, reason != "length"))

    def on_tool_start(self, name, arguments):
        self.steps[-1] |= {"kind": "call", "call": {"name": name, "arguments": arguments}}

    def on_tool_end(self, name, result):
        self.steps[-1]["result"] = str(result)


def _tools(episode: dict) -> dict:
    """Each tool by its name: with the episode's recorded results, else ours, else None for the
    runtime's own, where the variable with its key is set."""
    results, tools = episode.get("results"), {}
    answers = recorded(results) if results is not None else None
    for function in map(function_of, episode["tools"]):
        own = answers is None and os.environ.get(KEYS.get(function["name"], ""))
        tools[function["name"]] = None if own else tool_class(function, answers)({})
    return tools


if __name__ == "__main__":
    main(*sys.argv[1:5], float(sys.argv[5]), int(sys.argv[6]))
