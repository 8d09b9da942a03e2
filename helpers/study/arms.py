"""What the study compares: its arms, its sizes, and the rows that an arm trains on.

Every arm trains the same base model for the same number of optimizer steps, on rows from the same
dialogues, and differs from another arm in one thing.

The committed records of the arms "original" and "trace_original_tools" were trained on rows of an
earlier, inexact port of the original script; data/runs/study-laptop/README.md says more.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from helpers import convert, data, profiles, split
from helpers.assets import KitError
from helpers.profiles import Profile
from helpers.study import formats, mix  # noqa: F401  (formats: adds the formats of the arms)

BASE = "base"  # the untrained base model
BFCL_CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
SCORERS = ("episodes", "bfcl", "tokens", "answers", "identity")  # of `scorers.SCORERS`


@dataclass(frozen=True)
class Arm:
    """One arm: how its training rows look, and what it changes in the study's recipe.

    addition, general: the shares of its rows from the addition set, and of general chat.
    self_cognition: the share of the general chat that asks the model who it is.
    """

    name: str
    title: str
    format: str = "trace"
    recipe: dict = field(default_factory=dict)
    addition: float = 0.0
    general: float = 0.0
    self_cognition: float = 0.0
    scorers: tuple = SCORERS


_ARMS = (
    Arm(BASE, "0 · the untrained base model", "wire", scorers=(*SCORERS, "native")),
    Arm("ms_agent", "1 · ms_agent's own rows", "ms_agent", scorers=(*SCORERS, "native")),
    Arm("original", "2 · converted by the original script", "original"),
    Arm("trace", "3 · converted without loss, one trace"),
    Arm("trace_original_tools", "3, tools as the script leaves them", "trace_original_tools"),
    Arm("trace_addition", "4 · 3 with rows of the addition set", addition=0.2),
    Arm("wire", "5 · rows in wire format", "wire"),
    Arm("wire_general33", "6a · 5 with 33 % general rows", "wire", {}, 0, 1 / 3, 0.25),
    Arm("wire_general67", "6b · 5 with 67 % general rows", "wire", {}, 0, 2 / 3, 0.25),
    Arm("trace_loss_default", "3, observation in the loss", recipe={"loss_scale": "default"}),
    Arm("trace_loss_react", "3, answer masked (react)", recipe={"loss_scale": "react"}),
    Arm("trace_max_length_1500", "3, rows up to 1,500 tokens", recipe={"max_length": 1500}),
    Arm("trace_lr_5e-5", "3, original learning rate 5e-5", recipe={"learning_rate": 5e-5}),
    Arm("trace_lr_1e-4", "3, learning rate 1e-4", recipe={"learning_rate": 1e-4}),
    Arm("trace_lr_2e-4", "3, learning rate 2e-4", recipe={"learning_rate": 2e-4}),
)
ARMS = {arm.name: arm for arm in _ARMS}
TRAINED = tuple(name for name in ARMS if name != BASE)


@dataclass(frozen=True)
class Study:
    """A size of the study: what its arms start from, and how many runs go side by side."""

    profile: Profile
    arms: tuple
    seeds: tuple = (42, 43, 44)
    workers: int = 1


def _profile(study: str, base: str, recipe: dict, **changes) -> Profile:
    profile = profiles.get(base)
    recipe = {**profile.recipe, "learning_rate": 1e-3, "max_length": 4096, **recipe}
    changes = {"source": "authored", "pack": 0, "dev": 0, **changes}  # each row is read alone
    return replace(profile, name=f"study-{study}", recipe=recipe, **changes)


_SMOKE = _profile("smoke", "smoke", {"per_device_train_batch_size": 2}, bfcl=4)
_SMALL = {"train_rows": 60, "eval_rows": 4, "cases": 30, "bfcl": 24, "batch_size": 8}
_SMALL |= {"max_tools": 2, "max_chars": 1200, "max_new_tokens": 48}
_AT_THE_END = {"save_steps": 60, "eval_steps": 60}  # to score a checkpoint costs minutes
# Of 70,000 dialogues half offer held-out tools, and a trace needs a whole one.
_LARGE = {"train_rows": 30_000, "source": "authored:70000", "bfcl": 1000}
_LARGE_STEPS = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2}
_LARGE_STEPS |= {"save_steps": 234, "eval_steps": 234}
_SMOLLM2 = {"model": "smollm2", "model_type": "llama", "template": "chatml"}
# No row of the laptop's is longer than 1,500 tokens.
_LAPTOP_ARMS = tuple(name for name in TRAINED if name != "trace_max_length_1500")
STUDIES = {
    "smoke": Study(_SMOKE, ("trace", "wire"), (42,), workers=2),
    "laptop": Study(_profile("laptop", "laptop", _AT_THE_END, **_SMALL), _LAPTOP_ARMS, workers=2),
    "gpu": Study(_profile("gpu", "gpu", _LARGE_STEPS, **_SMOLLM2, **_LARGE), TRAINED, workers=4),
    "qwen3": Study(_profile("qwen3", "gpu", _LARGE_STEPS, **_LARGE), TRAINED, workers=2),
}


def profile_of(study: Study, name: str, seed: int) -> Profile:
    """The profile that an arm trains and is scored with; without a recipe for `BASE`."""
    arm, profile = ARMS[name], study.profile
    if name == BASE:
        return replace(profile, recipe={})
    return replace(profile, seed=seed, format=arm.format, recipe=profile.recipe | arm.recipe)


def settings_of(study: Study, name: str, seed: int) -> dict:
    """All that the numbers of a run depend on, as JSON gives it back."""
    arm, profile = asdict(ARMS[name]), asdict(profile_of(study, name, seed))
    settings = {key: arm[key] for key in ("addition", "general", "self_cognition", "scorers")}
    settings["bfcl_categories"] = BFCL_CATEGORIES
    del profile["pack"], profile["dev"]  # 0 in every study, and not in its records
    return json.loads(json.dumps({"profile": profile, "settings": settings}))


def rows_of(study: Study, name: str, seed: int) -> dict[str, list[dict]]:
    """An arm's {"train", "eval", "cases"}; the last two are those of `split.prepare_data`. The
    number of training rows is fixed, so that every mix takes the same steps.

    Raises KitError: the source cannot be had, or has too few rows for the study.
    """
    profile, arm = profile_of(study, name, seed), ARMS[name]
    rows, wanted = split.prepare_data(profile), profile.train_rows
    # in the order of the draw: the study packs nothing, so rows of one prompt need not be together
    drawn = split.drawn(split.split_of(profile.source).train, profile, seed)
    train = list(islice(convert.render_rows(drawn, profile.format), wanted))
    if len(train) < wanted:
        raise KitError(
            f"{name}: {profile.source} gives {len(train)} training rows of {wanted}, and every arm "
            "has to take the same optimizer steps. Take a larger source, or fewer rows."
        )
    if arm.addition:
        train = mix.mix(train, _addition_rows(profile), arm.addition, wanted, seed)
    if arm.general:
        general = mix.general("train", profile.languages)
        about = mix.self_cognition("train", profile.languages)
        general = mix.mix(general, about, arm.self_cognition, round(wanted * arm.general), seed)
        general = convert.render_rows(general, profile.format)
        train = mix.mix(train, general, arm.general, wanted, seed)
    return {"train": train, "eval": rows["eval"], "cases": rows["cases"]}


def _addition_rows(profile: Profile) -> Iterator[dict]:
    """The addition set without held-out tools, and without questions like held-out ones."""
    parts, (rows, _) = split.split_of(profile.source), data.load("addition")
    heldout = {split.tool_identity(tool) for row in parts.heldout for tool in row["tools"]}
    rows = [row for row in rows if heldout.isdisjoint(map(split.tool_identity, row["tools"]))]
    rows, _ = split.drop_similar(rows, parts.heldout)
    return convert.render_rows(split.drawn(rows, profile, profile.seed), profile.format)
