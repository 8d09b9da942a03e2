"""A scripted teacher, which is no model: a server that answers only the requests it knows."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers.agentfabric import render_call
from helpers.convert import requests_of
from helpers.record.proxy import serving

NAME = "scripted-teacher"


def script_of(rows: Iterable[dict]) -> dict[str, str]:
    """Canonical rows → {a request's messages as JSON text: the reply}. ValueError: two rows answer
    one request differently."""
    script = {}
    for row in rows:
        for messages, reply in requests_of(row):
            reply = reply if isinstance(reply, str) else render_call(**reply)
            if script.setdefault(json.dumps(messages), reply) != reply:
                raise ValueError(f"row {row['id']}: another row answers a request differently")
    return script


@contextmanager
def scripted_teacher(script: dict[str, str]) -> Iterator[str]:
    """Serve the script on 127.0.0.1 for the length of the block; yields the address, with /v1."""

    async def complete(request: Request) -> Response:
        asked = await request.json()
        reply = script.get(json.dumps(asked["messages"]))
        if reply is None:
            said = asked["messages"][-1]["content"][-300:]
            return JSONResponse({"error": {"message": f"not in the script: …{said}"}}, 404)
        if asked.get("stream"):
            return StreamingResponse(_events(reply), media_type="text/event-stream")
        message = {"role": "assistant", "content": reply}
        return JSONResponse(_body("chat.completion", message=message, finish_reason="stop"))

    routes = [Route("/v1/chat/completions", complete, methods=["POST"])]
    with serving(Starlette(routes=routes)) as address:
        yield f"{address}/v1"


def _body(kind: str, **choice) -> dict:
    head = {"id": "scripted", "object": kind, "created": 0, "model": NAME}
    return {**head, "choices": [{"index": 0, **choice}]}


def _events(reply: str) -> Iterator[bytes]:
    """The reply as server-sent events, 40 characters at a time."""
    parts = [({"content": reply[at : at + 40]}, None) for at in range(0, len(reply), 40)]
    for delta, reason in [*parts, ({}, "stop")]:
        event = _body("chat.completion.chunk", delta=delta, finish_reason=reason)
        yield f"data: {json.dumps(event)}\n\n".encode()
    yield b"data: [DONE]\n\n"
