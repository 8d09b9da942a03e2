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
# # 08 · Run it in AgentFabric
#
# **You will do:** put your model behind ModelScope-Agent's own RolePlay, ask it for the weather in
# English and Chinese, and then talk to it in the AgentFabric app in a browser.
#
# **You will learn:** what the runtime does around the model, what an entry in AgentFabric's
# `model_config.json` means, and what the app adds to a prompt.
#
# **You will need:** 2 min, 2.1 GB on two CPU cores, and lesson 04's run (step 1 trains it if it is
# missing). RolePlay needs `make roleplay` once (0.3 GB), the app `make agentfabric` (0.7 GB and
# AgentFabric's source). If one of them is missing, the lesson says so in one line and goes on.

# %%
import json
from contextlib import ExitStack

import pandas as pd

from helpers import profiles, serving, train
from helpers.agentfabric import first_request
from helpers.assets import KitError
from helpers.runtime import agreement, app, roleplay
from helpers.runtime.tools import data

profile = profiles.current()
print(f"profile {profile.name}: {profile.model} on {profile.device}")

# %% [markdown]
# ## 1 · Serve base and tuned
#
# ModelScope-Agent does not load models; it asks a server. So start lesson 07's. **Expect** one line
# with two names.

# %%
run = train.finetune(profile)
running = ExitStack()
checkpoint = run.checkpoints[-1].path
server = running.enter_context(serving.deploy(profile, {"tuned": checkpoint}, port=0))

# %% [markdown]
# ## 2 · Two questions, two languages
#
# These are the two tools of document 001, weather and painting, under their real names. The real
# `amap_weather` needs a key and a network; ours reads a small table in `data/roleplay`. (With
# `AMAP_TOKEN` set, the real one runs.)
#
# **Expect** four episodes: in each language a plain one, and one with what the app adds (section
# 5).

# %%
questions = {"en": "What is the weather in Oslo?", "zh": "朝阳区天气怎样？"}
rows = []
for language, query in questions.items():
    assistant = app.ASSISTANT[language]
    role = {key: assistant[key] for key in ("name", "description", "instruction")}
    row = {"id": language, "query": query, "tools": data("tools")[language][:1]}
    rows += [
        row,
        {**row, "id": f"{language}-app", "instruction": role, "knowledge": "Empty Response"},
    ]
pd.DataFrame(rows)[["id", "query"]]

# %% [markdown]
# ## 3 · RolePlay
#
# `helpers/runtime` starts ModelScope-Agent 0.7.2 in its own environment, because it pins libraries
# that are years older than ms-swift's. Nothing of it is replaced: it writes the prompt, reads the
# reply, runs the tool and asks again.
#
# **Expect** the steps of the two plain episodes, base and tuned, or one line that says what to run
# first. With the `laptop` profile the base model chats. The tuned one calls `amap_weather` in
# English. It was trained on English rows only; in Chinese its reply is a matter of luck. With
# `smoke` everything is noise.

# %%
made = {}
try:
    for name in ("base", "tuned"):
        out = run.path / "roleplay" / f"weather_{name}.jsonl"
        made[name] = roleplay.episodes(rows, server.url, name, out, parallel=4, quiet=True)
except KitError as error:
    print(error)


# %%
def show(chosen):
    for name, transcripts in made.items():
        for one in [one for one in transcripts if one.id in chosen]:
            print(f"── {name}, {one.id}: {one.requests} requests", one.error or "")
            for step in one.steps[:3]:
                result = f"\n  result: {step.result[:200]}" if step.result else ""
                print(f"{step.kind}: {step.text[:300]}{result}")


show(["en", "zh"])

# %% [markdown]
# *1 requests* means: the runtime saw no call, and took the reply as the answer. Ten means that the
# model called until the runtime stopped it.
#
# ## 4 · Does our loop tell the truth?
#
# Lesson 05 scored episodes in this process, without RolePlay. Is that the same? `python -m
# helpers.runtime agreement` puts the same 100 held-out cases to base and tuned both ways; its
# transcripts are committed. **Expect** equal transcripts, or nearly: there, replies are made in
# batches, and padding may turn a choice between two nearly equal tokens. Where that happened, our
# loop was asked again, one request at a time.

# %%
agreement.table(agreement.KEPT / "agreement-laptop")

# %% [markdown]
# ## 5 · What the app adds
#
# AgentFabric is a web page around RolePlay. Its prompt is RolePlay's, with two additions: a
# knowledge block, which says `Empty Response` when no file was uploaded, and the role's name before
# each question. **Expect** both below. RolePlay with these arguments sends the same bytes as the
# app, so you can see the app's requests without it.

# %%
role = rows[1]["instruction"]
text = {
    "instruction": roleplay.role_text(role, "en"),
    "role": role["name"],
    "knowledge": "Empty Response",
}
request = first_request(rows[1]["tools"], rows[1]["query"], **text)
print(request[0]["content"][:120], "[…]", request[0]["content"][-220:], sep="\n")
print("\nUser:", request[-1]["content"])

# %% [markdown]
# **Expect**, if RolePlay is here, how both models take the longer prompt.

# %%
show(["en-app", "zh-app"])

# %% [markdown]
# ## 6 · Register the model
#
# AgentFabric finds models in `config/model_config.json`. **Expect** document 001's entry with our
# address. Two of its lines matter: without `is_chat` an empty prompt is sent, and
# `is_function_call` must be false for a model that writes its calls as text.

# %%
print(json.dumps({"tuned": app.model_entry(server.url, "tuned")}, indent=2))

# %% [markdown]
# ## 7 · Start the app
#
# In a terminal, `make agentfabric AGENTFABRIC_SRC=<checkout>` does all of this, and stays until you
# press Ctrl-C. The checkout is that of
# [modelscope-agent](https://github.com/modelscope/modelscope-agent), tag `v0.7.2`; without
# `AGENTFABRIC_SRC` it is cloned. Its files are only read: our configuration is in
# `runs/agentfabric-<port>`. One fault is repaired while it runs: the app hands `user_token` on to a
# client that refuses it.
#
# **Expect** the page's address, or what is missing.

# %%
import os

page = None
try:
    source = app.checked_source(os.environ.get("AGENTFABRIC_SRC") or app.cloned().resolve())
    page = running.enter_context(app.launch(source, server.url, ["tuned", "base"], port=0))
    print(page.url)
except KitError as error:
    print(error)

# %% [markdown]
# Open the address in a browser, and choose *Configure*. On the left are name, description,
# instruction, model and tools of the agent; on the right you talk to it.
#
# ![The app: an English question, the call, the answer](../figures/agentfabric_english.png)
#
# The picture shows an earlier model of this kit (tuned on 176 rows, English only). It calls
# `amap_weather`, gets the table's result, and sums it up. The two grey bars hold call and result;
# click to open them. The word *Answer:* is the runtime's own: it ends each observation with it, and
# the page shows the model's text behind it.
#
# In Chinese (`make agentfabric APP_LANGUAGE=zh`) the same model, which never saw a Chinese row in
# training, still copies name and place into a call that runs. The picture was taken while it was
# writing: the result is there, its answer not yet.
#
# ![The app: a Chinese question, the call and its result](../figures/agentfabric_chinese.png)
#
# The *Create* tab, where a large model writes the configuration for you, needs ModelScope's own
# models.
#
# ## 8 · Stop
#
# **Expect** `True` for the server, and for the app if it ran.

# %%
running.close()
ended = [one.process.poll() is not None for one in (server, page) if one]
print("ended:", *ended)

# %% [markdown]
# ## Checkpoint

# %%
assert all(ended)
assert "Empty Response" in request[0]["content"] and request[-1]["content"].endswith(
    rows[1]["query"]
)
assert all(not one.error for transcripts in made.values() for one in transcripts), made
count = sum(len(transcripts) for transcripts in made.values())
print(
    f"{count} episodes through RolePlay, app {'started' if page else 'not here'}; nothing left running"
)

# %% [markdown]
# **If not:** an episode has an error (the server ran out of memory: its log is in
# `runs/<profile>/serving/`), or the app did not start (its log is in `runs/agentfabric-<port>`).
#
# ## Appendix · Record what AgentFabric sends
#
# The original recipe's other remedy was to add 488 dialogues recorded from AgentFabric. To make
# such rows yourself, put a recorder between AgentFabric and a model server. A large model is best
# there: what it answers is what you train on.
#
# ```
# python -m helpers.record proxy --to http://127.0.0.1:8000/v1 --port 8900 --out recordings.jsonl
# python -m helpers.record rows recordings.jsonl --out rows.jsonl
# ```
#
# Give AgentFabric (or RolePlay, or the kit's own loop) the address `http://127.0.0.1:8900/v1`. The
# second command groups the requests into dialogues. It keeps a dialogue if its calls fit their
# tools, its answer uses what the tools said, and it stopped by itself. The others are kept beside
# it with their reason. No key is ever written.
#
# ## Exercises
#
# 1. *Easy.* Ask for a place that is not in the weather table of `data/roleplay`. What does the
#    runtime hand to the model, and what does the model make of it?
# 2. *Medium.* In the app, tick both tools and choose *base* as the model. What changes in the
#    answer, and why does the app show no call?
# 3. *Hard.* Put the recorder between the app and the server, chat a little, and turn the recording
#    into training rows. Which dialogues are rejected, and why?
#
# **You learned** to take a model of your own through ModelScope-Agent and its app, and what is
# added to a prompt on the way.
#
# Next: [09 · Reproduce the study](09_reproduce_the_study.ipynb)
