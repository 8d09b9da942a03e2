"""Run a program that ends with whoever started it: `with supervised(command, log): ...`.

A server or a training started from a notebook must not outlive it. This file, run as a process of its own, stands
between the two: it starts the program and reads a pipe whose other end only the notebook's process holds. The pipe
closes when the block is left, and also when that process crashes or is killed: then everything the program has started
is ended.
A session of its own (`setsid`) keeps the notebook's stop button away from the program, and marks its whole family, so
that processes whose parent is gone already are found too.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def supervised(command: list[str], log: Path, environment: dict | None = None, *,
               append: bool = False) -> Iterator[subprocess.Popen]:
    """Run `command` for the length of the block; what it prints goes to the file `log`, made anew unless `append`.

    Yields its supervisor's process: it ends when the program does, with the program's exit code. After the block no
    process of the program's session is left, however many it started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a" if append else "w", encoding="utf-8") as output:
        supervisor = subprocess.Popen([sys.executable, __file__, *command], stdin=subprocess.PIPE, stdout=output,
                                      stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        yield supervisor
    finally:
        supervisor.stdin.close()
        try:
            supervisor.wait(timeout=30)
        finally:
            end_session(supervisor.pid)  # nothing is left to do here, unless the supervisor itself was killed


def session(leader: int) -> list[psutil.Process]:
    """The living processes of a session, given its leader's process id; the leader itself and zombies left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):  # it ended meanwhile
            continue
    return found


def end_session(leader: int, patience: float = 5) -> None:
    """End a session's processes, politely first; what is still there after `patience` seconds is killed."""
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in session(leader):
            try:
                send(process)
            except psutil.NoSuchProcess:
                continue
        deadline = time.monotonic() + patience
        while session(leader) and time.monotonic() < deadline:
            time.sleep(0.1)


def cause_in(log: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    # vLLM ends with a line that only points back to the error
    errors = [line for line in lines if re.search(r"Error\b", line) and "root cause above" not in line]
    return (errors or lines or ["no output"])[-1]


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input does; then end what is left of this session."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=lambda: (os.read(0, 1), over.set()), daemon=True).start()
    while program.poll() is None and not over.wait(0.1):
        pass
    end_session(os.getpid())
    return program.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
