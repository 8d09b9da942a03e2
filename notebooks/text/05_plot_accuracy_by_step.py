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
# # 05 · Plot accuracy by step
#
# **You will do:** let every checkpoint work through whole episodes with tools it has never seen,
# and draw how it gets better.
#
# **You will learn:** the difference between token accuracy and an episode that succeeds, and how
# much a small number of cases can say.
#
# **You will need:** 5 min, 8.9 GB on two CPU cores. It uses the run of lesson 04, and trains it
# first if it is missing.

# %%
from helpers import evaluate, profiles, train

profile = profiles.current()
run = train.finetune(profile)

# %% [markdown]
# ## 1 · A case
#
# A *case* is a held-out question with the call that is right, the result that the tool will give,
# and the *facts*: what the answer must say and only the result tells. **Expect** one of each.

# %%
case = evaluate.case_of(run.cases[0])
print("question:", case.query)
print("call:    ", case.calls[0][0])
print("result:  ", case.calls[0][1])
print("facts:   ", case.facts)

# %% [markdown]
# ## 2 · An episode, written out
#
# An *episode* is one question put to the model through AgentFabric's loop: ask; if the reply holds
# a call, run the tool and ask again; else the reply is the answer.

# %%
from helpers.agentfabric import cut_at_stop, first_request, next_request, read_calls


def play(case, ask):
    """The calls that a model makes, and its answer; None where it does not stop by itself."""
    execute, messages, calls = evaluate.case_tools(case), first_request(case.tools, case.query), []
    for _ in range(len(case.calls) + 2):  # two requests more than needed: then it has failed
        reply = ask(messages)
        if not reply.finished:  # cut off at the limit of tokens
            return calls, None
        text = cut_at_stop(reply)
        found = read_calls(text)
        if not found:
            return calls, text
        calls.append(found[0])
        messages = next_request(messages, text, execute(found[0]))
    return calls, None


# %% [markdown]
# ## 3 · Success, written out
#
# An episode is a **success** if the model makes exactly the right calls in order, repeats none,
# stops by itself, and its answer holds every fact. The *success rate* is the share of successes.

# %%
from helpers.agentfabric import parse_arguments


def arguments_of(call):
    try:
        return parse_arguments(call.arguments)
    except ValueError:
        return None


def succeeded(case, calls, answer):
    gold = [call for call, _ in case.calls]
    right = len(calls) == len(gold) and all(
        made.name == call["name"] and evaluate.same_value(arguments_of(made), call["arguments"])
        for made, call in zip(calls, gold)
    )
    repeated = len(set(calls)) < len(calls)
    return bool(
        right and not repeated and answer and answer.strip() and evaluate.carries(answer, case)
    )


# %% [markdown]
# `evaluate.carries` looks for the facts in the answer, and for words such as *unable to* that deny
# them. It compares text, so an odd sentence with the right number in it passes: section 7 shows
# some.
#
# **Expect** calls, an answer and a verdict from the last checkpoint.

# %%
from helpers.model import Model

model, last = Model(profile), run.checkpoints[-1]
calls, answer = play(case, lambda messages: model.ask([messages], last.path)[0])
print(calls, repr(answer), succeeded(case, calls, answer), sep="\n")

# %% [markdown]
# `helpers/evaluate.py` holds the same loop and rule. It plays many episodes side by side and keeps
# every reply.
#
# With one tool in the prompt, the right tool is only a matter of calling. How many do our cases
# offer? (BFCL's *multiple* offers two to four.) **Expect** one or two in the laptop profile.

# %%
from collections import Counter

for tools, count in sorted(Counter(len(row["tools"]) for row in run.cases).items()):
    print(f"{count:3} cases offer {tools} tool{'s' * (tools > 1)}")

# %% [markdown]
# ## 4 · Score every checkpoint
#
# Step 0 is the base model. Every checkpoint answers the same held-out cases, and questions of the
# **BFCL** benchmark (simple_python and multiple), judged by BFCL's own checker. **Expect** one bar
# over all of them. Results are kept: the second time this cell takes no time.

# %%
scores = evaluate.score_run(run, profile)

# %% [markdown]
# ## 5 · The curve
#
# Before you look: token accuracy starts high, because much of a text is easy to guess when you are
# shown the beginning. Where do you expect the success rate to start?

# %%
from helpers import plots

plots.style()
title = f"{profile.model}, {profile.format} format, 1 seed; bars: 95 % Wilson intervals"
figure = plots.accuracy_by_step(run.log(), scores, title=title)
path = plots.save(figure, run.path / "accuracy_by_step.png")

# %% [markdown]
# With a few dozen cases the bars are wide: two neighbouring points whose bars overlap are *not*
# shown to differ. One run is one random seed; the study (lesson 09) uses several.

# %% [markdown]
# ## 6 · Base beside tuned
#
# **Expect** the tuned model to win most lines and to lose one. The base model never calls a tool,
# so it looks good at *no call where none is due*. The tuned one, after so few rows, calls whenever
# it sees tools. Read the two lines together.

# %%
print(plots.caption(run.manifest()))
plots.comparison(scores)

# %% [markdown]
# The BFCL line is a sample of short cases, chosen so that a laptop can read them, in AgentFabric's
# prompt. It is not the leaderboard's number.

# %% [markdown]
# ## 7 · Read what was said
#
# Numbers hide what goes right and wrong. First the first three successes, in the order of the
# cases. **Expect** right calls, and answers that hold the facts; not every sentence is a good one.

# %%
gold = {row["id"]: row["messages"] for row in run.cases}


def show(episodes):
    for episode in episodes:
        print("question:", gold[episode["id"]][0]["content"])
        print("wanted:  ", gold[episode["id"]][1]["content"])
        for step in episode["transcript"]:
            print(f"{step['kind']:9}", repr(step["text"][:160]))
            if step["result"]:
                print("result:  ", step["result"][:160])
        print()


due = [episode for episode in scores[-1]["episodes"] if episode["metrics"]["success"] is not None]
show([episode for episode in due if episode["metrics"]["success"]][:3])

# %% [markdown]
# Now the first three that fail. **Expect** near misses: a value a little off, an argument too many,
# a fact left out.

# %%
show([episode for episode in due if not episode["metrics"]["success"]][:3])

# %% [markdown]
# ## 8 · What is learned first?
#
# The parts of an episode by step. **Expect** *called* to come first, and exact calls later.

# %%
frame = plots.score_frame(scores)
parts = ["called", "tool_name", "full_call", "faithful_answer", "success"]
table = frame[frame.metric.isin(parts)].pivot(index="step", columns="metric", values="rate")
table[parts].astype(float).round(2)

# %% [markdown]
# ## Checkpoint
#
# Do the intervals of base and tuned overlap? **Expect** no overlap in the laptop profile. Where two
# do overlap, this run alone does not show a difference: you need more cases or more steps.

# %%
for metric in ("tool_name", "full_call", "bfcl", "success"):
    line = frame[frame.metric == metric].sort_values("step")
    base, tuned = line.iloc[0], line.iloc[-1]
    for name, one in (("base", base), ("tuned", tuned)):
        print(f"{metric:10} {name:6} {one.k:.0f}/{one.n:.0f} [{one.low:.1%}, {one.high:.1%}]")
    print("no overlap" if tuned.low > base.high else "overlap")

# %% [markdown]
# **If all of them overlap:** this is the `smoke` profile, whose random model learns nothing, or the
# run was made with a changed recipe; `manifest.json` says which.
#
# ## Exercises
#
# 1. *Easy.* Which metric reaches its final value first?
# 2. *Medium.* `evaluate.wilson(1, 10)` is the interval of document 001's "one of ten". Put ten of
#    our episodes beside it. How many would you need to tell 10 % from 30 %?
# 3. *Hard.* Rename the tools of the held-out cases to random words and score again. What does a
#    drop mean?
#
# **You learned** to measure what a user would notice, and how sure such a number is.
#
# Next: [06 · Call tools interactively](06_call_tools_interactively.ipynb)
