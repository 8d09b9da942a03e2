"""The dial: the original recipe is the documents' command, and every setting suits this machine."""

import pytest
import torch

from helpers import model, profiles, train
from helpers.assets import KitError


def test_the_original_recipe_is_the_documents_command(shared):
    (path,) = (shared.parent / "documents").glob("001_*.txt")
    command = path.read_text("utf-8").split("llm_sft.py")[1].split("```")[0]
    flags = dict(line.split()[:2] for line in command.splitlines() if line.strip().startswith("--"))
    renamed = {"tuner_type": "sft_type", "lora_dropout": "lora_dropout_p"}
    renamed["per_device_train_batch_size"] = "batch_size"
    said = {"target_modules": ["all-linear"], "truncation_strategy": "delete"}  # today's words
    assert flags["--lora_target_modules"] == "ALL" and "$(expr 32 / $nproc_per_node)" in command
    said["gradient_accumulation_steps"] = 32
    for setting, value in profiles.ORIGINAL_RECIPE.items():
        if setting not in said:
            text = flags["--" + renamed.get(setting, setting)]
            said[setting] = text == "true" if value is True else type(value)(text)
    assert profiles.ORIGINAL_RECIPE == said == profiles.get("original").recipe


@pytest.mark.parametrize("feature", ["avx512_f", "avx512_bf16", "amx_bf16", "bf16", "sve_bf16"])
@pytest.mark.parametrize("used", [True, False])
def test_the_number_format_follows_from_what_the_cpu_has(monkeypatch, feature, used):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: used)
    dtype = "bfloat16" if used and feature != "avx512_f" else "float32"
    laptop = profiles.get("laptop")
    assert profiles.dtype_of(laptop) == train.recipe_of(laptop)["torch_dtype"] == dtype
    assert profiles.dtype_of(profiles.get("laptop", torch_dtype="float32")) == "float32"


def test_what_cannot_be_computed_here_is_named_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_PROFILE", "huge")
    with pytest.raises(ValueError, match="no profile 'huge'; choose one of smoke, laptop, gpu, or"):
        profiles.current()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile = profiles.get("original")
    with pytest.raises(KitError, match="PyTorch sees no GPU.*nvidia-smi"):
        train.finetune(profile, root=tmp_path)
    with pytest.raises(KitError, match="no GPU"):
        model.Model(profile).ask([[{"role": "user", "content": "Hi"}]])
    assert not any(tmp_path.iterdir())
