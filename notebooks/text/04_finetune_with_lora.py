# ---
# jupyter:
#   jupytext:
#     formats: notebooks//ipynb,notebooks/text//py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Finetune with LoRA
#
# **You will do:** fine-tune the small model to call tools, and watch its loss while it learns.
#
# **You will learn:** what a recipe is, which of the original hyperparameters change on two CPU
# cores and why, and what a run leaves behind.
#
# **You will need:** 10 min, 6.1 GB on two CPU cores. You can interrupt the training; it resumes.

# %% [markdown]
# ## 1 · The recipe
#
# Training is done by **ms-swift**. A recipe is the list of its settings. **Expect** two columns:
# what document 001 used for Qwen-7B-Chat on eight GPUs, under today's names, and what this profile
# uses.

# %%
import pandas as pd

from helpers import profiles, train

profile = profiles.current()
recipes = {"original": profiles.ORIGINAL_RECIPE, profile.name: profile.recipe}
pd.DataFrame(recipes).astype(str)

# %% [markdown]
# Each change on the laptop has a reason:

# %%
pd.set_option("display.max_colwidth", 110)
pd.DataFrame(profiles.LAPTOP_CHANGES, index=["value", "why"]).T

# %% [markdown]
# ## 2 · The data
#
# `prepare_data` draws the profile's rows in *wire* format: training rows, a small fixed file for
# token accuracy, and two sets of held-out dialogues for lesson 05: *development* cases, by which
# things are chosen, and *test* cases, on which they are reported. The laptop profile trains on the
# practice rows: synthetic dialogues from the same catalogue as those that lesson 02 converted,
# with more domains, written in groups over one tool list.
#
# **Held out means by tool:** no tool of a case stands in any training prompt. **Expect** 0 tools
# in both.

# %%
import json

import yaml

from helpers import assets, split

data = split.prepare_data(profile)
trained = {split.tool_identity(tool) for row in data["train"] for tool in json.loads(row["tools"])}
heldout = {split.tool_identity(tool) for row in data["cases"] for tool in row["tools"]}
print({name: len(rows) for name, rows in data.items()})
print(f"{len(trained)} tools trained, {len(heldout)} held out, {len(trained & heldout)} in both")

# %% [markdown]
# A training row is a *pack* (lesson 03): exchanges that share a prompt, as one sequence. **Expect**
# about a third of the tokens that the same exchanges have apart. The tokens in the loss are the
# same ones: what is saved is reading the same prompt again.

# %%
from helpers import convert, tokens

packs = data["train"]
apart = [{**row, "messages": one} for row in packs for one in convert.split_pack(row["messages"])]
counts = {"apart": tokens.count(apart, profile, profile.format)}
counts["as packs"] = tokens.count(packs, profile, profile.format)
pd.DataFrame(counts)

# %% [markdown]
# ## 3 · From recipe to `swift sft`, written out
#
# A run is: the recipe and the files it names, as YAML; and one command that reads it.


# %%
def write_recipe(path, profile, train_file, eval_file):
    """The settings of a run as a YAML file for `swift sft`; returns them."""
    number = {"torch_dtype": profiles.dtype_of(profile)}
    on_cpu = {"use_cpu": True, "dataloader_num_workers": 0, "bf16": False}
    on_cpu["lora_dtype"] = number["torch_dtype"]  # LoRA in the model's number format
    recipe = {
        "model": str(assets.model_dir(profile.model)),
        **{"model_type": profile.model_type, "template": profile.template, **number},
        "dataset": [str(train_file)],
        "val_dataset": [str(eval_file)],
        "external_plugins": [str(train.PLUGIN)],  # AgentFabric's prompt and mask
        "agent_template": "agentfabric",
        "loss_scale": "last_round+agentfabric",  # wire: only the last reply is in the loss
        "attn_impl": "shared_prefix",  # packs: no branch is compared with the others
        **profile.recipe,
        **(on_cpu if profile.device == "cpu" else {}),
        "eval_on_start": True,  # step 0 is a point, too
        "check_model": False,  # no question to ModelScope's hub
        **{"seed": profile.seed, "data_seed": profile.seed},
        "report_to": "none",
        "output_dir": str(path.parent / "swift"),
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return recipe


# %% [markdown]
# Two packs are enough to see it run. **Expect** about half a minute, most of it for loading
# ms-swift, and then the loss of each step.

# %%
import subprocess
import sys

from helpers.assets import processes

folder = assets.ROOT / "runs" / "by-hand"
for name in ("train", "eval"):
    assets.write_jsonl(folder / f"{name}.jsonl", data[name][:2])
write_recipe(folder / "recipe.yaml", profile, folder / "train.jsonl", folder / "eval.jsonl")
command = [sys.executable, "-m", "swift.cli.main", "sft", str(folder / "recipe.yaml")]
done = subprocess.run(command, capture_output=True, text=True, env=processes.child_environment())
log = [
    json.loads(line) for line in max(folder.rglob("logging.jsonl")).read_text("utf-8").splitlines()
]
[(line["global_step/max_steps"], round(line["loss"], 2)) for line in log if "loss" in line]

# %% [markdown]
# In a shell that is `swift sft runs/by-hand/recipe.yaml`.
#
# ## 4 · Train
#
# `train.finetune` does the same with all rows. What it adds is plumbing: it keeps the profile
# beside the run, resumes where it was interrupted, allows one training in a folder at a time, and
# writes a manifest at the end. It runs in a process of its own, whose memory is free again when it
# ends.
#
# **Expect** a curve that grows: single steps as light points, their moving mean as a line, and rows
# with tools that the model has never seen. Step 0 is the base model. The loss falls from about 3 to
# below 1 within the first 30 steps. If you interrupt the kernel, run the cell again. If this run
# exists, it is reused.

# %%
from helpers import plots

plots.style()
watch = plots.live()
run = train.finetune(profile, watch=watch)
watch(run.log())

# %% [markdown]
# Token accuracy is *teacher-forced*: at every position the model is shown the right text so far. It
# does not say whether the model stops, or whether a whole call is right. Lesson 05 measures that.

# %% [markdown]
# ## 5 · What a run leaves behind
#
# **Expect** the recipe, the data, checkpoints, and a manifest that says where every number comes
# from.

# %%
paths = [path.relative_to(run.path) for path in run.path.rglob("*")]
sorted(str(path) for path in paths if len(path.parts) < 3)[:24]

# %%
manifest = run.manifest()
{
    key: manifest[key]
    for key in ("wall_seconds", "number_format", "versions", "hardware", "data_sha256")
}

# %% [markdown]
# A checkpoint is small: the base model stays as it is, and LoRA adds two thin matrices to each
# layer. **Expect** about 10 MB each in the laptop profile in bfloat16, 20 MB in float32.

# %%
sizes = {
    one.step: sum(file.stat().st_size for file in one.path.glob("adapter*"))
    for one in run.checkpoints[1:]
}
{step: f"{size / 1e6:.1f} MB" for step, size in sizes.items()}

# %% [markdown]
# ## Checkpoint
#
# **Expect** the evaluation loss to fall from line to line in the laptop profile.

# %%
assert run.finished and len(run.checkpoints) > 1
frame = plots.training_frame(run.log())
frame[["eval_loss", "eval_token_acc"]].dropna().round(3)

# %% [markdown]
# **If not:** memory ran out (`train.log` in the run's folder ends with *Killed*; close other
# programs), or the first lesson did not finish making the model.
#
# ## Exercises
#
# 1. *Easy.* Interrupt the training cell (■), then run it again. Where does it resume?
# 2. *Medium.* Train at the original rate, under a name of its own:
#    `train.finetune(profiles.get("laptop", recipe={**profile.recipe, "learning_rate": 5e-5}),
#    name="slow")`. What do as many steps at that rate achieve? What happens without the `name`?
# 3. *Hard.* Train `profiles.get("laptop", format="trace")` as `name="trace"` and compare both runs
#    in lesson 05, at equal tokens rather than equal rows.
#
# **You learned** to fine-tune with one call that survives any interruption, and which numbers of a
# recipe depend on the machine.
#
# Next: [05 · Plot accuracy by step](05_plot_accuracy_by_step.ipynb)
