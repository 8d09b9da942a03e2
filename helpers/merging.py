"""Merge a checkpoint's adapter into its base model, and check that the merged model is still the same model.

Merging adds LoRA's product B·A·(alpha/r) to each weight matrix once, instead of at every token (Hu et al. 2021,
arXiv 2106.09685, section 4.1). The result is an ordinary model folder that any server can load.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers import assets, finetune, supervisor
from helpers.downloads import finished_folder, write_source
from helpers.profiles import Profile

# Largest difference of a logit that merging may make. In float32 only the order of additions differs (1.4e-4 was seen
# with SmolLM2). A merged bfloat16 weight is rounded once more, to 8 bits: 0.36 was seen, enough to change 2 texts of 6.
TOLERANCE = {"float32": 1e-3, "bfloat16": 1.0}


class MergeError(RuntimeError):
    """Merging failed; the message names the cause and the log."""


@dataclass(frozen=True)
class Comparison:
    """Merged against base plus adapter: largest difference of a logit, and how many greedy texts of `n` are equal."""

    logit_difference: float
    tolerance: float
    same_text: int
    n: int

    @property
    def same(self) -> bool:
        """Whether the logits agree within the tolerance. Within that of float32, greedy texts are the same, too."""
        return self.logit_difference <= self.tolerance


def merge(profile: Profile, checkpoint: str | Path) -> Path:
    """The merged model of a checkpoint, as `<run>/merged/<checkpoint>`; made once by `swift export`, then reused.

    It keeps the number format of the base model's own files, so that nothing is rounded that need not be.

    Raises:
        assets.AssetError: the base model cannot be had, or the checkpoint is incomplete, or the disk is full.
        MergeError: ms-swift failed; the log is named.
    """
    adapter = checked_adapter(checkpoint)
    final = adapter.parent.parent / "merged" / adapter.name  # not beside it: there, it would pass for a checkpoint
    made_from = assets.sha256_of(adapter / "adapter_model.safetensors")
    if final.exists():
        if json.loads((final / "SOURCE.json").read_text("utf-8")).get("adapter_sha256") == made_from:
            return final
        raise MergeError(f"{final} was merged from another adapter than {adapter} holds now. Delete it and try again.")
    base, log = assets.model_dir(profile.model), final.parent / f"{adapter.name}.log"
    with finished_folder(final) as part:
        part.rmdir()  # ms-swift does nothing where the folder exists already
        _export(profile, base, adapter, part, log)
        write_source(part, f"{adapter.name} merged into {base.name}", adapter_sha256=made_from)
    return assets.model_dir(str(final))


def checked_adapter(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint, if it holds a complete adapter.

    Raises:
        assets.AssetError: a file is missing; it says which.
    """
    folder = Path(checkpoint)
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise assets.AssetError(f"no complete adapter in {folder}: {' and '.join(missing)} missing. Name a checkpoint "
                                "folder of a training run (lesson 04).")
    return folder.resolve()


def _export(profile: Profile, base: Path, adapter: Path, target: Path, log: Path) -> None:
    command = [sys.executable, "-m", "swift.cli.export", "--model", base, "--model_type", profile.model_type,
               "--template", profile.template, "--torch_dtype", dtype_of_folder(base), "--device_map", "cpu",
               "--load_args", "false", "--adapters", adapter, "--merge_lora", "true", "--output_dir", target]
    with supervisor.supervised([str(part) for part in command], log, finetune.child_environment()) as process:
        process.wait()
    if process.returncode or not target.exists():
        raise MergeError(f"merging {adapter} failed: {supervisor.cause_in(log)}\nWhole log: {log}")


def dtype_of_folder(folder: Path) -> str:
    """The number format of a model folder's weights: "float32", "bfloat16", …; config.json tells."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def megabytes(folder: Path, pattern: str = "*.safetensors") -> float:
    """Size of a folder's files of that pattern, in MB (10⁶ bytes)."""
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 1e6


def compare(profile: Profile, checkpoint: str | Path, merged: Path, requests: Iterable[list[dict]],
            max_new_tokens: int = 48) -> Comparison:
    """Ask the merged model and base plus adapter (unmerged) the same, both computing in float32.

    Args:
        requests: lists of `{"role", "content"}` messages, each ending in a user message.
        max_new_tokens: length of the greedy texts that are compared.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    base, alone = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
                   for folder in (assets.model_dir(profile.model), merged))
    models = (alone, PeftModel.from_pretrained(base, str(checkpoint)).eval())
    differences, same = [], []
    for messages in requests:
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt",
                                               return_dict=True)
        with torch.inference_mode():
            logits = [model(**tokens).logits for model in models]
            texts = [model.generate(**tokens, do_sample=False, max_new_tokens=max_new_tokens) for model in models]
        differences.append((logits[0] - logits[1]).abs().max().item())
        same.append(torch.equal(*texts))
    return Comparison(max(differences), TOLERANCE[dtype_of_folder(merged)], sum(same), len(same))
