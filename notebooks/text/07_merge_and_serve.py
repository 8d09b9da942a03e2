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
# **You will do:** merge the adapter into its base model, serve both with `swift deploy`, and ask
# them from any OpenAI client.
#
# **You will learn:** why a merged model is the same model, and how to show that what is served is
# what was scored. The appendices: what a chat template does to a plain prompt, how native
# `tools=[…]` reach a model that only reads text, and vLLM.
#
# **You will need:** 3 min, 2.9 GB on two CPU cores, and lesson 04's run; if it is missing, step 1
# trains it first.

# %%
import openai
import pandas as pd

from helpers import assets, evaluate, model, profiles, serving, train
from helpers.agentfabric import cut_at_stop, first_request

profile = profiles.current()
print(f"profile {profile.name}: {profile.model} on {profile.device}")

# %% [markdown]
# ## 1 · Merge the adapter
#
# A LoRA checkpoint is not a model: it is two thin matrices for each layer. While they stay apart,
# every token pays for both paths. **Merging** adds their product to the base weights once, `W +
# (alpha / r) · B · A`. The result is an ordinary model folder that any server loads. `swift export
# --merge_lora true` does it, in a process of its own.
#
# **Expect** a folder under the run. The second time it is reused.

# %%
run = train.finetune(profile)
checkpoint = run.checkpoints[-1].path
merged = serving.merge(profile, checkpoint)
print(merged)

# %% [markdown]
# **Expect** an adapter that is small beside its base, and a merged model as large as the base.

# %%
folders = {"adapter": checkpoint, "base": assets.model_dir(profile.model), "merged": merged}
sizes = {name: f"{serving.megabytes(folder):,.1f} MB" for name, folder in folders.items()}
pd.Series(sizes, name="weights").to_frame()

# %% [markdown]
# ## 2 · Check that it is still the same model
#
# A wrong base, a wrong scale or too coarse a number format also give a model that loads. So ask
# merged and unmerged the same held-out questions. **Expect** logits that differ by rounding only
# (in float32 below 0.001), and the same greedy text. In bfloat16 each merged weight is rounded once
# more; logits then move by some tenths, and a close decision may turn.

# %%
cases = [evaluate.case_of(row) for row in run.cases]
requests = [first_request(case.tools, case.query) for case in cases]
comparison = serving.compare(profile, checkpoint, merged, requests[:3])
comparison

# %% [markdown]
# ## 3 · Start a server
#
# `swift deploy` puts the base model and the adapter side by side behind one address, each under its
# own name. The server is a process of its own. It ends with the block that started it (here: when
# we call `close`), also when this kernel is killed.
#
# **Expect** about ten seconds of waiting, then one line: the names, the address, the log. The port
# is read from the server's log, because `swift deploy` silently takes the next one where its port
# is busy.

# %%
from contextlib import ExitStack

running = ExitStack()
server = running.enter_context(serving.deploy(profile, {"tuned": checkpoint}, port=0))

# %% [markdown]
# Outside a notebook, `make serve` does the same on port 8000 until you press Ctrl-C. The address
# speaks OpenAI's protocol, so the `openai` package is the client. **Expect** two names.

# %%
client = openai.OpenAI(base_url=server.url, api_key="EMPTY")
[served.id for served in client.models.list()]

# %% [markdown]
# ## 4 · Chat
#
# The request is the one of lesson 06: AgentFabric's system message and the user's turn. AgentFabric
# sends neither `temperature` nor `max_tokens`, so the server was started with 0 and the profile's
# limit.
#
# **Expect** chat from the base model, and a call from the tuned one (with `smoke`, noise from
# both).


# %%
def reply_of(name):
    asked = {"messages": requests[0], "stop": ["Observation:"]}
    return client.chat.completions.create(model=name, **asked).choices[0].message.content


print("User:", cases[0].query, "\n")
for name in ("base", "tuned"):
    print(f"{name}: {reply_of(name)!r}\n")

# %% [markdown]
# The same, streamed: the reply comes in pieces while it is written. **Expect** the pieces, divided
# by `|`.

# %%
asked = {"model": "tuned", "messages": requests[0], "stop": ["Observation:"]}
stream = client.chat.completions.create(stream=True, **asked)
print("|".join(chunk.choices[0].delta.content or "" for chunk in stream))

# %% [markdown]
# ## 5 · The tool loop over HTTP
#
# `model.Endpoint` asks a server as `model.Model` asks a model in this process, so the loop and the
# scorer work over HTTP unchanged. **Expect** the same replies and the same success for every case,
# whichever way they went. If not, what is served is not what was scored.


# %%
def episodes(asked, rows):
    return evaluate.score_episodes(rows, profile, asked, run.checkpoints[-1])


def shown(episode):
    """The replies as the runtime reads them: only some servers leave the stop word in."""
    return [cut_at_stop(step["raw"]).rstrip() for step in episode["transcript"]]


rows = run.cases[:6]
over_http = model.Endpoint(server.url, server.names, max_new_tokens=profile.max_new_tokens)
here, there = episodes(model.Model(profile), rows), episodes(over_http, rows)


# %%
def agreement(here, there):
    lines = []
    for one, other in zip(here, there):
        success = one["metrics"]["success"] == other["metrics"]["success"]
        calls = sum(step["kind"] == "call" for step in one["transcript"])
        lines.append([one["id"], calls, shown(one) == shown(other), success])
    columns = ["case", "calls", "same replies", "same success"]
    return pd.DataFrame(lines, columns=columns).set_index("case")


same = agreement(here, there)
same

# %% [markdown]
# ## 6 · Stop it
#
# **Expect** `True`, and a clear error, not a traceback, from a client that asks once more.

# %%
running.close()
print("the server has ended:", server.process.poll() is not None)
try:
    model.Endpoint(server.url, {None: "base"}).ask([requests[0]])
except assets.KitError as error:
    print(error)

# %% [markdown]
# ## Checkpoint

# %%
assert comparison.same, comparison
assert same["same replies"].all() and same["same success"].all()
assert server.process.poll() is not None
print(
    f"merged = unmerged within {comparison.tolerance}; {len(same)} of {len(same)} episodes the same over HTTP"
)

# %% [markdown]
# **If not:** the checkpoint belongs to another base model (train again with lesson 04, then delete
# the run's `merged` folder), or this machine ran out of memory (the server's log,
# `runs/<profile>/serving/`, ends with *Killed*; close other programs).
#
# ## Appendix A · Document 001's curl, and a template that you did not ask for
#
# The document tests its server with a plain completion:
#
# ```
# curl http://localhost:8000/v1/completions -H "Content-Type: application/json" \
#      -d '{"model": "…", "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}'
# ```
#
# A completion should go on where the prompt stops. **Expect** something else from `swift deploy`: a
# sentence that begins anew, and more prompt tokens than the four words have.

# %%
appendix = ExitStack()
server = appendix.enter_context(serving.deploy(profile, {"tuned": checkpoint}, port=0))
client = openai.OpenAI(base_url=server.url, api_key="EMPTY")
curl = {"prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}
answer = client.completions.create(model="base", **curl)
print(repr(answer.choices[0].text), "·", answer.usage.prompt_tokens, "prompt tokens")

# %% [markdown]
# It wraps the prompt in the chat template, as a user's turn. **Expect** below the number of tokens
# that the server counted. `--use_chat_template false` would switch that off, for all requests. vLLM
# never wraps a completion, so the two servers answer this curl differently. Use
# `/v1/chat/completions`, where both do the same.

# %%
from swift import InferRequest, get_processor, get_template

folder = str(assets.model_dir(profile.model))
tokenizer = get_processor(folder, model_type=profile.model_type)
template = get_template(tokenizer, template_type=profile.template)
template.set_mode("transformers")
question = InferRequest(messages=[{"role": "user", "content": curl["prompt"]}])
wrapped = template.encode(question)["input_ids"]
print(tokenizer.decode(wrapped))
{"as typed": len(tokenizer(curl["prompt"]).input_ids), "in the template": len(wrapped)}

# %% [markdown]
# ## Appendix B · Native tools
#
# OpenAI's protocol has a field for tools. The model has none: it only reads text. In between,
# ms-swift's **agent template** writes the tools into the prompt and reads calls out of the reply.
# The server was started with `react_en`, as in ms-swift's own agent examples. **Expect** what it
# writes: other words than AgentFabric's, with the same keywords.

# %%
from swift import agent_template_map

from helpers.agent import schemas

tools = schemas(["get_weather"])
print(agent_template_map["react_en"]()._format_tools(tools))

# %% [markdown]
# **Expect** either a call as an object, in `tool_calls`, or text that is not read as one: the model
# was trained on other words than these. `finish_reason` says `stop` in both cases. With
# `agent_template="agentfabric"` the server writes the prompt of training.

# %%
messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the weather in Paris today?"},
]
asked = {"model": "tuned", "messages": messages, "tools": tools}
choice = client.chat.completions.create(**asked).choices[0]
appendix.close()
print(choice.finish_reason, "·", repr(choice.message.content))
[(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]

# %% [markdown]
# ## Appendix C · vLLM
#
# vLLM is the server for many requests on a GPU: it batches whatever arrives, and serves several
# adapters at once. It pins its own libraries, so it lives in its own environment: `make vllm` makes
# it (two and a half minutes and 2.6 GB here). **Expect** one line: the address, after a minute or
# more on a CPU, or what is missing and how to get it.

# %%
vllm = None
try:
    if profile.name == "smoke":
        raise assets.KitError("The smoke profile's tiny model is not one for vLLM.")
    options = {"engine": "vllm", "port": 0}
    vllm = appendix.enter_context(serving.deploy(profile, {"tuned": checkpoint}, **options))
except assets.KitError as error:
    print(error)

# %% [markdown]
# The same curl, and the loop. vLLM cuts the stop word off, `swift deploy` leaves it in; AgentFabric
# pastes the reply into its next prompt as it came. So the second request differs by server, unless
# the model ends its turn right after the JSON; ours was trained to. **Expect**, if vLLM runs, a
# continuation, four prompt tokens, and agreement. A coarser number format, or other kernels, may
# turn a close decision.

# %%
if vllm:
    client = openai.OpenAI(base_url=vllm.url, api_key="EMPTY")
    answer = client.completions.create(model="base", **curl)
    print(repr(answer.choices[0].text), "·", answer.usage.prompt_tokens, "prompt tokens")
    limit = {"max_new_tokens": profile.max_new_tokens}
    over_vllm = model.Endpoint(vllm.url, vllm.names, **limit)
    print(agreement(here, episodes(over_vllm, rows)).to_string())
appendix.close()

# %% [markdown]
# Without vLLM here, this is what it did for us (once, with the laptop profile in float32 on two
# busy CPU cores of a Xeon at 2.5 GHz; your figures will differ):
#
# | | `swift deploy` | vLLM |
# |---|---|---|
# | until it answers | 12 to 40 s | 137 to 229 s |
# | one request at a time: base, adapter | 6.9, 4.1 tokens/s | 6.9, 4.3 tokens/s |
# | eight requests at once: base, adapter | 6.7 tokens/s, not faster | 41, 20 tokens/s |
# | the curl on the base model | `San Francisco is a city that has`, 13 prompt tokens | ` city of breathtaking beauty, with a`, 4 |
# | held-out episodes that equal those in this process | 40 of 40 (base and tuned) | 6 of 6 (tuned, as above) |
#
# `swift deploy` answers one by one because an adapter is loaded beside the base: ms-swift 4.6.0
# fails on a batch then. The merged model has no such limit (`python -m helpers.serving --merged`);
# it made the 40 episodes in 285 s instead of 484.
#
# ## Exercises
#
# 1. *Easy.* Run `make serve` in a terminal, then again in a second one. What does the second one
#    say, and what would plain `swift deploy` have done?
# 2. *Medium.* Serve the merged model: `serving.deploy(dataclasses.replace(profile,
#    model=str(merged)), name="tuned", port=0)`. Time eight requests at once against it and against
#    the adapter. Why is there a difference?
# 3. *Hard.* Start the server with `agent_template="agentfabric"` and count the prompt tokens of a
#    request with `tools=[…]` and of `first_request(…)` without. When are they equal? (See
#    `query_prefix` in `helpers/agentfabric.py`.)
#
# **You learned** to turn a checkpoint into a model that any client can ask, and to show that it is
# still the model you scored.
#
# Next: [08 · Run it in AgentFabric](08_run_it_in_agentfabric.ipynb)
