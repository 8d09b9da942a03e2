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
# **You will do:** put your model behind ModelScope-Agent's own RolePlay, ask it for the weather in English and Chinese, and
# then talk to it in the AgentFabric app in a browser.
#
# **You will learn:** what the runtime does around the model, what an entry in AgentFabric's `model_config.json` means, and
# what the app adds to a prompt.
#
# **You will need:** two to five minutes on two CPU cores, 4 GB of memory, and lesson 04's run (step 1 trains it if missing). RolePlay needs `make roleplay` once
# (0.3 GB), the app `make agentfabric` (0.7 GB and AgentFabric's source). What is not there is said in one line, and
# the lesson goes on.

# %%
import json
import os
import urllib.request
from contextlib import ExitStack

import pandas as pd

from helpers import agentfabric_app, agentfabric_source, assets, finetune, profiles, roleplay, serving, supervisor
from helpers.agentfabric import first_request

profile = profiles.current()
print(f"profile {profile.name}: {profile.model} on {profile.device}")

# %% [markdown]
# ## 1 · Serve base and tuned
#
# ModelScope-Agent does not load models; it asks a server. So start lesson 07's. **Expect** one line with two names.

# %%
run = finetune.finetune(profile)
running = ExitStack()
server = running.enter_context(serving.deploy(profile, {"tuned": run.checkpoints[-1].path}, port=0))

# %% [markdown]
# ## 2 · Two visits, two languages
#
# These are the seed recipe's two tools, weather and painting, under their real names. The real `amap_weather` needs a key
# and a network; ours reads a small table, `data/roleplay/weather.json`. (With `AMAP_TOKEN` set, the real one runs.)
#
# **Expect** four visits: in each language a plain one, and one with what the app adds (step 5).

# %%
tools = json.loads((assets.repo_root() / "data/roleplay/tools.json").read_text("utf-8"))
questions = {"en": "What is the weather in Oslo?", "zh": "朝阳区今天天气怎么样？"}
rows = []
for language, query in questions.items():
    role = {key: agentfabric_app.ASSISTANT[language][key] for key in ("name", "description", "instruction")}
    row = {"id": language, "query": query, "tools": tools[language][:1]}
    rows += [row, {**row, "id": f"{language}-app", "instruction": role, "knowledge": "Empty Response"}]
pd.DataFrame([{"id": row["id"], "query": row["query"], "tool": row["tools"][0]["function"]["name"]} for row in rows])

# %% [markdown]
# ## 3 · RolePlay
#
# `helpers/roleplay.py` starts ModelScope-Agent 0.7.2 in its own environment, because it pins libraries that are years older
# than ms-swift's. Nothing of it is replaced: it writes the prompt, reads the reply, runs the tool and asks again.
#
# **Expect** the steps of the two plain visits, base and tuned, or one line that says what to run first. With the `laptop` profile
# the base model chats. The tuned one calls `amap_weather` in English; it was trained on English rows
# only, so what it makes of Chinese is luck. With `smoke` everything is noise.

# %%
made = {}
try:
    for name in ("base", "tuned"):
        out = run.path / "roleplay" / f"weather_{name}.jsonl"
        made[name] = roleplay.visits(rows, server.url, name, out, parallel=4, quiet=True)
except roleplay.RolePlayError as error:
    print(error)

# %%
def show(chosen):
    for name, transcripts in made.items():
        for transcript in [one for one in transcripts if one.id in chosen]:
            print(f"── {name}, {transcript.id}: {transcript.requests} requests", transcript.error or "")
            for step in transcript.steps[:3]:
                print(f"{step.kind}: {step.text[:300]}" + (f"\n  result: {step.result[:200]}" if step.result else ""))


show(["en", "zh"])

# %% [markdown]
# A visit with `requests` 1 means: the runtime saw no call, and took the reply as the answer. Ten means that the model called
# on and on until the runtime had enough.
#
# ## 4 · Does our loop tell the truth?
#
# Lesson 05 scored visits in this process, without RolePlay. Is that the same? `python -m helpers.agreement` puts the same 100 held-out cases to base and tuned both ways; its
# transcripts are committed. **Expect** equal transcripts, or nearly: replies are made in batches there, and padding may turn a choice between two nearly equal tokens. Where
# that happened, our loop was asked again, one request at a time.

# %%
from helpers import agreement

agreement.table(agreement.KEPT / "agreement-laptop")

# %% [markdown]
# ## 5 · What the app adds
#
# AgentFabric is a web page around RolePlay. Its prompt is RolePlay's, with two additions: a knowledge block, which says
# `Empty Response` when no file was uploaded, and the role's name before each question. **Expect** both below. RolePlay with
# these arguments sends the same bytes as the app, so the app's requests can be had without the app.

# %%
as_app = rows[1]
request = first_request(as_app["tools"], as_app["query"], instruction=roleplay.role_text(as_app["instruction"], "en"),
                        knowledge=as_app["knowledge"], role=as_app["instruction"]["name"])
print(request[0]["content"][:120], "[…]", request[0]["content"][-220:], sep="\n")
print("\nUser:", request[-1]["content"])

# %% [markdown]
# **Expect**, if RolePlay is here, how both models take the longer prompt.

# %%
show(["en-app", "zh-app"])

# %% [markdown]
# ## 6 · Register the model
#
# AgentFabric finds models in `config/model_config.json`. **Expect** the seed recipe's entry with our address. Two of its lines
# matter: `is_chat`, without which an empty prompt is sent, and `is_function_call`, which must be false for a model that
# writes its calls as text.

# %%
print(json.dumps({"tuned": agentfabric_app.model_entry(server.url, "tuned")}, indent=2))

# %% [markdown]
# ## 7 · Start the app
#
# In a terminal, `make agentfabric AGENTFABRIC_SRC=<checkout>` does all of this, and stays until you press Ctrl-C. The
# checkout is that of [modelscope-agent](https://github.com/modelscope/modelscope-agent), tag `v0.7.2`; without
# `AGENTFABRIC_SRC` it is cloned. Its files are only read: our configuration lies in `runs/agentfabric-<port>`, and one fault
# (the app hands `user_token` on to a client that refuses it) is mended while it runs.
#
# **Expect** the page's address and its size, or what is missing.

# %%
app = None
try:
    source = agentfabric_source.checked_source(os.environ.get("AGENTFABRIC_SRC") or agentfabric_source.cloned())
    app = running.enter_context(agentfabric_app.launch(source, server.url, ["tuned", "base"], port=0))
    print(app.url, len(urllib.request.urlopen(app.url).read()), "bytes")
except agentfabric_source.AppError as error:
    print(error)

# %% [markdown]
# Open the address in a browser, and choose *Configure*. On the left are name, description, instruction, model and tools of
# the agent; on the right you talk to it.
#
# ![The app: an English question, the call, the answer](../figures/agentfabric_english.png)
#
# This is the laptop profile's tuned model (176 training rows, English only). It calls `amap_weather`, gets the table's
# result, and sums it up. The two grey bars hold call and result; click them open. The word *Answer:* is the runtime's own:
# it ends each observation with it, and the page shows the model's text behind it.
#
# In Chinese (`make agentfabric APP_LANGUAGE=zh`) the same model, which never saw a Chinese row in training, still copies
# name and place into a call that runs. The picture was taken while it was writing: the result is there, its answer not yet.
#
# ![The app: a Chinese question, the call and its result](../figures/agentfabric_chinese.png)
#
# The *Create* tab, where a large model writes the configuration for you, needs ModelScope's own models; leave it alone.
#
# ## 8 · Stop
#
# **Expect** empty lists.

# %%
running.close()
left = [supervisor.session(one.process.pid) for one in (server, app) if one]
print("left running:", *left)

# %% [markdown]
# ## Checkpoint

# %%
assert not any(left)
assert "Empty Response" in request[0]["content"] and request[-1]["content"].endswith(as_app["query"])
assert all(not transcript.error for transcripts in made.values() for transcript in transcripts), made
print(f"{sum(len(transcripts) for transcripts in made.values())} visits through RolePlay, app "
      f"{'started' if app else 'not here'}; nothing left running")

# %% [markdown]
# **If not:** either a visit has an error (the server ran out of memory: its log is in `runs/<profile>/serving/`), or a process is
# left because it does not react (the list names it; end it by its number).
#
# ## Exercises
#
# 1. *Easy.* Ask for a place that is not in `data/roleplay/weather.json`. What does the runtime hand to the model, and what does the model make of it?
# 2. *Medium.* In the app, tick both tools and choose *base* as the model. What changes in the answer, and why does the app show no call?
# 3. *Hard.* Put `recorder` (`python -m helpers.recorder --help`) between the app and the server, chat a little, and turn the recording into training rows.
#
# **You learned** to take a model of your own through ModelScope-Agent and its app, and what is added to a prompt on the way.
