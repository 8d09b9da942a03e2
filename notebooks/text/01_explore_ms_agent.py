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
# # 01 · Explore ms_agent
#
# **You will do:** read dialogues in which a model calls tools, and plot what is in them.
#
# **You will learn:** how the ms_agent data set writes tools, calls and observations as plain text.
#
# **You will need:** one minute, 0.5 GB of memory. No GPU, no network.
#
# `iic/ms_agent` on ModelScope holds 30,000 such dialogues. This repository carries 1,536 **synthetic** ones in the same format,
# written by a script from a catalogue of tools, so that the lesson runs anywhere. With a network, `"modelscope"` in the next cell
# reads the real ones instead.

# %%
import json

from helpers import assets

path = assets.dataset_file("authored")  # or "modelscope"
raw = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
len(raw), raw[0].keys()

# %% [markdown]
# ## 1 · One dialogue, as it stands
#
# A row is an `id` and a list of turns. The **system** turn lists the tools; the **assistant** turn holds a whole small play: which tool
# to call (`Action`), with what (`Action Input`), what the tool said (`Observation`), and the `Final Answer`. Expect to see all of it as text: there is no
# structure but these words.

# %%
sample = next(row for row in raw if "-en-" in row["id"] and "-single-" in row["id"])
for turn in sample["conversations"]:
    print(f"--- {turn['from']} ---\n{turn['value']}\n")

# %% [markdown]
# Note what the model is asked to do with the observation: nothing is asked. In training, the observation stands in the same assistant turn as
# the model's own words. Lesson 03 shows why that matters.

# %% [markdown]
# ## 2 · The same in Chinese
#
# About four rows in ten are Chinese. The frame of the prompt stays English, as in the real data.

# %%
chinese = next(row for row in raw if "-zh-" in row["id"] and "-chain-" in row["id"])
print(chinese["conversations"][1]["value"], "\n")
print(chinese["conversations"][2]["value"])

# %% [markdown]
# ## 3 · A table of all rows
#
# `sources.read_rows` reads text into structure (lesson 02 shows how). Here we only count. Expect one line per dialogue.

# %%
import pandas as pd

from helpers import canonical, sources

rows, rejected = sources.split_rejected(sources.read_rows(path))
frame = pd.DataFrame({
    "language": [canonical.row_language(row) for row in rows],
    "tools": [len(row["tools"]) for row in rows],
    "user turns": [sum(m["role"] == "user" for m in row["messages"]) for row in rows],
    "calls": [len(canonical.calls_of(row["messages"])) for row in rows],
    "characters": [len(json.dumps(row, ensure_ascii=False)) for row in rows],
})
print(f"{len(rows)} rows read, {len(rejected)} set aside")
frame.describe().round(1)

# %% [markdown]
# ## 4 · Pictures
#
# Before you run the cell: how many tools do you expect in a typical prompt, and how many calls in a typical dialogue?

# %%
import matplotlib.pyplot as plt

from helpers import curves

curves.style()
figure, axes = plt.subplots(1, 4, figsize=(13, 2.8))
for axis, column in zip(axes, ["tools", "calls", "user turns"]):
    frame[column].value_counts().sort_index().plot.bar(ax=axis, color=curves.COLOURS["visit"], rot=0, xlabel=column, ylabel="dialogues")
frame.groupby("language").characters.plot.hist(ax=axes[3], bins=30, alpha=0.6, legend=True)
axes[3].set_xlabel("characters")
figure.tight_layout()

# %% [markdown]
# Most prompts list one to three tools, a few more than nine. Most dialogues call one tool once. Zero calls are as important as one: a
# model has to learn when *not* to call.

# %% [markdown]
# ## 5 · Which tools are there?
#
# Expect well over a hundred names, each called a handful of times: the model shall learn to read a description, not to remember a tool.

# %%
called = pd.Series([call["name"] for row in rows for call in canonical.calls_of(row["messages"])]).value_counts()
offered = pd.Series([tool["function"]["name"] for row in rows for tool in row["tools"]]).value_counts()
print(f"{len(offered)} tools are offered, {len(called)} are called")
pd.DataFrame({"offered": offered, "called": called}).sort_values("called", ascending=False).head(8)

# %% [markdown]
# ## 6 · What kinds of argument?
#
# Tools with a single text argument are easy. Expect a third of the parameters not to be text.

# %%
types = pd.Series([schema["type"] for row in rows for tool in row["tools"]
                   for schema in tool["function"]["parameters"]["properties"].values()])
types.value_counts(normalize=True).round(3).to_frame("share")

# %% [markdown]
# ## Checkpoint
#
# Rows in = rows read + rows set aside. The cell fails if one has got lost.

# %%
assert len(raw) == len(rows) + len(rejected)
len(raw), len(rows), len(rejected)

# %% [markdown]
# **If not:** either the file was cut while it was downloaded (delete it from `.cache/datasets` and run again), or it is not in ms_agent's format (lesson 02 shows
# the reasons row by row).
#
# ## Exercises
#
# 1. *Easy.* Find a dialogue in which the tool fails. What does the assistant say?
# 2. *Medium.* Draw the number of required parameters per tool. Which tools have none?
# 3. *Hard.* How often does the `Action Input` of a dialogue hold a value that does not occur in the user's words? Where does it come from?
#
# **You learned** what an ms_agent row looks like, and that its structure lives in a handful of English words.
#
# Next: [02 · Convert to AgentFabric](02_convert_to_agentfabric.ipynb)
