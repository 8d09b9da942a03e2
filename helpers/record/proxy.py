"""A recorder between a client and an OpenAI-compatible server. It passes all on and keeps chats.

Each chat completion becomes one line `{"time", "request", "reply", "status"}` with the two bodies.
A streamed reply is put together. Headers, and with them keys, are never kept.
"""

import json
import os
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

LOCAL = ("http://127.0.0.1", "http://localhost")
NOT_PASSED_ON = {"host", "connection", "content-length", "transfer-encoding"}
NOT_PASSED_ON |= {"content-encoding", "accept-encoding"}
BROKEN_OFF = {"error": "the reply broke off"}


def application(to: str, out: Path, timeout: float = 300) -> Starlette:
    """The recorder as a web application.

    Args:
        to: the server's address, ending in /v1.
        out: the .jsonl file; lines are added to it.
        timeout: seconds without a byte from the server until a request counts as failed.
    """
    waits = httpx.Timeout(timeout, connect=10)
    # a proxy named in the environment cannot reach a server on this machine
    client = httpx.AsyncClient(timeout=waits, trust_env=not to.startswith(LOCAL))

    async def forward(request: Request) -> Response:
        body, path = await request.body(), request.path_params["path"]

        def keep(status: int, reply: object) -> None:
            if path.endswith("chat/completions"):
                _add_line(out, {"request": _json(body), "reply": reply, "status": status})

        sent = client.build_request(
            request.method,
            f"{to.removesuffix('/')}/{path}",
            params=request.query_params,
            headers=_passed_on(request.headers),
            content=body,
        )
        try:
            reply = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            reason = f"the recorder got no answer from {to} ({error!r}): is that server running?"
            failed = {"error": {"message": reason, "type": "recorder", "code": 502}}
            keep(502, failed)
            return JSONResponse(failed, 502)
        return StreamingResponse(_pass(reply, keep), reply.status_code, _passed_on(reply.headers))

    @asynccontextmanager
    async def closing(_):
        yield
        await client.aclose()

    routes = [Route("/v1/{path:path}", forward, methods=["GET", "POST", "DELETE"])]
    return Starlette(routes=routes, lifespan=closing)


def _passed_on(headers) -> dict:
    return {key: value for key, value in headers.items() if key not in NOT_PASSED_ON}


async def _pass(reply: httpx.Response, keep: Callable) -> AsyncIterator[bytes]:
    """The server's bytes as they come; kept at the end, also if one side goes away before."""
    passed, complete = b"", False
    try:
        async for chunk in reply.aiter_bytes():
            passed += chunk
            yield chunk
        complete = True
    finally:
        keep(reply.status_code, whole_reply(passed) if complete else BROKEN_OFF)
        await reply.aclose()


def _add_line(out: Path, line: dict) -> None:
    """One write on a file opened for appending, so that replies that end together do not mix."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **line}
    text = json.dumps(line, ensure_ascii=False) + "\n"
    file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(file)


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
    for line in body.splitlines():
        event = _json(line.removeprefix(b"data:").strip())
        if not line.startswith(b"data:") or not isinstance(event, dict):
            continue
        if "error" in event:
            return event
        for choice in (event.get("choices") or [])[:1]:
            text += (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or reason
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


@contextmanager
def recording(to: str, out: str | Path, *, port: int = 0, timeout: float = 300) -> Iterator[str]:
    """Record for the length of the block; yields the address for clients. Port 0 takes a free one.

    Raises:
        KitError: the port is in use, `to` is no address, or the file cannot be written.
    """
    out = Path(out)
    if not to.startswith(("http://", "https://")):
        raise KitError(f"{to!r} is no address; give one such as http://127.0.0.1:8000/v1")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        open(out, "ab").close()
    except OSError as error:
        raise KitError(f"cannot write {out}: {error.strerror}") from None
    with serving(application(to, out, timeout), port) as address:
        yield f"{address}/v1"


@contextmanager
def serving(app: Starlette, port: int = 0) -> Iterator[str]:
    """Serve a web application on 127.0.0.1, in a thread, for the length of the block; yields its
    address. KitError: the port is in use."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=5
    )
    try:
        socket = config.bind_socket()
    except SystemExit:  # uvicorn's answer to a port in use
        raise KitError(f"port {port} is in use; choose another, or 0 for a free one") from None
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        socket.close()
