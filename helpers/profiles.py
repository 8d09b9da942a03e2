"""The one dial: a profile fixes model, data, training recipe and scoring size.

smoke: a tiny random model, seconds; for tests. laptop: SmolLM2-135M-Instruct on two CPU cores, the
default. gpu: Qwen3-0.6B on one GPU. original: Qwen-7B-Chat with the original recipe, on one GPU.
"""

import os
import shutil
from dataclasses import dataclass, field, replace

from helpers.assets import KitError

# The command of the document "AgentFabric llm工具调用能力微调", in the names of ms-swift 4.6 (older
# documents differ: max_length 2048, weight_decay 0.01). Left out: save_total_limit 2, since lessons
# score every checkpoint. The mix with general chat is an arm of the study.
ORIGINAL_RECIPE = {
    "tuner_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["all-linear"],
    "num_train_epochs": 2,
    "max_length": 1500,
    "truncation_strategy": "delete",  # what was then the default
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 32,  # there 4 on each of 8 GPUs; one GPU does it alone
    "gradient_checkpointing": True,
    "learning_rate": 5e-5,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "warmup_ratio": 0.03,
    "eval_steps": 100,
    "save_steps": 100,
    "logging_steps": 10,
}

# What the laptop profile changes in it: {setting: (value, reason)}.
LAPTOP_CHANGES = {
    "lora_rank": (16, "a small model has narrow layers; twice the rank costs nothing here"),
    "num_train_epochs": (1, "with so few steps, new rows teach more than repeated ones"),
    "max_length": (4096, "a row is a pack of many dialogues; longer ones cost too much at once"),
    "per_device_train_batch_size": (1, "a pack is a batch: some five exchanges with one prompt"),
    "gradient_accumulation_steps": (1, "few packs teach more in many small steps"),
    "gradient_checkpointing": (False, "it saves memory that is not needed here, and takes time"),
    "lora_dropout": (0.0, "each row is seen once, so there is little to overfit"),
    "learning_rate": (8e-4, "there are few steps, so each is larger: 16 times the original rate"),
    "max_grad_norm": (1.0, "the default of ms-swift; 0.5 would slow down the first steps"),
    "warmup_ratio": (0.1, "a high rate needs a few smaller steps first"),
    "eval_steps": (13, "token accuracy at the same points as the scores of lesson 05"),
    "save_steps": (13, "a point of the curve: each of these checkpoints is scored"),
    "logging_steps": (1, "every step is a point on the live curve"),
}


@dataclass(frozen=True)
class Profile:
    """One position of the dial."""

    name: str
    model: str  # a name or folder for `assets.model_dir`
    model_type: str  # ms-swift's name for the kind of model
    template: str  # ms-swift's name for its chat template
    train_rows: int
    recipe: dict = field(repr=False)  # settings of ms-swift
    device: str = "cpu"
    torch_dtype: str = "auto"  # the number format, see `dtype_of`
    source: str = "authored"  # a name or file for `assets.dataset_file`
    languages: tuple = ("en", "zh")
    format: str = "wire"  # of the training rows, see `convert.FORMATS`
    eval_rows: int = 200  # held-out rows for the token accuracy
    pack: int = 0  # characters of dialogues that share a prompt as one sequence; 0: no packs
    dev: int = 48  # held-out first calls that score every checkpoint; to choose with
    cases: int = 400  # held-out episodes that score the base model and the last checkpoint
    bfcl: int = 400  # BFCL questions that score it, too
    max_tools: int = 12  # a row with more tools or characters is not used
    max_chars: int = 100_000
    max_new_tokens: int = 256  # the longest reply
    batch_size: int = 16  # replies generated at once
    seed: int = 42  # the random seed of training rows and training; the cases are always the same


_LAPTOP = ORIGINAL_RECIPE | {setting: value for setting, (value, _) in LAPTOP_CHANGES.items()}
_SMOKE = {"per_device_train_batch_size": 2, "save_steps": 2, "eval_steps": 2}
_GPU = {"max_length": 4096, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
_GPU |= {"learning_rate": 2e-4, "num_train_epochs": 1}
LAPTOP = Profile(
    name="laptop",
    model="smollm2",
    model_type="llama",
    template="chatml",
    recipe=_LAPTOP,
    source="practice:200",
    languages=("en",),
    train_rows=600,
    pack=6000,
    eval_rows=8,
    dev=24,
    cases=120,
    bfcl=80,
    max_chars=6000,
    max_new_tokens=64,
    batch_size=32,
)
SMOKE = Profile(
    name="smoke",
    model="smoke",
    model_type="llama",
    template="chatml",
    torch_dtype="float32",
    recipe=_LAPTOP | _SMOKE,
    train_rows=12,
    pack=600,
    eval_rows=4,
    dev=3,
    cases=4,
    bfcl=2,
    max_tools=3,
    max_chars=1200,
    max_new_tokens=16,
)
GPU = Profile(
    name="gpu",
    model="Qwen/Qwen3-0.6B",
    model_type="qwen3",
    template="qwen3",
    device="cuda:0",
    recipe=ORIGINAL_RECIPE | _GPU,
    source="authored:30000",
    train_rows=36_000,
    batch_size=128,
)
ORIGINAL = Profile(
    name="original",
    model="qwen/Qwen-7B-Chat",
    model_type="qwen",
    template="qwen",
    device="cuda:0",
    recipe=ORIGINAL_RECIPE,
    source="modelscope",
    format="trace",
    train_rows=30_000,
    batch_size=64,
)
PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP, GPU, ORIGINAL)}


def get(name: str, **changes) -> Profile:
    """The profile of that name, with changes to its fields: `get("laptop", seed=1)`. An unknown
    name is a ValueError."""
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; choose one of {', '.join(PROFILES)}")
    return replace(PROFILES[name], **changes)


def current(**changes) -> Profile:
    """The profile that the environment variable KIT_PROFILE names; without it "laptop"."""
    return get(os.environ.get("KIT_PROFILE", "laptop"), **changes)


def dtype_of(profile: Profile) -> str:
    """The profile's number format. "auto" is bfloat16 on a GPU, and on a CPU that has instructions
    for it which PyTorch uses (through oneDNN); else float32, because bfloat16 is slower there."""
    import torch

    if profile.torch_dtype != "auto":
        return profile.torch_dtype
    has = torch.cpu.get_capabilities().get
    fast = has("amx_bf16") or has("avx512_bf16") or has("bf16") or has("sve_bf16")
    fast = fast and torch.backends.mkldnn.is_available()
    return "bfloat16" if fast or profile.device != "cpu" else "float32"


def check_device(profile: Profile) -> None:
    """Raises KitError where the profile computes on a GPU and PyTorch sees none."""
    import torch

    if profile.device.startswith("cuda") and not torch.cuda.is_available():
        wanted = f'the profile "{profile.name}" computes on {profile.device}'
        raise KitError(
            f"{wanted}, and PyTorch sees no GPU here. Use PROFILE=laptop. If nvidia-smi shows one, "
            "install a PyTorch with CUDA into .venv: https://pytorch.org/get-started"
        )


def this_machine() -> dict:
    """What this machine has; memory and disk in GB."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "CPU cores": os.cpu_count(),
        "memory (GB)": round(psutil.virtual_memory().total / 1e9, 1),
        "free disk (GB)": round(shutil.disk_usage(".").free / 1e9, 1),
        "GPU": gpu.name if gpu else None,
        "GPU memory (GB)": round(gpu.total_memory / 1e9, 1) if gpu else None,
        "number format": dtype_of(LAPTOP),
    }
