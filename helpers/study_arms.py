"""What the study compares: its arms, and how large it is on which machine.

Every arm starts from the same base model and takes the same optimizer steps on rows drawn from the same dialogues. The
seed recipe's own numbers of rows and rates are one size of it; the laptop's is what two cores do in an hour or two.
"""

from dataclasses import dataclass, field, replace

from helpers import profiles

MEASURES = ("visits", "bfcl", "tokens", "answers", "identity")
CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
BASE = "base"


@dataclass(frozen=True)
class Arm:
    """One arm: what it changes of the study's profile, and of its recipe."""

    name: str
    title: str
    changes: dict
    recipe: dict = field(default_factory=dict)


ARMS = {arm.name: arm for arm in (
    Arm("ms_agent", "1 · ms_agent's ReAct rows", {"shape": "ms_agent", "measures": (*MEASURES, "native")}),
    Arm("seed", "2 · converted by the seed's script", {"shape": "seed"}),
    Arm("trace", "3 · converted faithfully, one trace", {"shape": "trace"}),
    Arm("trace_seed_tools", "3 with the tools that the seed's script leaves", {"shape": "trace_seed_tools"}),
    Arm("trace_addition", "4 · 3 with recorded rows added", {"shape": "trace", "addition": 0.2}),
    Arm("wire", "5 · wire-shaped", {"shape": "wire"}),
    Arm("wire_general33", "6a · 5 with 33 % general rows", {"general": 1 / 3, "self_cognition": 0.25}),
    Arm("wire_general67", "6b · 5 with 67 % general rows", {"general": 2 / 3, "self_cognition": 0.25}),
    Arm("trace_loss_default", "3, observation trained too", {"shape": "trace"}, {"loss_scale": "default"}),
    Arm("trace_loss_react", "3, answer wiped by the mask", {"shape": "trace"}, {"loss_scale": "react"}),
    Arm("trace_max_length_1500", "3, rows up to 1,500 tokens", {"shape": "trace"}, {"max_length": 1500}),
    Arm("trace_lr_5e-5", "3, learning rate 5e-5 (seed)", {"shape": "trace"}, {"learning_rate": 5e-5}),
    Arm("trace_lr_1e-4", "3, learning rate 1e-4", {"shape": "trace"}, {"learning_rate": 1e-4}),
    Arm("trace_lr_2e-4", "3, learning rate 2e-4", {"shape": "trace"}, {"learning_rate": 2e-4}),
)}


@dataclass(frozen=True)
class Study:
    """A study's size: the profile that its arms start from, its arms and seeds, and how many runs go side by side."""

    profile: profiles.Profile
    arms: tuple
    seeds: tuple = (42, 43, 44)
    workers: int = 1


def _profile(name: str, model: tuple = (), **changes) -> profiles.Profile:
    """A profile of `profiles`, as the study's arms start from it."""
    recipe = {**profiles.get(name).recipe, "learning_rate": 1e-3, "max_length": 4096, **changes.pop("recipe")}
    changes |= dict(zip(("model", "model_type", "template"), model))
    return replace(profiles.get(name), name=f"study-{name}", measures=MEASURES, bfcl_categories=CATEGORIES,
                   shape="wire", recipe=recipe, **changes)


_GPU = {"train_rows": 30_000, "source": "authored:70000",  # a trace is a whole dialogue, and half share held-out tools
        "recipe": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16, "eval_steps": 234,
                   "save_steps": 234}}
STUDIES = {
    "smoke": Study(_profile("smoke", bfcl=4, recipe={}), ("trace", "wire"), (42,), workers=2),
    "laptop": Study(_profile("laptop", train_rows=60, eval_rows=4, visits=30, bfcl=24, batch_size=8, scorers=1,
                             recipe={"save_steps": 60, "eval_steps": 60}),  # scoring a checkpoint costs minutes
                    tuple(name for name in ARMS if name != "trace_max_length_1500"),  # no laptop row is that long
                    workers=2),
    "gpu": Study(_profile("gpu", ("smollm2", "llama", "chatml"), bfcl=1000, **_GPU), tuple(ARMS), workers=4),
    "qwen3": Study(_profile("gpu", bfcl=1000, **_GPU), tuple(ARMS), workers=2),
}


def profile_of(study: Study, arm: str, seed: int) -> profiles.Profile:
    """The profile that an arm trains and is scored with; for `BASE`, the one that the base model is scored with."""
    if arm == BASE:
        return replace(study.profile, measures=(*MEASURES, "native"), recipe={})  # it is not trained
    chosen = ARMS[arm]
    return replace(study.profile, seed=seed, recipe={**study.profile.recipe, **chosen.recipe}, **chosen.changes)
