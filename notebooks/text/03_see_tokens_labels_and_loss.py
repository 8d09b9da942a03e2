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
# **You will do:** colour one dialogue token by token: what the model reads, what it is graded on, and how much each token counts.
#
# **You will learn:** how one setting, the loss scale, decides whether a model learns to summarise, and whether it learns to invent results.
#
# **You will need:** one minute, 1 GB of memory. No GPU, no network after lesson 00.

# %%
from IPython.display import HTML

from helpers import assets, corpus, profiles, sources, tokens

profile = profiles.current()
rows = sources.read_rows(assets.dataset_file("authored"))
row = next(row for row in rows if "-en-" in row["id"] and "-single-" in row["id"] and len(row["tools"]) == 1)
print(row["messages"][0]["content"])

# %% [markdown]
# ## 1 · One sample, all of it
#
# The cell encodes the dialogue with ms-swift's own template, the very one that trains. **Grey** is read only. **Green** is graded: the model is asked to
# predict it. **Dark green** counts twice. Point at a token to see its weight. Expect a lot of grey: most of what a model reads it is never asked to write.

# %%
trace = next(corpus.render_rows([row], "trace"))
HTML(tokens.coloured(tokens.encode(trace, profile, "trace")))

# %% [markdown]
# The call is dark green: it has to be exact. The observation is grey although it stands in the middle of the assistant's turn: the tool writes it, not the model.
# The answer after `Answer:` is green. This is the mask that the seed recipe describes.

# %% [markdown]
# ## 2 · The same sample under `--loss_scale react`
#
# The seed's command line used ms-swift's loss scale for ReAct. It knows `Action:`, `Observation:`, `Final Answer:` … and not `Answer:`, AgentFabric's word.
# Before you run the cell: what happens to a text after `Observation:` when the next keyword is unknown?

# %%
HTML(tokens.coloured(tokens.encode(trace, profile, "trace", loss_scale="react"), tail=70))

# %% [markdown]
# Everything after `Observation:` counts as observation. **The answer is wiped out**: the model is never graded on its summary, and token accuracy does
# not see it either. A model trained like this calls tools well and summarises badly, which is what the seed's authors report.

# %% [markdown]
# ## 3 · The same sample under `--loss_scale default`
#
# Without a loss scale the whole assistant turn is graded. Expect the observation to turn green.

# %%
HTML(tokens.coloured(tokens.encode(trace, profile, "trace", loss_scale="default"), tail=70))

# %% [markdown]
# Now the model is taught to *write tool results*, numbers and all. Such a model does not wait for the tool.

# %% [markdown]
# ## 4 · In numbers
#
# How many tokens are graded, and with what total weight, in each case? Expect `react` to have the fewest.

# %%
import pandas as pd

def counted(row, shape, loss_scale=None):
    encoded = tokens.encode(row, profile, shape, loss_scale)
    graded = [token for token in encoded if token.weight]
    return {"tokens": len(encoded), "graded": len(graded), "weight": sum(token.weight for token in graded)}

pd.DataFrame({name: counted(trace, "trace", name) for name in ("agentfabric", "react", "default")}).T

# %% [markdown]
# ## 5 · One dialogue, four shapes
#
# The same canonical row in each of the kit's shapes. First *wire*: what AgentFabric's OpenAI path really sends, one row per request. Expect two rows; in the second, call and
# observation are grey because they stand in the *user's* turn.

# %%
HTML("<hr>".join(tokens.coloured(tokens.encode(one, profile, "wire"), tail=75) for one in corpus.render_rows([row], "wire")))

# %% [markdown]
# In the first row the call ends with `<|im_end|>`, and that token is graded: the model learns to **stop** after a call. In *trace* it never ends there.

# %% [markdown]
# *ReAct*, ms_agent's own form, with the loss scale that fits it:

# %%
react = next(corpus.render_rows([row], "react"))
HTML(tokens.coloured(tokens.encode(react, profile, "react"), tail=75))

# %% [markdown]
# *Hermes*, the form that Qwen and many newer models were trained on. The observation comes back in a turn of its own:

# %%
hermes = next(corpus.render_rows([row], "hermes"))
HTML(tokens.coloured(tokens.encode(hermes, profile, "hermes"), tail=90))

# %% [markdown]
# ## 6 · What is served is what was trained
#
# The kit's first promise. Left: the request that the tool loop will send. Right: the training row's prompt. Expect `True`.

# %%
from helpers.agentfabric import first_request

request = first_request(row["tools"], row["messages"][0]["content"])
sent = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in request) + "<|im_start|>assistant\n"
encoded = tokens.encode(next(corpus.render_rows([row], "wire")), profile, "wire")
sent == "".join(token.text for token in encoded if not token.graded)

# %% [markdown]
# ## 7 · How long are the rows?
#
# The seed trains with `max_length 1500` and ms-swift *deletes* longer rows by default. Expect a few of our rows to lie beyond the line; of the 488 recorded AgentFabric
# dialogues that the seed credits for its success, published counts (mean 2085 tokens) put the larger part there.

# %%
import itertools

import matplotlib.pyplot as plt

from helpers import curves

curves.style()
every = itertools.islice(corpus.render_rows(sources.read_rows(assets.dataset_file("authored")), "trace"), 300)
lengths = [len(tokens.encode(one, profile, "trace")) for one in every]
figure, axis = plt.subplots(figsize=(7, 2.4))
axis.hist(lengths, bins=40, color=curves.COLOURS["visit"])
axis.axvline(1500, color=curves.COLOURS["bfcl"])
axis.set(xlabel=f"tokens per dialogue (trace shape, {profile.model}'s tokenizer, first 300 rows)", ylabel="dialogues");

# %% [markdown]
# Chinese rows are long here because this tokenizer was made for English and needs several tokens per character.

# %% [markdown]
# ## Checkpoint
#
# `agentfabric` grades the answer and not the observation:

# %%
graded = "".join(token.text for token in tokens.encode(trace, profile, "trace") if token.weight)
answer, result = row["messages"][-1]["content"], row["messages"][2]["content"]
assert answer in graded and result not in graded
"the answer is graded, the observation is not"

# %% [markdown]
# **If not:** either the plugin was not loaded (`helpers/swift_plugin.py` registers the loss scale), or another version of ms-swift splits the text differently: `pip show ms-swift`
# should say 4.6.0.
#
# ## Exercises
#
# 1. *Easy.* Find the token where the model learns to stop.
# 2. *Medium.* Give `Answer:` the weight 2 in `LOSS_WEIGHTS` and look again. What would you expect of the model?
# 3. *Hard.* In *wire* shape the call appears twice, once graded, once in the user's turn. What does that cost in tokens, and what would a cheaper shape lose?
#
# **You learned** to read a training sample as the model does, and saw two ways to teach it the wrong thing with one word.
#
# Next: [04 · Finetune with LoRA](04_finetune_with_lora.ipynb)
