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
# **You will learn:** what a recipe is, which of the seed's hyperparameters change on two CPU cores and why, and what a run leaves behind.
#
# **You will need:** 6 to 17 minutes on two CPU cores and 6 GB of memory; the cell resumes if you interrupt it.

# %% [markdown]
# ## 1 · The recipe
#
# Training is done by **ms-swift**, not by code of ours. A recipe is the list of its settings. Expect two columns: what the seed recipe used for Qwen-7B-Chat on eight GPUs, and
# what this profile uses.

# %%
import pandas as pd

from helpers import finetune, profiles

profile = profiles.current()
recipe = finetune.recipe_of(profile)
pd.DataFrame({"seed": profiles.SEED_RECIPE, profile.name: {key: recipe[key] for key in profiles.SEED_RECIPE}}).astype(str)

# %% [markdown]
# Each change on the laptop has a reason:

# %%
pd.set_option("display.max_colwidth", 110)
pd.DataFrame(profiles.LAPTOP_CHANGES, index=["value", "why"]).T

# %% [markdown]
# ## 2 · The data
#
# `prepare_data` draws the profile's rows: training rows in *wire* shape, a small fixed file for token accuracy, and held-out cases for lesson 05.
# **Held out means by tool:** no tool of a case stands in any training prompt. Expect an empty intersection.

# %%
import json

from helpers import splits

data = finetune.prepare_data(profile)
trained = {splits.tool_identity(tool) for row in data["train"] for tool in json.loads(row["tools"])}
heldout = {splits.tool_identity(tool) for row in data["cases"] for tool in row["tools"]}
print({name: len(rows) for name, rows in data.items()})
print(f"{len(trained)} tools trained, {len(heldout)} held out, {len(trained & heldout)} in both")

# %% [markdown]
# ## 3 · Train
#
# One call. It writes the recipe as YAML, starts `swift sft` in a process of its own (its memory is freed when it ends), and draws the curve as it goes. Expect the loss to fall from
# above 4 to about 1 within the first 30 steps, in jumps, for each step is one row: the *format* is learned first. If you interrupt the kernel, run the cell again: it resumes from the last checkpoint. If this run
# exists already, it is reused.

# %%
from helpers import curves

run = finetune.finetune(profile, watch=curves.live())

# %% [markdown]
# The finished curve, redrawn from the run's log. Green points are rows with tools the model has never seen. Step 0 is a point: it is the base model.

# %%
curves.style()
curves.training_curve(run.log());

# %% [markdown]
# Token accuracy is *teacher-forced*: at every position the model is shown the right text so far. It says nothing about stopping, or about a whole call being right. Lesson 05
# measures that.

# %% [markdown]
# ## 4 · What a run leaves behind
#
# Expect the recipe, the data it saw, checkpoints, and a manifest that says where every number comes from.

# %%
sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if len(path.relative_to(run.path).parts) < 3)[:24]

# %%
manifest = json.loads((run.path / "manifest.json").read_text("utf-8"))
{key: manifest[key] for key in ("wall_seconds", "versions", "hardware", "data_sha256")}

# %% [markdown]
# A checkpoint is small: the base model stays as it is, LoRA adds two thin matrices to each layer.

# %%
[(checkpoint.step, f"{sum(f.stat().st_size for f in checkpoint.path.glob('adapter*')) / 1e6:.0f} MB") for checkpoint in run.checkpoints[1:]]

# %% [markdown]
# The same recipe runs without a notebook: `swift sft recipe.yaml` in the run's folder.

# %% [markdown]
# ## Checkpoint

# %%
assert run.finished and len(run.checkpoints) > 1
frame = curves.training_frame(run.log())
frame[["eval_loss", "eval_token_acc"]].dropna().round(3)

# %% [markdown]
# **If not:** either memory ran out (the log `train.log` in the run's folder ends with *Killed*; close other programs, or lower `per_device_train_batch_size`), or the first lesson did not finish fetching the model.
#
# ## Exercises
#
# 1. *Easy.* Interrupt the training cell (■), then run it again. Where does it resume?
# 2. *Medium.* `profiles.get("laptop", recipe={**profile.recipe, "learning_rate": 5e-5})` is the seed's learning rate. Train it. What do 30 steps at that rate achieve?
# 3. *Hard.* Train `profiles.get("laptop", shape="trace")` and compare both runs in lesson 05, at equal tokens rather than equal rows.
#
# **You learned** to fine-tune with one call that any interruption leaves intact, and which numbers of a recipe depend on the machine.
#
# Next: [05 · Plot accuracy by step](05_plot_accuracy_by_step.ipynb)
