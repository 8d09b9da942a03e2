"""The one dial: a profile fixes model, data size, training recipe and scoring size. Nothing else has to be chosen.

    smoke   a tiny random model, seconds; for tests: its numbers mean nothing
    laptop  SmolLM2-135M-Instruct on two CPU cores, minutes; the default
    gpu     Qwen3-0.6B from ModelScope on one GPU
    seed    Qwen-7B-Chat with the hyperparameters of the seed recipes

The recipes are plain ms-swift settings; the values of the seed recipes come from ms-swift's own document "Agent
fine-tuning best practice" (docs/source/LLM, 2024), translated to the flags of ms-swift 4.6.
"""

import os
from dataclasses import dataclass, field, replace

# The seed's hyperparameters, each under today's name. Other profiles state what they change, and why.
SEED_RECIPE = {
    "tuner_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["all-linear"],
    "num_train_epochs": 2,
    "max_length": 1500,
    "truncation_strategy": "delete",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 32,  # the seed: 32 / 8 GPUs each; one GPU has to do it alone
    "gradient_checkpointing": True,
    "learning_rate": 5e-5,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "warmup_ratio": 0.03,
    "eval_steps": 100,
    "save_steps": 100,
    "logging_steps": 10,
}

# What two CPU cores ask for. Reasons stand beside the values because lesson 04 prints them from here.
LAPTOP_CHANGES = {
    "lora_rank": (16, "a 135M model has narrow layers; twice the rank costs nothing here"),
    "num_train_epochs": (1, "no row is seen twice: with so few steps, fresh rows teach more"),
    "max_length": (768, "the profile's prompts are short; attention over unused length costs minutes"),
    "per_device_train_batch_size": (1, "with so few rows, many small steps teach more than few larger ones"),
    "gradient_accumulation_steps": (1, "the same: a step after every row"),
    "gradient_checkpointing": (False, "it saves memory nobody needs here and costs a third of the time"),
    "lora_dropout": (0.0, "no row is seen twice, so there is nothing to unlearn by heart; drawing masks costs time"),
    "learning_rate": (1e-3, "few steps: 20 times the seed's rate; LoRA bears it"),
    "max_grad_norm": (1.0, "ms-swift's default; 0.5 would brake the first steps"),
    "warmup_ratio": (0.1, "a high rate needs a start of a few steps"),
    "logging_steps": (1, "every step is a point on the live curve"),
}


@dataclass(frozen=True)
class Profile:
    """One position of the dial.

    model: name or folder for `assets.model_dir`; model_type and template: ms-swift's names for it.
    torch_dtype: "fastest" measures which of float32 and bfloat16 this CPU computes faster.
    source: where dialogues come from, for `assets.dataset_file`. languages: those trained and scored in.
    shape: see `corpus.SHAPES`. train_rows: training rows (requests, in wire shape), at most. max_tools and max_chars:
    longest prompt that is used. eval_rows: held-out rows for token accuracy. visits, bfcl: cases scored at every
    checkpoint. scorers: processes that score side by side (on a CPU). measures: what every checkpoint is asked, see
    `evaluate.SCORERS`; bfcl_categories: see `bfcl.CATEGORIES`. addition, general, self_cognition: the study's mixes,
    see `training_set`. The seed draws the training rows and their order; the held-out cases are the same for all.
    """

    name: str
    model: str
    model_type: str
    template: str
    torch_dtype: str
    device: str
    languages: tuple
    train_rows: int
    eval_rows: int
    visits: int
    bfcl: int
    recipe: dict = field(repr=False)
    source: str = "authored"
    shape: str = "wire"
    max_tools: int = 12
    max_chars: int = 100_000
    max_new_tokens: int = 256
    batch_size: int = 16
    scorers: int = 1
    measures: tuple = ("visits", "bfcl")
    bfcl_categories: tuple = ("simple_python", "multiple")
    addition: float = 0.0
    general: float = 0.0
    self_cognition: float = 0.0
    seed: int = 42


def _recipe(**changes) -> dict:
    return {**SEED_RECIPE, **changes}


_LAPTOP = _recipe(**{key: value for key, (value, _) in LAPTOP_CHANGES.items()})

PROFILES = {
    "smoke": Profile(
        name="smoke", model="smoke", model_type="llama", template="chatml", torch_dtype="float32", device="cpu",
        languages=("en", "zh"), train_rows=12, eval_rows=4, visits=4, bfcl=2, max_tools=3, max_chars=1200,
        max_new_tokens=16, recipe={**_LAPTOP, "max_length": 2048, "per_device_train_batch_size": 2, "save_steps": 2,
                                   "eval_steps": 2}),
    "laptop": Profile(
        name="laptop", model="smollm2", model_type="llama", template="chatml", torch_dtype="fastest", device="cpu",
        languages=("en",), train_rows=176, eval_rows=12, visits=40, bfcl=40, max_tools=2, max_chars=1200,
        max_new_tokens=48, batch_size=32, scorers=2, recipe={**_LAPTOP, "save_steps": 88, "eval_steps": 88}),
    "gpu": Profile(
        name="gpu", model="Qwen/Qwen3-0.6B", model_type="qwen3", template="qwen3", torch_dtype="bfloat16",
        device="cuda:0", source="authored:30000", languages=("en", "zh"), train_rows=36_000, eval_rows=200,
        visits=400, bfcl=400,
        recipe=_recipe(learning_rate=2e-4, max_length=4096, per_device_train_batch_size=8,
                       gradient_accumulation_steps=4, num_train_epochs=1), batch_size=128),
    "seed": Profile(
        name="seed", model="qwen/Qwen-7B-Chat", model_type="qwen", template="qwen", torch_dtype="bfloat16",
        device="cuda:0", source="modelscope", shape="trace", languages=("en", "zh"), train_rows=30_000,
        eval_rows=200, visits=400, bfcl=400, recipe=_recipe(), batch_size=64),
}


def get(name: str, **changes) -> Profile:
    """The profile of that name, with `changes` to its fields if any (`get("laptop", seed=1)`).

    Raises:
        ValueError: no such profile.
    """
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; choose one of {', '.join(PROFILES)}")
    return replace(PROFILES[name], **changes)


def current(**changes) -> Profile:
    """The profile that the environment variable KIT_PROFILE names; "laptop" without it."""
    return get(os.environ.get("KIT_PROFILE", "laptop"), **changes)
