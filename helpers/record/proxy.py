"""A recorder between a client and an OpenAI-compatible server. It passes all on and keeps chats.

Each chat completion becomes one line `{"time", "request", "reply", "status"}` with the two bodies.
A streamed reply is put together. Headers, and with them keys, are never kept.
"""

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers.assets import KitError

TIMEOUT = httpx.Timeout(300, connect=10)  # seconds without a byte from the server
LOCAL = ("http://127.0.0.1", "http://localhost")
HOP = "host connection content-length transfer-encoding content-encoding accept-encoding".split()


def application(to: str, out: Path) -> Starlette:
    """The recorder as a web application; for `to` and `out` see `recording`."""
    # a proxy named in the environment cannot reach a server on this machine
    client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=not to.startswith(LOCAL))

    async def forward(request: Request) -> Response:
        body, url = await request.body(), f"{to.removesuffix('/')}/{request.path_params['path']}"

        def keep(reply: object, status: int) -> None:
            if url.endswith("/chat/completions"):
                now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                line = {"time": now, "request": _json(body), "reply": reply, "status": status}
                text = json.dumps(line, ensure_ascii=False) + "\n"
                with open(out, "ab", buffering=0) as file:  # one write: lines never mix
                    file.write(text.encode("utf-8", "backslashreplace"))

        asked = {"params": request.query_params, "headers": _passed_on(request.headers)}
        sent = client.build_request(request.method, url, **asked, content=body)
        try:
            reply = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            reason = f"the recorder got no answer from {to} ({error!r}): is that server running?"
            failed = {"error": {"message": reason, "type": "recorder", "code": 502}}
            keep(failed, 502)
            return JSONResponse(failed, 502)
        return StreamingResponse(_pass(reply, keep), reply.status_code, _passed_on(reply.headers))

    @asynccontextmanager
    async def closing(_):
        yield
        await client.aclose()

    routes = [Route("/v1/{path:path}", forward, methods=["GET", "POST", "DELETE"])]
    return Starlette(routes=routes, lifespan=closing)


def _passed_on(headers) -> dict:
    return {key: value for key, value in headers.items() if key not in HOP}


async def _pass(reply: httpx.Response, keep: Callable) -> AsyncIterator[bytes]:
    """The server's bytes as they come; kept at the end, also if one side goes away before."""
    passed, complete = b"", False
    try:
        async for chunk in reply.aiter_bytes():
            passed += chunk
            yield chunk
        complete = True
    finally:
        broken = {"error": "the reply broke off"}
        keep(whole_reply(passed) if complete else broken, reply.status_code)
        await reply.aclose()


def _json(body: bytes) -> object:
    """A body's JSON, or its text where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def whole_reply(body: bytes) -> object:
    """A reply's body; a stream comes out as `{"choices": [{"message", "finish_reason"}]}`."""
    if not body.lstrip().startswith(b"data:"):
        return _json(body)
    text, reason = "", None
    events = [_json(line[5:].strip()) for line in body.splitlines() if line.startswith(b"data:")]
    for event in (event for event in events if isinstance(event, dict)):
        if "error" in event:
            return event
        for choice in (event.get("choices") or [])[:1]:
            text += (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or reason
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


@contextmanager
def recording(to: str, out: str | Path, *, port: int = 0) -> Iterator[str]:
    """Record into `out`, which grows, what the server at `to` is asked in the block. Yields the
    address for clients. Both end in /v1; port 0 is a free one. KitError: it cannot start."""
    out = Path(out)
    if not to.startswith(("http://", "https://")):
        raise KitError(f"{to!r} is no address; give one such as http://127.0.0.1:8000/v1")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        open(out, "ab").close()
    except OSError as error:
        raise KitError(f"cannot write {out}: {error.strerror}") from None
    with serving(application(to, out), port) as address:
        yield f"{address}/v1"


@contextmanager
def serving(app: Starlette, port: int = 0) -> Iterator[str]:
    """Serve a web application on 127.0.0.1, in a thread, for the length of the block; yields its
    address. KitError: the port is in use."""
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError:
        raise KitError(f"port {port} is in use; choose another, or 0 for a free one") from None
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        listening.close()
