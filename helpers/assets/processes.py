"""How commands end, programs that end with this one, and what this machine and its versions are."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from helpers.assets.files import ROOT, KitError

PACKAGES = ("ms-swift", "torch", "transformers", "peft", "trl", "datasets", "modelscope")
# Ends its process group when its standard input closes: by us, or because we were killed.
GUARD = "exec >/dev/null 2>&1; trap '' TERM; read _; kill -TERM 0; sleep 5; kill -KILL 0"


def command(work: Callable[[], object], told: str = "Stopped.", code: int = 0) -> int:
    """Do a command's work; returns its exit code. What a user can mend (KitError, ValueError) is
    printed, without a traceback, and is 1. Ctrl-C is `told` and gives `code`; a SIGTERM also ends
    whatever the work has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        work()
    except (KitError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{told}", file=sys.stderr)
        return code
    return 0


@contextmanager
def running(command, log: Path, environment=None, append=False) -> Iterator[subprocess.Popen]:
    """Run a program for the length of the block; what it prints goes to the file `log`.

    All processes of its group end with the block, and also when this process is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "env": environment}
    with open(log, "ab" if append else "wb") as output:
        command = [str(part) for part in command]
        process = subprocess.Popen(command, stdout=output, process_group=0, **options)
    with subprocess.Popen(GUARD, shell=True, stdin=subprocess.PIPE, process_group=process.pid):
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_error(log: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    # the last error of vLLM only points back to the one that matters
    errors = [line for line in lines if "Error" in line and "cause above" not in line]
    return ["no output", *(errors or filter(None, lines))][-1]


def child_environment() -> dict:
    """For ms-swift's processes: no hub is asked, because that waits when offline."""
    offline = {"HF_HUB_OFFLINE": "1", "MODELSCOPE_OFFLINE": "1"}
    quiet = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, **quiet}


def environment() -> dict:
    """Git revision, versions and hardware of this machine; no path, user or host name."""
    import torch

    git = ""
    with suppress(OSError):  # git is not installed
        command = "git describe --always --exclude=* --abbrev=40 --dirty".split()
        git = subprocess.run(command, cwd=ROOT, capture_output=True).stdout.decode().strip()
    facts = {"git": git.removesuffix("-dirty") or None, "git_dirty": git.endswith("-dirty")}
    versions = {name: version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpu = torch.cpu.get_capabilities().get("cpu_name", os.uname().machine)
    hardware = {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "threads": torch.get_num_threads()}
    return {**facts, "python": sys.version.split()[0], "versions": versions, "hardware": hardware}
