"""A scripted teacher: an OpenAI-compatible server that plays a model's part from a script. It is not a model.

It answers the requests that it knows, word for word, and refuses every other: so whoever gets an answer has sent, byte
for byte, what the script's author wrote down.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers.agentfabric import render_call
from helpers.corpus import wire_requests
from helpers.recorder import serving

NAME = "scripted-teacher"


def script_of(rows: Iterable[dict]) -> dict[str, str]:
    """The script of canonical rows: each request of theirs as JSON text → the reply that a row has for it.

    Raises:
        ValueError: two rows answer one request differently.
    """
    script: dict[str, str] = {}
    for row in rows:
        for messages, reply in wire_requests(row):
            reply = reply if isinstance(reply, str) else render_call(**reply)
            if script.setdefault(json.dumps(messages), reply) != reply:
                raise ValueError(f"row {row['id']}: another row answers {messages[-1]['content'][-80:]!r} differently")
    return script


@contextmanager
def scripted_teacher(script: dict[str, str]) -> Iterator[str]:
    """Serve the script on 127.0.0.1 for the length of the block; yields the address, which ends in /v1."""

    async def complete(request: Request) -> Response:
        asked = await request.json()
        reply = script.get(json.dumps(asked["messages"]))
        if reply is None:
            said = asked["messages"][-1]["content"]
            return JSONResponse({"error": {"message": f"not in the script: …{said[-300:]}"}}, 404)
        body = {"id": "scripted", "object": "chat.completion", "created": 0, "model": asked["model"]}
        if asked.get("stream"):
            return StreamingResponse(_events(body, reply), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        return JSONResponse({**body, "choices": [choice]})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model", "created": 0,
                                                         "owned_by": "agentfabric-kit"}]})

    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), Route("/v1/models", models)]
    with serving(Starlette(routes=routes)) as address:
        yield f"{address}/v1"


def _events(body: dict, reply: str) -> Iterator[bytes]:
    """The reply as server-sent events, a few words at a time."""
    parts = [{"content": reply[at:at + 40]} for at in range(0, len(reply), 40)]
    for delta, reason in [*((part, None) for part in parts), ({}, "stop")]:
        chunk = {**body, "object": "chat.completion.chunk",
                 "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"
