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
# **You will learn:** how the ms_agent data set writes tools, calls and results as plain text.
#
# **You will need:** < 1 min, 0.3 GB on two CPU cores. No network.
#
# `iic/ms_agent` on ModelScope holds 30,000 such dialogues. This repository carries 1,536
# **synthetic** ones in the same format. A script wrote them from a catalogue of tools, so that the
# lesson runs anywhere. With a network, `"modelscope"` in the next cell reads the real ones.

# %%
import json

from helpers import assets

path = assets.dataset_file("authored")  # or "modelscope"
raw = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
len(raw), raw[0].keys()

# %% [markdown]
# ## 1 · One dialogue, as it stands
#
# A row is an `id` and a list of turns. The **system** turn lists the tools. The **assistant** turn
# holds several steps in one text: which tool to call (`Action`), with which arguments (`Action
# Input`), what the tool answered (`Observation`), and the `Final Answer`. **Expect** plain text:
# the structure is nothing but these words.

# %%
sample = next(row for row in raw if "-en-" in row["id"] and "-single-" in row["id"])
for turn in sample["conversations"]:
    print(f"--- {turn['from']} ---\n{turn['value']}\n")

# %% [markdown]
# The observation is the tool's text, but it stands in the assistant's turn, between the model's own
# words. Lesson 03 shows why this matters in training.

# %% [markdown]
# ## 2 · The same in Chinese
#
# About four of our rows in ten are Chinese, with the English frame around them. **Expect** a
# Chinese question and its reply. The documents say that the real `ms_agent` is all English; the one
# genuine row that they print has Chinese questions and answers in it.

# %%
chinese = next(row for row in raw if "-zh-" in row["id"] and "-chain-" in row["id"])
print(chinese["conversations"][1]["value"], "\n")
print(chinese["conversations"][2]["value"])

# %% [markdown]
# ## 3 · A table of all rows
#
# `data.load` reads a file into rows of `tools` and `messages` (lesson 02 shows how), and into the
# rows that it rejects. **Expect** one summary column for each thing we count.

# %%
import pandas as pd

from helpers import agentfabric, data

rows, rejected = data.load("authored")
frame = pd.DataFrame(
    {
        "language": [data.row_language(row) for row in rows],
        "tools": [len(row["tools"]) for row in rows],
        "user turns": [sum(m["role"] == "user" for m in row["messages"]) for row in rows],
        "calls": [len(agentfabric.calls_of(row["messages"])) for row in rows],
        "characters": [len(json.dumps(row, ensure_ascii=False)) for row in rows],
    }
)
print(f"{len(rows)} rows read, {len(rejected)} rejected")
frame.describe().round(1)

# %% [markdown]
# ## 4 · Pictures
#
# Before you run the cell: how many tools do you expect in a typical prompt, and how many calls in a
# typical dialogue?

# %%
import matplotlib.pyplot as plt

from helpers import plots

plots.style()
figure, axes = plt.subplots(1, 4, figsize=(13, 2.8))
for axis, column in zip(axes, ["tools", "calls", "user turns"]):
    counts = frame[column].value_counts().sort_index()
    counts.plot.bar(
        ax=axis, color=plots.COLOURS["episode"], rot=0, xlabel=column, ylabel="dialogues"
    )
frame.groupby("language").characters.plot.hist(ax=axes[3], bins=30, alpha=0.6, legend=True)
axes[3].set_xlabel("characters")
figure.tight_layout()

# %% [markdown]
# Most prompts list one to three tools, and a few list more than nine. Most dialogues call one tool
# once. Dialogues without a call matter too: a model has to learn when *not* to call.

# %% [markdown]
# ## 5 · Which tools are there?
#
# **Expect** more than a hundred names, each called a few times. The model shall learn to read a
# tool's description, not to remember the tool.

# %%
called = [call["name"] for row in rows for call in agentfabric.calls_of(row["messages"])]
offered = [tool["function"]["name"] for row in rows for tool in row["tools"]]
table = pd.DataFrame({"offered": pd.Series(offered).value_counts()})
table["called"] = pd.Series(called).value_counts()
print(f"{len(table)} tools are offered, {table.called.notna().sum()} are called")
table.sort_values("called", ascending=False).head(8)

# %% [markdown]
# ## 6 · What kinds of argument?
#
# **Expect** a bit more than one parameter in four not to be text.

# %%
types = pd.Series(
    [
        schema["type"]
        for row in rows
        for tool in row["tools"]
        for schema in tool["function"]["parameters"]["properties"].values()
    ]
)
types.value_counts(normalize=True).round(3).to_frame("share")

# %% [markdown]
# ## Checkpoint
#
# Rows in = rows read + rows rejected. The cell fails if one is lost.

# %%
assert len(raw) == len(rows) + len(rejected)
len(raw), len(rows), len(rejected)

# %% [markdown]
# **If not:** the file was cut while it was downloaded (delete it from `.cache/datasets` and run
# again), or it is not in ms_agent's format (lesson 02 shows the reasons row by row).
#
# ## Exercises
#
# 1. *Easy.* Find a dialogue in which the tool fails. What does the assistant say?
# 2. *Medium.* Draw the number of required parameters per tool. Which tools have none?
# 3. *Hard.* How often does an `Action Input` hold a value that is not in the user's words? Where
#    does it come from?
#
# **You learned** what an ms_agent row looks like, and that its structure is a few English words.
#
# Next: [02 · Convert to AgentFabric](02_convert_to_agentfabric.ipynb)
