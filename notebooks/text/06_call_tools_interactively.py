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
# # 06 · Call tools interactively
#
# **You will do:** put five questions to your tuned model, walk through one conversation by hand, put
# the base model beside yours, and open a panel in which *you* may be the tool.
#
# **You will learn:** what the runtime sends, what it accepts as a tool call, what it feeds back,
# and how to tell a model that fails from a call that fails.
#
# **You will need:** < 1 min, 1.4 GB on two CPU cores. It uses lesson 04's run, and trains it first if
# it is missing.

# %%
from IPython.display import HTML

from helpers import agent, model, profiles, train
from helpers.agentfabric import Call, cut_at_stop, first_request, next_request, read_calls
from helpers.playground import compare_html, notes, playground, transcript_html

profile = profiles.current()
print(f"profile {profile.name}: {profile.model} on {profile.device}")

# %% [markdown]
# ## 1 · Five visits
#
# The tuned model comes from lesson 04's run. **Expect** one line that says whether that run is
# reused; without it, training starts now, as in lesson 04.

# %%
run = train.finetune(profile)
small = model.Model(profile)


def ask_tuned(messages, held=None):
    """A reply; `held`: tools to whose grammar it is held."""
    grammar = held and [held]
    return small.ask([messages], adapter=run.checkpoints[-1].path, grammar=grammar)[0]


# %% [markdown]
# These five questions were fixed before the model was trained, and all five are shown as they came
# out. Beside each stands what a good assistant does: which tools it calls, in this order.

# %%
weather = agent.schemas(["get_weather", "calculator"])
fire_tools = agent.schemas(["fire_recognition", "fire_alert", "call_police", "call_fireman"])
fire = "Camera 7 sent the picture gate3_fire.jpg. Is there a fire? If there is, do what is needed."
visits = {  # what: (tools, question, the tools that should be called)
    "weather": (weather, "What is the weather in Paris today?", ["get_weather"]),
    "thanks": (weather, "Thank you, you are very kind!", []),
    "sums": (weather, "What is 12 times 31?", ["calculator"]),
    "introduction": (fire_tools, "Hello, please introduce yourself.", []),
    "fire desk": (fire_tools, fire, ["fire_recognition", "fire_alert", "call_fireman"]),
}
# %% [markdown]
# The picture's tool does not know where the camera is, so an observation is written for it here:
# what *you* would type if you were the tool. The other tools answer for themselves.

# %%
said = {
    "fire_recognition": "Fire seen: flames at a window of Building 3, floor 2. Confidence 0.97."
}


def observe(call):
    return said.get(call.name) or agent.execute(call)


def play(what, held=None):
    tools, question, _ = visits[what]
    steps = agent.run(tools, question, lambda one: ask_tuned(one, held), observe, max_turns=5)
    return steps, [step.call.name for step in steps if step.kind == "call"]


def visit(what):
    (steps, called), (tools, question, wanted) = play(what), visits[what]
    print(f"{question}\ncalled {called}, wanted {wanted}: {called == wanted}")
    return HTML(transcript_html(steps, tools))


# %% [markdown]
# The weather, with a calculator offered beside the weather tool. **Expect** in the laptop profile a
# call of `get_weather` and an answer from what it said. (With the `smoke` profile all five are
# noise: its model is random.)

# %%
visit("weather")

# %% [markdown]
# A thank-you, with the same tools offered. **Expect** an answer without a call.

# %%
visit("thanks")

# %% [markdown]
# A sum, which wants a call of `calculator`. **Expect** a call, but perhaps of the other tool: which
# tool fits is learned later than to call.

# %%
visit("sums")

# %% [markdown]
# A question about itself, which wants an answer without a call. **Expect** that a tool may be called
# all the same: to leave tools alone where none fits is what the model learns last.

# %%
visit("introduction")

# %% [markdown]
# And the fire-alarm desk, the example of document 002: `fire_recognition` looks at a picture,
# `fire_alert` sounds the alarm, `call_fireman` and `call_police` fetch help. The next step depends
# on what the last one saw. **Expect** it to come only a part of the way: three calls in a row are
# more than these few minutes of training teach.

# %%
visit("fire desk")

# %% [markdown]
# A *grammar* holds each reply to free text, or to a call of an offered tool with arguments that fit
# its schema. It forgets no required parameter and makes up no tool; whether to call, which tool and
# with what values is still the model's choice. **Expect** the same five, some with other calls.

# %%
import pandas as pd

table = {}
for what, (tools, _, wanted) in visits.items():
    steps, called = play(what, held=tools)
    table[what] = {"wanted": wanted, "called": called, "last reply": steps[-1].text}
pd.set_option("display.max_colwidth", 90)
pd.DataFrame(table).T

# %% [markdown]
# ## 2 · Look at the tools
#
# A tool is a function with a JSON schema. These stand in `helpers/agent.py`: they work offline,
# give the same result every time, and none of them is in the training data. If the tuned model
# calls them well, it has learned *how to call*, not these tools.
#
# **Expect** six names, each with its parameters.

# %%
for name in agent.REGISTRY:
    function = agent.schemas([name])[0]["function"]
    print(f"{name}({', '.join(function['parameters']['properties'])}): {function['description']}")

# %% [markdown]
# The model never sees Python. It sees the schema, in English or Chinese. **Expect** a dictionary in
# OpenAI's form, with `type`, `properties` and `required`.

# %%
agent.schemas(["get_weather"], "en")[0]

# %% [markdown]
# And this is how a call is run. Name and arguments are text that a model wrote, so they are read
# and checked before anything happens. **Expect** a result, an error in the runtime's own words, and
# an error of the schema check, which this kit adds.

# %%
for arguments in ['{"city": "Paris"}', "{}", '{"city": 75001}']:
    print(agent.execute(Call("get_weather", arguments)))

# %% [markdown]
# ## 3 · The tool loop, written out
#
# This is the whole loop that AgentFabric runs around a model. It is a generator: it hands out a
# step and waits. After a `request` it wants the model's reply, after a `call` it wants the tool's
# result.


# %%
def tool_loop(tools, query, max_turns=10):
    """One question through AgentFabric's loop, as a generator of (kind, content)."""
    messages = first_request(tools, query)
    for _ in range(max_turns):
        reply = cut_at_stop((yield "request", messages))
        calls = read_calls(reply)
        if not calls:
            yield "answer", reply
            return
        result = yield "call", calls[0]  # of several calls the runtime runs the first
        messages = next_request(messages, reply, result)
    yield "gave_up", None


# %% [markdown]
# First you are the model. **Expect** the user's turn: a bracket that names the tools, then the
# question.

# %%
tools = agent.schemas(["get_weather", "calculator"])
loop = tool_loop(tools, "What is the weather in Paris?")
kind, messages = next(loop)
print(kind, "→", messages[-1]["content"])

# %% [markdown]
# Before it stands the system message, with the tools and the form that a call has to have.
# **Expect** two schemas and the words `Action:`, `Action Input:`, `Observation:` and `Answer:`.

# %%
print(messages[0]["content"])

# %% [markdown]
# Now write what a good model writes: two lines, and stop. **Expect** a step of kind `call`.

# %%
kind, call = loop.send('Action: get_weather\nAction Input: {"city": "Paris"}')
print(kind, "→", call)

# %% [markdown]
# Then you are the runtime: run the call and send the result. **Expect** a second `request`. Look
# where your own words went: **into the user's message**. The model has to read its own call there,
# and to begin a new turn with the summary.

# %%
kind, messages = loop.send(agent.execute(call))
print(kind, "→", messages[-1]["content"])

# %% [markdown]
# A reply without a call ends the episode. **Expect** kind `answer`.

# %%
print(loop.send("It is raining lightly in Paris, at 14 °C."))

# %% [markdown]
# `agent.episode` is the same loop; its steps also keep the raw reply and what a tool said. In the
# rest of this lesson a model takes your place again.
#
# ## 4 · Put base and tuned beside each other
#
# A model is a function from messages to a reply. The two differ in one argument. **Expect** two
# names.


# %%
def ask_base(messages, tools=None):
    return small.ask([messages], grammar=tools and [tools])[0]


models = {"base": ask_base, "tuned": ask_tuned}
list(models)

# %% [markdown]
# `agent.run` takes an episode to its end: models answer requests, `execute` answers calls. Both get
# the same question.
#
# **Expect** one column each. The base model chats and invents. The tuned one writes a call and sums
# up what came back.

# %%
question = "What is the weather in Paris today?"
transcripts = {
    label: agent.run(weather, question, ask, agent.execute, max_turns=4)
    for label, ask in models.items()
}
HTML(compare_html(transcripts, weather))

# %% [markdown]
# A *grammar* lets a model write free text, or a call of an offered tool whose arguments fit its
# schema, nothing else. It mends the form of a call, not the decision to make one. **Expect** the
# base model to go on chatting.

# %%
steps = agent.run(weather, question, lambda asked: ask_base(asked, weather), agent.execute)
HTML(transcript_html(steps, weather))

# %% [markdown]
# The fire desk once more, as it should go, with replies written by a person. **Expect** three calls
# and an answer.

# %%
good = [
    'Action: fire_recognition\nAction Input: {"image": "gate3_fire.jpg"}',
    'Action: fire_alert\nAction Input: {"location": "Building 3"}',
    'Action: call_fireman\nAction Input: {"location": "Building 3, floor 2"}',
    "There is a fire in Building 3, floor 2. The alarm sounds and the fire brigade is coming.",
]
replies_left = iter(good)
steps = agent.run(fire_tools, fire, lambda messages: next(replies_left), observe)
HTML(transcript_html(steps, fire_tools))

# %% [markdown]
# ## 5 · Open the panel
#
# The same, to play with. Tick tools, type a question, press **Ask**. Switch to **I play the tool**,
# and every call waits for you: the box holds what the local tool would say, and you may say
# something else. Tick **grammar** to hold the replies to the tools.
#
# **Expect** a form with two columns below it. A model computes inside the click, so the page waits;
# the ■ of the notebook stops one that takes too long. Where no kernel runs (on a web page, say)
# there is no panel, only the transcripts above.
#
# Try this: keep the question, choose *I play the tool*, and answer the first call with `No fire. It
# is a sunset.` Does the alarm still go off?

# %%
playground(models, fire_tools + tools, query=question, grammar=True)

# %% [markdown]
# ## 6 · Break a reply
#
# The runtime finds a call with one pattern, `Action: (.+)\nAction Input: (.+)`, and reads the
# arguments as JSON5. A reply that does not fit the pattern counts as the final answer. Arguments
# that do not fit come back as an error, which the model gets to read. You need no model to see
# this.
#
# **Expect** one of six replies, printed as the model would write it. Guess before you go on: which
# of the six does the runtime run?

# %%
replies = {
    "as it should be": 'Action: get_weather\nAction Input: {"city": "Paris"}',
    "single quotes": "Action: get_weather\nAction Input: {'city': 'Paris',}",
    "no space": 'Action:get_weather\nAction Input: {"city": "Paris"}',
    "Python's True": "Action: get_weather\nAction Input: {'city': True}",
    "several lines": 'Action: get_weather\nAction Input: {\n  "city": "Paris"\n}',
    "unknown tool": 'Action: weather_report\nAction Input: {"city": "Paris"}',
}
print(replies["several lines"])

# %% [markdown]
# **Expect** two that work: JSON5 accepts single quotes and a trailing comma. One is not seen at
# all. Three come back as `Tool api … failed to call`. Of the JSON on several lines the pattern
# caught only the first line, `{`.

# %%
for what, reply in replies.items():
    calls = read_calls(reply)
    print(f"{what:16}", agent.execute(calls[0]) if calls else "not seen: it is the final answer")

# %% [markdown]
# In a transcript such replies carry a note. **Expect** the reason in words.

# %%
steps = agent.run(
    tools, "What is the weather?", lambda messages: replies["no space"], agent.execute
)
print(notes(steps[0], tools))
HTML(transcript_html(steps, tools))

# %% [markdown]
# ## Checkpoint
#
# The panel of step 5 stands there with two columns, and this cell prints **three times `True`**:
# both models came to an end, the runtime's error text is there, and a reply without the space is
# not taken for a call.

# %%
ended = all(steps[-1].kind in ("answer", "gave_up") for steps in transcripts.values())
error = agent.execute(Call("get_weather", "{}"))
print(
    ended,
    error.endswith("Details: param `city` is required"),
    read_calls(replies["no space"]) == [],
)

# %% [markdown]
# **If not:** there is no panel, or only text in its place: the browser's tab is older than the
# kernel, or no kernel runs. Restart the kernel, reload the page, run all. Or the first value is
# `False`, or step 1 raised an error: the model did not load, or training did not finish. Read the
# line that step 1 printed, then repair it in lesson 04.
#
# If replies are slow (half a minute each on a CPU), other programs use the cores: start Jupyter
# with `OMP_NUM_THREADS=1` in the environment.
#
# ## Exercises
#
# 1. *Easy.* Open `playground(models, agent.schemas(agent.REGISTRY, "zh"), language="zh")` and ask
#    in Chinese. The prompt turns Chinese with your question. Does a model that was tuned on English
#    rows (the laptop profile) still call?
# 2. *Medium.* Write a tool of your own with `@tool(city="…", day="…")` from `helpers.agent`, a
#    function with two parameters, and let the tuned model use it. Then play it yourself and answer
#    with an error. Does the model mend its call, repeat it, or make up a result?
# 3. *Hard.* The fire desk asks for three calls in a row. Write ten such questions, count with
#    `agent.run_batch` how far base and tuned get, and give each count an interval (lesson 05). Then
#    change one thing, the instruction or the order of the tools, and say whether the difference is
#    larger than chance.
#
# **You learned** that a tool call is two lines of text that a pattern has to find; that the
# observation returns inside the user's message; that arguments are checked before a tool runs and
# errors go back to the model; and how to watch, stop and contradict a tuned model one step at a
# time.
#
# This was the last lesson of the first road. Merging, serving and the AgentFabric app come next:
# [07 · Merge and serve](07_merge_and_serve.ipynb)
