"""A recorder between a client and an OpenAI-compatible server, on 127.0.0.1: all passes through, chats are kept.

    python -m helpers.recorder --to http://127.0.0.1:8000/v1 --port 8900 --out recordings.jsonl

Each chat completion becomes one line `{"time", "request", "reply", "status"}`: the two bodies as they passed, a
streamed reply put together into the form of a whole one. Headers, and with them keys, are never kept.
`helpers.recordings` makes training rows of such a file.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LOCAL = ("http://127.0.0.1", "http://localhost")
HOP = {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "accept-encoding"}


class RecorderError(RuntimeError):
    """The recorder cannot start; the message says why, and what to do."""


def application(to: str, out: Path, timeout: float = 300) -> Starlette:
    """The recorder as a web application.

    Args:
        to: the server's address, ending in /v1.
        out: the .jsonl file; what it holds stays.
        timeout: seconds without a byte from the server before the request counts as failed.
    """
    # a proxy from the environment cannot reach a server on this machine
    client = httpx.AsyncClient(timeout=httpx.Timeout(timeout, connect=10), trust_env=not to.startswith(LOCAL))

    async def forward(request: Request) -> Response:
        body = await request.body()
        keep = _keeper(out, body) if request.url.path.endswith("/chat/completions") else lambda *_: None
        headers = {key: value for key, value in request.headers.items() if key not in HOP}
        sent = client.build_request(request.method, f"{to.removesuffix('/')}/{request.path_params['path']}",
                                    params=request.query_params, headers=headers, content=body)
        try:
            reply = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            return _failed(f"the recorder got no answer from {to} ({type(error).__name__}: {error}); is the server "
                           "running, and at this address?", keep)
        return StreamingResponse(_passing(reply, keep), reply.status_code, {
            key: value for key, value in reply.headers.items() if key not in HOP})

    @asynccontextmanager
    async def closing(_):
        yield
        await client.aclose()

    return Starlette(routes=[Route("/v1/{path:path}", forward, methods=["GET", "POST", "DELETE"])], lifespan=closing)


def _failed(message: str, keep) -> JSONResponse:
    body = {"error": {"message": message, "type": "recorder", "code": 502}}
    keep(502, json.dumps(body).encode("utf-8"), True)
    return JSONResponse(body, 502)


async def _passing(reply: httpx.Response, keep) -> AsyncIterator[bytes]:
    """The server's bytes as they come; they are kept at the end, also where server or client goes away before it."""
    passed, complete = [], False
    try:
        async for chunk in reply.aiter_bytes():
            passed.append(chunk)
            yield chunk
        complete = True
    finally:
        keep(reply.status_code, b"".join(passed), complete)
        await reply.aclose()


def _keeper(out: Path, request: bytes):
    """(status, reply's bytes, whether all of them) → a line of the file. One write on a file opened for appending: a
    line is there whole or not at all, however many replies end at once."""
    def keep(status: int, reply: bytes, complete: bool) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "request": _json(request),
                "reply": whole_reply(reply) if complete else {"error": "the reply broke off"}, "status": status}
        text = json.dumps(line, ensure_ascii=False) + "\n"
        file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)
    return keep


def _json(body: bytes) -> object:
    """A body's JSON, or its text where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def whole_reply(body: bytes) -> object:
    """A reply's body; a stream of server-sent events is put together: `{"choices": [{"message", "finish_reason"}]}`."""
    if not body.lstrip().startswith(b"data:"):
        return _json(body)
    text, reason = "", None
    for line in body.decode("utf-8", "replace").splitlines():
        event = _json(line.removeprefix("data:").strip().encode("utf-8")) if line.startswith("data:") else None
        if isinstance(event, dict) and "error" in event:
            return event
        for choice in (event.get("choices") or [])[:1] if isinstance(event, dict) else ():
            text += (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or reason
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


@contextmanager
def recording(to: str, out: str | Path, *, port: int = 0, timeout: float = 300) -> Iterator[str]:
    """Record for the length of the block; yields the address to give to clients instead of the server's.

    Args:
        to, out, timeout: as for `application`.
        port: 0 takes a free one.

    Raises:
        RecorderError: the port is in use, the address is none, or the file cannot be written.
    """
    out = Path(out)
    if not to.startswith(("http://", "https://")):
        raise RecorderError(f"{to!r} is no address; give one such as http://127.0.0.1:8000/v1")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        open(out, "ab").close()
    except OSError as error:
        raise RecorderError(f"cannot write {out}: {error.strerror}") from None
    with serving(application(to, out, timeout), port) as address:
        yield f"{address}/v1"


@contextmanager
def serving(app: Starlette, port: int = 0) -> Iterator[str]:
    """Serve a web application on 127.0.0.1, in a thread, for the length of the block; yields its address.

    Raises:
        RecorderError: the port is in use.
    """
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=5)
    try:
        socket = config.bind_socket()
    except SystemExit:  # uvicorn's answer to a port in use
        raise RecorderError(f"port {port} is in use; choose another, or 0 for a free one") from None
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


def main(arguments: list[str] | None = None) -> int:
    """The command line: record until Ctrl-C; 1 with one line on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, help="the server's address, ending in /v1")
    parser.add_argument("--port", type=int, default=8900, help="where the recorder listens; 0 takes a free port")
    parser.add_argument("--out", default="recordings.jsonl", help="the .jsonl file that grows by a line per chat")
    options = parser.parse_args(arguments)
    try:
        with recording(options.to, options.out, port=options.port) as url:
            print(f"{url} passes on to {options.to} and records into {options.out}; Ctrl-C ends it", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except RecorderError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
