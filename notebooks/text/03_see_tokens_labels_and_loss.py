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
# # 03 · See tokens, labels and loss
#
# **You will do:** colour one dialogue token by token: what the model only reads, what is in the
# loss, and how much each token counts.
#
# **You will learn:** how one setting, the loss scale, decides whether a model learns to summarise,
# and whether it learns to invent results; and how rows that share a prompt train as one.
#
# **You will need:** < 1 min, 1.4 GB on two CPU cores. No network.

# %%
from IPython.display import HTML

from helpers import convert, data, profiles, tokens

profile = profiles.current()
rows, _ = data.load("authored")
calling = [row for row in rows if "-en-" in row["id"] and "-single-" in row["id"]]
calling = [row for row in calling if '"arguments": {}' not in row["messages"][1]["content"]]
row = min(calling, key=lambda row: len(str(row)))  # the shortest, so that all of it can be seen
print(row["messages"][0]["content"])

# %% [markdown]
# ## 1 · One sample, all of it
#
# The cell encodes the dialogue as a *trace* with ms-swift's own template, the one that trains. The
# legend says what each colour means; point at a token to see its weight. **Expect** a lot of grey:
# most of what a model reads it is never asked to write.

# %%
trace = next(convert.render_rows([row], "trace"))
HTML(tokens.coloured(tokens.encode(trace, profile, "trace")))

# %% [markdown]
# The call counts twice: it has to be exact. The observation is masked, although it stands in the
# middle of the assistant's turn: the tool writes it, not the model. The answer after `Answer:` is
# in the loss. This is what document 002 of the recipes asks for: the observation takes no part in
# the loss.

# %% [markdown]
# ## 2 · The mask, written out
#
# A loss scale is a short rule. It cuts the assistant's text at keywords. Each keyword has two
# weights: one for the keyword itself, one for the text up to the next keyword. Here it is in full.

# %%
import re

WEIGHTS = {  # keyword: (its own weight, the weight of what follows it)
    "Action:": (2, 2),
    "Action Input:": (2, 2),
    "Observation:": (2, 0),
    "Answer:": (1, 1),
}


def loss_weights(text, weights=WEIGHTS):
    """The pieces of an assistant's text with their weight in the loss; text before a keyword: 1."""
    longest_first = sorted(weights, key=len, reverse=True)
    before, *parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    pieces = [(before, 1)] if before else []
    for keyword, content in zip(parts[::2], parts[1::2]):
        own, following = weights[keyword]
        pieces += [(keyword, own), (content, following)]
    return [(piece, weight) for piece, weight in pieces if piece]


# %% [markdown]
# **Expect** weight 0 for the result only.

# %%
for piece, weight in loss_weights(trace["messages"][-1]["content"]):
    print(weight, repr(piece))

# %% [markdown]
# `helpers/swift_plugin.py` gives ms-swift the same rule. (One thing is finer there: the word
# `Observation:` belongs to the model's turn, the rest of the result does not.) **Expect** the same
# weights.

# %%
from helpers import swift_plugin

swift_plugin.LOSS_WEIGHTS

# %% [markdown]
# ## 3 · The same sample under `--loss_scale react`
#
# ms-swift brings a loss scale for ReAct, which document 004 explains. It knows `Action:`,
# `Observation:`, `Final Answer:` and so on. It does not know `Answer:`, AgentFabric's word. Before
# you run the cell: what happens to a text after `Observation:` when no known keyword follows?

# %%
HTML(tokens.coloured(tokens.encode(trace, profile, "trace", loss_scale="react"), tail=70))

# %% [markdown]
# Everything after `Observation:` counts as the observation, so **the answer is masked too**. The
# model is never trained on its summary, and token accuracy does not see it either.
#
# This concerns traces in AgentFabric's words. The rows of the original recipe keep `Final Answer:`,
# so `react` does train their answers. And no command in the documents sets `--loss_scale` at all.

# %% [markdown]
# ## 4 · The same sample under `--loss_scale default`
#
# Without a loss scale the whole assistant turn is in the loss. **Expect** the observation in
# colour.

# %%
HTML(tokens.coloured(tokens.encode(trace, profile, "trace", loss_scale="default"), tail=70))

# %% [markdown]
# Now the model is trained to *write tool results*. Such a model may not wait for the tool.

# %% [markdown]
# ## 5 · In numbers
#
# How many tokens are in the loss, and with what total weight? **Expect** `react` to have the
# fewest.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from helpers import plots


def counted(row, format, loss_scale=None):
    encoded = tokens.encode(row, profile, format, loss_scale)
    weights = [token.weight for token in encoded if token.weight]
    return {"tokens": len(encoded), "in the loss": len(weights), "total weight": sum(weights)}


scales = ("agentfabric", "react", "default")
pd.DataFrame({name: counted(trace, "trace", name) for name in scales}).T

# %% [markdown]
# ## 6 · The rows that this kit trains on
#
# *wire* is what AgentFabric really sends to an OpenAI-type server: one row per request. **Expect**
# two rows. In the second, call and observation are masked because they stand in the *user's* turn.

# %%
wire = list(convert.render_rows([row], "wire"))
HTML("<hr>".join(tokens.coloured(tokens.encode(one, profile, "wire"), tail=75) for one in wire))

# %% [markdown]
# In the first row the call ends with `<|im_end|>`, and that token is in the loss: the model learns
# to **stop** after a call. In a trace no call ends like this.

# %% [markdown]
# ## 7 · What is served is what was trained
#
# `first_request` makes the request that the tool loop will send. **Expect** `True`: it is, to the
# letter, what the training row shows the model.

# %%
from helpers.agentfabric import first_request

request = first_request(row["tools"], row["messages"][0]["content"])
turns = [f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in request]
sent = "".join(turns) + "<|im_start|>assistant\n"
read = [token.text for token in tokens.encode(wire[0], profile, "wire") if not token.in_loss]
sent == "".join(read)

# %% [markdown]
# ## 8 · One prompt, many dialogues: a pack
#
# Most of what you saw is grey: system prompt and tools, read again for every row. Rows with the
# same prompt can share it. The *practice rows* are written in groups for this purpose: two or
# three dialogues over one tool list. **Expect** the first group's tools, and how many rows its
# dialogues make.

# %%
practice, _ = data.load("practice:200")
group = [row for row in practice if row["tools"] == practice[0]["tools"]]
apart = list(convert.render_rows(group, "wire"))
(pack,) = convert.packed(apart, chars=10_000)
print([tool["function"]["name"] for tool in group[0]["tools"]], len(apart), "rows")

# %% [markdown]
# In a pack the tokens that all rows share stand once, the *prefix*; then a *branch* for each row.
# **Expect** far fewer tokens, and just as many in the loss.

# %%
separate = tokens.count(apart, profile, "wire")
together = tokens.count([pack], profile, "wire")
pd.DataFrame({"apart": separate, "as a pack": together})

# %% [markdown]
# Two things keep the branches apart. A branch's positions go on where the prefix ends. And the
# attention mask lets a token see the prefix and its own branch, nothing else. **Expect** a dark
# stripe at the left, the prefix that all see, and a small triangle for each branch.

# %%
template = tokens.template_of(profile, "wire")
branches = template.encode(pack)["branches"]
figure, axis = plt.subplots(figsize=(4.5, 4.5))
axis.imshow(swift_plugin.visible(branches), cmap="Blues", interpolation="nearest")
axis.set(xlabel="… sees this one", ylabel="this token …", title=f"{len(branches)} tokens")
axis.grid(False)

# %% [markdown]
# So every token of a branch is computed from what it would see if its row stood alone: it is the
# same training. Do not believe it, try it: the loss of every trained token, apart and as a pack.
# **Expect** a largest difference below 0.0001, which is the rounding of 32-bit numbers.

# %%
import torch
from transformers import AutoModelForCausalLM

from helpers import assets

small = AutoModelForCausalLM.from_pretrained(assets.model_dir(profile.model), dtype=torch.float32)


def losses(row):
    inputs = template.data_collator([template.encode(row)])
    labels = inputs.pop("labels")[0, 1:]
    inputs.pop("loss_scale")
    with torch.no_grad():
        logits = small(**inputs).logits[0, :-1]
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return each[labels != -100]


difference = losses(pack) - torch.cat([losses(row) for row in apart])
len(difference), difference.abs().max().item()

# %% [markdown]
# `helpers/swift_plugin.py` teaches ms-swift to read packs; lesson 04 says what they save.

# %% [markdown]
# ## Checkpoint
#
# The kit's mask trains the answer and not the observation.

# %%
encoded = tokens.encode(trace, profile, "trace")
trained = "".join(token.text for token in encoded if token.weight)
answer, result = row["messages"][-1]["content"], row["messages"][2]["content"]
assert answer in trained and result not in trained
"the answer is in the loss, the observation is not"

# %% [markdown]
# **If not:** the plugin was not loaded (`helpers/swift_plugin.py` registers the loss scale), or
# another version of ms-swift cuts the text differently: `pip show ms-swift` should say 4.6.0.
#
# ## Appendix A · Two more formats
#
# *ReAct*, ms_agent's own words, with the loss scale that fits them. **Expect** the answer in
# colour.

# %%
react = next(convert.render_rows([row], "react"))
HTML(tokens.coloured(tokens.encode(react, profile, "react"), tail=75))

# %% [markdown]
# *Hermes*, the form that Qwen and many newer models were trained on. **Expect** the observation in
# a turn of its own.

# %%
hermes = next(convert.render_rows([row], "hermes"))
HTML(tokens.coloured(tokens.encode(hermes, profile, "hermes"), tail=90))

# %% [markdown]
# ## Appendix B · How long are the rows?
#
# Document 001 trains with `max_length 1500`, and ms-swift *deletes* longer rows by default.
# **Expect** a few of our rows beyond the line. For the 488 recorded AgentFabric dialogues ms-swift
# publishes a mean of 2,085 tokens, a deviation of 1,515, a smallest of 489 and a largest of 7,354.
# So some of them are deleted; these four numbers do not say how many.

# %%
plots.style()
every = list(convert.render_rows(rows[:300], "trace"))
lengths = [len(tokens.encode(one, profile, "trace")) for one in every]
figure, axis = plt.subplots(figsize=(7, 2.4))
axis.hist(lengths, bins=40)
axis.axvline(1500, color="black")
axis.set(xlabel=f"tokens per dialogue ({profile.model}'s tokenizer, 300 rows)", ylabel="dialogues")
figure.tight_layout()

# %% [markdown]
# Chinese rows are long here: this tokenizer was made for English and needs two to three tokens for
# a Chinese character.
#
# ## Exercises
#
# 1. *Easy.* Find the token where the model learns to stop.
# 2. *Medium.* Give `Answer:` the weight 2 in `WEIGHTS`. Which pieces change? What would you expect
#    of a model trained like this?
# 3. *Hard.* In *wire* the call appears twice: once in the loss, once in the user's turn. How many
#    tokens does that cost? What would a shorter format lose?
#
# **You learned** to read a training sample as the model does, and saw two ways to train the wrong
# thing with one word.
#
# Next: [04 · Finetune with LoRA](04_finetune_with_lora.ipynb)
