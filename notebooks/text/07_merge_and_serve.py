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
# # 07 · Merge and serve
#
# **You will do:** merge the adapter into its base model, serve both with `swift deploy` (and with vLLM, if you have it), and
# ask them from any OpenAI client.
#
# **You will learn:** why a merged model is the same model, what a chat template does to a plain prompt, how native `tools=[…]`
# reach a model that only reads text, and how two servers can answer one request differently.
#
# **You will need:** lesson 04's run; if it is missing, step 1 trains it first. On two busy CPU
# cores this notebook took 7 minutes and 2.5 GB with the `laptop` profile, 4 minutes and 4 GB more with vLLM, and a minute with
# `smoke`. It has not been run on a GPU yet.

# %%
from contextlib import ExitStack

import openai
import pandas as pd

from helpers import assets, endpoint, evaluate, finetune, inference, merging, profiles, scoring, serving, supervisor
from helpers.agentfabric import cut_at_stop, first_request
from helpers.tools import schemas

profile = profiles.current()
print(f"profile {profile.name}: {profile.model} on {profile.device}")

# %% [markdown]
# ## 1 · Merge the adapter
#
# A LoRA checkpoint is not a model: it is two thin matrices for each layer. While they stay apart, every token pays for both
# paths. **Merging** adds their product to the base weights once, `W + (alpha / r) · B · A`, and the result is an ordinary
# model folder that any server loads. `swift export --merge_lora true` does it, in a process of its own.
#
# **Expect** a folder under the run. The second time it is reused.

# %%
run = finetune.finetune(profile)
checkpoint = run.checkpoints[-1].path
merged = merging.merge(profile, checkpoint)
print(merged)

# %% [markdown]
# **Expect** an adapter that is small beside its base, and a merged model that is as large as the base.

# %%
folders = {"adapter": checkpoint, "base": assets.model_dir(profile.model), "merged": merged}
pd.Series({name: f"{merging.megabytes(folder):,.1f} MB" for name, folder in folders.items()}, name="weights").to_frame()

# %% [markdown]
# ## 2 · Check that it is still the same model
#
# Never trust a merge unseen: a wrong base, a wrong scale or too coarse a number format also give a model that loads. So ask
# merged and unmerged the same held-out questions. **Expect** logits that differ by rounding only (in float32 below
# 0.001), and the same greedy text. In bfloat16 each merged weight is rounded once more; logits then move by some tenths, and
# a close decision may turn.

# %%
cases = [scoring.case_of(row) for row in run.cases]
requests = [first_request(case.tools, case.query) for case in cases]
comparison = merging.compare(profile, checkpoint, merged, requests[:3])
comparison

# %% [markdown]
# ## 3 · Start a server
#
# `swift deploy` puts the base model and the adapter side by side behind one address, each under its own name. The server is
# a process of its own. It lives as long as the block (here: the `ExitStack`) is open, and not longer, even if this kernel
# is killed.
#
# **Expect** about ten seconds of waiting, then one line: the names, the address, the log. The port is read from the server's
# log, because `swift deploy` silently takes the next one where its port is busy, and then an older server might answer you.

# %%
running = ExitStack()
server = running.enter_context(serving.deploy(profile, {"tuned": checkpoint}, port=0))

# %% [markdown]
# Outside a notebook, `make serve` does the same on port 8000 until you press Ctrl-C. The address speaks OpenAI's protocol, so
# the `openai` package is the client, and everything else that speaks it will do. **Expect** two names.

# %%
client = openai.OpenAI(base_url=server.url, api_key="EMPTY")
[model.id for model in client.models.list()]

# %% [markdown]
# ## 4 · Chat
#
# The request is the one of lesson 06: AgentFabric's system message and the user's turn. AgentFabric sends neither
# `temperature` nor `max_tokens`, so the server was started with 0 and the profile's limit.
#
# **Expect** chat from the base model, and a call from the tuned one (with the `smoke` profile, noise from both).

# %%
def reply_of(model):
    return client.chat.completions.create(model=model, messages=requests[0], stop=["Observation:"]).choices[0]


print("User:", cases[0].query, "\n")
for model in ("base", "tuned"):
    print(f"{model}: {reply_of(model).message.content!r}\n")

# %% [markdown]
# The same, streamed: the reply comes in pieces while it is written. **Expect** the pieces, divided by `|`.

# %%
stream = client.chat.completions.create(model="tuned", messages=requests[0], stop=["Observation:"], stream=True)
print("|".join(chunk.choices[0].delta.content or "" for chunk in stream))

# %% [markdown]
# ## 5 · The seed's curl, and a template you did not ask for
#
# The seed recipe tests its server with a plain completion:
#
# ```
# curl http://localhost:8000/v1/completions -H "Content-Type: application/json" \
#      -d '{"model": "…", "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}'
# ```
#
# A completion should go on where the prompt stops. **Expect** something else from `swift deploy`: a sentence that begins
# anew, and more prompt tokens than the four words have.

# %%
prompt = "San Francisco is a"
curl = {"prompt": prompt, "max_tokens": 7, "temperature": 0}
answer = client.completions.create(model="base", **curl)
print(repr(answer.choices[0].text), "·", answer.usage.prompt_tokens, "prompt tokens")

# %% [markdown]
# It wraps the prompt in the chat template, as a user's turn. **Expect** below the number of tokens that the server counted.
# `--use_chat_template false` would switch that off, for all requests. vLLM never wraps a completion, so the two
# servers answer this curl differently, and neither is broken. Use `/v1/chat/completions`, where both do the same.

# %%
from swift import InferRequest, get_processor, get_template

tokenizer = get_processor(str(assets.model_dir(profile.model)), model_type=profile.model_type)
template = get_template(tokenizer, template_type=profile.template)
template.set_mode("transformers")
wrapped = template.encode(InferRequest(messages=[{"role": "user", "content": prompt}]))["input_ids"]
print(tokenizer.decode(wrapped))
{"as typed": len(tokenizer(prompt).input_ids), "in the template": len(wrapped)}

# %% [markdown]
# ## 6 · Native tools
#
# OpenAI's protocol has a field for tools. The model has none: it only reads text. In between, ms-swift's **agent template**
# writes the tools into the prompt and reads calls out of the reply. The server was started with `react_en`, as in
# ms-swift's own agent examples. **Expect** what it writes: not AgentFabric's words, though the keywords are the same.

# %%
from swift import agent_template_map

tools = schemas(["get_weather"])
print(agent_template_map["react_en"]()._format_tools(tools))

# %% [markdown]
# **Expect**, with luck, a call as an object, in `tool_calls`, beside the raw text. The model was trained on other words than
# these, so it may also answer, or spoil the call; `finish_reason` says `stop` in any case. With
# `agent_template="agentfabric"` the server writes the very prompt of training.

# %%
asked = [{"role": "system", "content": "You are a helpful assistant."},
         {"role": "user", "content": "What is the weather in Paris today?"}]
choice = client.chat.completions.create(model="tuned", messages=asked, tools=tools).choices[0]
print(choice.finish_reason, "·", repr(choice.message.content))
[(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]

# %% [markdown]
# ## 7 · The tool loop over HTTP
#
# `endpoint.Endpoint` asks a server the way `inference.Model` asks a model in this process: the same `ask`, the same replies.
# So the loop and the scorer work over HTTP unchanged. **Expect** the same calls, the same answers and the same verdict for
# every case, whichever way they went. If not, what is served is not what was scored.

# %%
def visits(model, rows):
    return evaluate.score_visits(rows, profile, model, run.checkpoints[-1])


def shown(visit):
    """A visit's replies as the runtime reads them: cut at the stop word, which only some servers leave in."""
    return [cut_at_stop(step["raw"]).rstrip() for step in visit["transcript"]]


rows = run.cases[:6]
here = visits(inference.Model(profile), rows)
there = visits(endpoint.Endpoint(server.url, server.names, max_new_tokens=profile.max_new_tokens), rows)

# %%
def agreement(here, there):
    return pd.DataFrame({
        "case": [visit["id"] for visit in here],
        "calls": [sum(step["kind"] == "call" for step in visit["transcript"]) for visit in here],
        "same replies": [shown(a) == shown(b) for a, b in zip(here, there)],
        "same verdict": [a["judged"]["visit_success"] == b["judged"]["visit_success"] for a, b in zip(here, there)],
    }).set_index("case")


same = agreement(here, there)
same

# %% [markdown]
# ## 8 · Stop it
#
# **Expect** no process of the server's family, and a clear word, not a traceback, from a client that asks once more.

# %%
running.close()
print("left running:", supervisor.session(server.process.pid))
try:
    endpoint.Endpoint(server.url, {None: "base"}).ask([asked])
except endpoint.EndpointError as error:
    print(error)

# %% [markdown]
# ## 9 · vLLM
#
# vLLM is the server to use for many requests on a GPU: it batches whatever arrives, and serves several adapters at once. It
# pins its own libraries, so it lives in its own environment: `make vllm` makes it (two and a half minutes and 2.6 GB here).
# **Expect** one line: the address, after a minute or more on a CPU, or what is missing and how to get it.

# %%
vllm = None
try:
    if profile.name == "smoke":
        raise serving.ServingError("The smoke profile's tiny model is not one for vLLM; the laptop profile's is.")
    vllm = running.enter_context(serving.deploy(profile, {"tuned": checkpoint}, engine="vllm", port=0))
except serving.ServingError as error:
    print(error)

# %% [markdown]
# The seed's curl again. **Expect**, if it runs, a continuation and four prompt tokens.

# %%
if vllm:
    answer = openai.OpenAI(base_url=vllm.url, api_key="EMPTY").completions.create(model="base", **curl)
    print(repr(answer.choices[0].text), "·", answer.usage.prompt_tokens, "prompt tokens")

# %% [markdown]
# And the loop. vLLM cuts the stop word off, `swift deploy` leaves it in; AgentFabric pastes the reply into its next prompt as
# it came, so the second request differs by server, unless the model ends its turn right after the JSON. Ours was
# trained to. **Expect** agreement again; a number format with fewer digits, or other kernels, may turn a close decision.

# %%
if vllm:
    over_vllm = endpoint.Endpoint(vllm.url, vllm.names, max_new_tokens=profile.max_new_tokens)
    print(agreement(here, visits(over_vllm, rows)).to_string())
running.close()

# %% [markdown]
# Without vLLM here, this is what it did for us (ran once, with this lesson's laptop profile: SmolLM2-135M-Instruct in
# float32 on two CPU cores of a Xeon at 2.5 GHz that other work kept busy; your figures will differ):
#
# | | `swift deploy` | vLLM |
# |---|---|---|
# | until it answers | 12 to 40 s | 137 to 229 s |
# | one request at a time: base, adapter | 6.9, 4.1 tokens/s | 6.9, 4.3 tokens/s |
# | eight requests at once: base, adapter | 6.7 tokens/s, not faster | 41, 20 tokens/s |
# | seed's curl on the base model | `San Francisco is a city that has`, 13 prompt tokens | ` city of breathtaking beauty, with a`, 4 |
# | held-out visits that equal those in this process | 40 of 40 (base and tuned) | 6 of 6 (tuned, as above) |
#
# `swift deploy` answers one by one because an adapter is loaded beside the base: ms-swift 4.6.0 fails on a batch then. The
# merged model has no such limit (`python -m helpers.serving --merged`); it made the 40 visits in 285 s instead of 484.

# %% [markdown]
# ## Checkpoint

# %%
assert comparison.same, comparison
assert same["same replies"].all() and same["same verdict"].all()
assert not supervisor.session(server.process.pid)
print(f"merged = unmerged within {comparison.tolerance}; {len(same)} of {len(same)} visits the same over HTTP; nothing left running")

# %% [markdown]
# **If not:** either the checkpoint belongs to another base model (retrain with lesson 04, then delete the run's `merged` folder),
# or this machine ran out of memory (the server's log, `runs/<profile>/serving/`, ends with *Killed*; close other programs).
#
# ## Exercises
#
# 1. *Easy.* Run `make serve` in a terminal, then again in a second one. What does the second one say, and what would plain `swift deploy` have done?
# 2. *Medium.* Serve the merged model: `serving.deploy(dataclasses.replace(profile, model=str(merged)), name="tuned", port=0)`. Time eight requests at once against it and against the adapter. Why is there a difference?
# 3. *Hard.* Start the server with `agent_template="agentfabric"` and count the prompt tokens of a request with `tools=[…]` and of `first_request(…)` without. When are they equal? (`query_prefix` in `helpers/agentfabric.py` is the key.)
#
# **You learned** to turn a checkpoint into a model that any client can ask, and to prove that it is still the model you scored.
#
# Next: [08 · Run it in AgentFabric](08_run_it_in_agentfabric.ipynb)
