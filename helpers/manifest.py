"""The manifest of a run: everything a reader needs to know where its numbers came from."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ms-swift", "torch", "transformers", "peft", "trl", "datasets", "modelscope")


def environment() -> dict:
    """Git revision, package versions and hardware of this machine; no path, user or host name in it."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"git": _git("rev-parse", "HEAD"), "git_dirty": bool(_git("status", "--porcelain", "-uno")),
            "python": platform.python_version(), "versions": {name: _version(name) for name in PACKAGES},
            "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": gpu, "threads": torch.get_num_threads()}}


def write(folder: Path, **facts) -> None:
    """Write `manifest.json` into a run folder: `facts` first, then the environment. Written last and atomically, so
    its presence means that the run is finished."""
    partial = folder / ".manifest.partial"
    partial.write_text(json.dumps({**facts, **environment()}, indent=1, ensure_ascii=False, default=str), "utf-8")
    os.replace(partial, folder / "manifest.json")


def read(folder: Path) -> dict:
    """The manifest of a finished run."""
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()
