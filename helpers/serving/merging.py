"""Merge a checkpoint's adapter into its base model, and check that it is still the same model.

Merging adds LoRA's product B·A·(alpha/r) to each weight matrix once, instead of at every token
(Hu et al. 2021, arXiv 2106.09685, section 4.1). The result is a model folder that any server loads.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import assets
from helpers.assets import KitError, processes
from helpers.profiles import Profile

# Largest difference of a logit that merging may make. In float32 only the order of additions
# differs (SmolLM2: 1.4e-4). A merged bfloat16 weight is rounded once more (0.36; 2 texts of 6).
TOLERANCE = {"float32": 1e-3, "bfloat16": 1.0}


@dataclass(frozen=True)
class Comparison:
    """Merged against unmerged: largest difference of a logit, and equal greedy texts of `n`."""

    logit_difference: float
    tolerance: float
    same_text: int
    n: int

    @property
    def same(self) -> bool:
        """Whether the logits agree within the tolerance."""
        return self.logit_difference <= self.tolerance


def checked_adapter(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint; a KitError names the files that it lacks."""
    folder = Path(checkpoint)
    wanted = ("adapter_config.json", "adapter_model.safetensors")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        problem = f"no complete adapter in {folder}: {' and '.join(missing)} missing"
        raise KitError(f"{problem}. Name a checkpoint folder of a training run (lesson 04).")
    return folder.resolve()


def merge(profile: Profile, checkpoint: str | Path) -> Path:
    """The merged model of a checkpoint, `<run>/merged/<checkpoint>`: made once, then reused.

    `swift export` makes it, in the number format of the base model's files. Raises KitError: no
    base model, an incomplete checkpoint, a full disk, or ms-swift failed (the log is named).
    """
    adapter = checked_adapter(checkpoint)
    # not beside the checkpoint, where it would pass for one
    final = adapter.parent.parent / "merged" / adapter.name
    made_from = assets.sha256_of(adapter / "adapter_model.safetensors")
    if final.exists():
        source = json.loads((final / "SOURCE.json").read_text("utf-8"))
        if source["adapter_sha256"] == made_from:
            return final
        problem = f"{final} was merged from another adapter than {adapter} holds now"
        raise KitError(f"{problem}. Delete it and try again.")
    base, log = assets.model_dir(profile.model), final.parent / f"{adapter.name}.log"
    with assets.whole_file(final) as part:
        _export(profile, base, adapter, part, log)
        source = f"{adapter.name} merged into {base.name}"
        assets.write_source(part, source, adapter_sha256=made_from)
    return assets.model_dir(str(final))


def _export(profile: Profile, base: Path, adapter: Path, target: Path, log: Path) -> None:
    command = [sys.executable, "-m", "swift.cli.export", "--model", base, "--adapters", adapter]
    command += ["--model_type", profile.model_type, "--template", profile.template]
    command += ["--torch_dtype", dtype_of_folder(base), "--device_map", "cpu"]
    command += ["--load_args", "false", "--merge_lora", "true", "--output_dir", target]
    with processes.running(command, log, processes.child_environment()) as process:
        process.wait()
    if process.returncode or not target.exists():
        raise KitError(f"merging {adapter} failed: {processes.last_error(log)}\nWhole log: {log}")


def dtype_of_folder(folder: Path) -> str:
    """The number format of a model folder's weights as config.json has it: "float32", …"""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def megabytes(folder: Path, pattern: str = "*.safetensors") -> float:
    """Size of a folder's files of that pattern, in MB (10⁶ bytes)."""
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 1e6


def compare(profile: Profile, checkpoint: str | Path, merged: Path, requests: list) -> Comparison:
    """Ask merged model and base plus adapter the same requests, in float32, up to 48 tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    base, alone = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (assets.model_dir(profile.model), merged)
    )
    models = (alone, PeftModel.from_pretrained(base, str(checkpoint)).eval())
    differences, same = [], []
    for messages in requests:
        tokens = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        greedy = {**tokens, "do_sample": False, "max_new_tokens": 48}
        with torch.inference_mode():
            logits = [model(**tokens).logits for model in models]
            texts = [model.generate(**greedy) for model in models]
        differences.append((logits[0] - logits[1]).abs().max().item())
        same.append(torch.equal(*texts))
    return Comparison(max(differences), TOLERANCE[dtype_of_folder(merged)], sum(same), len(same))
