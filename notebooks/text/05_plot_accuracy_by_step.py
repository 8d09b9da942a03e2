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
# **You will need:** 8 min, 7.6 GB on two CPU cores. It uses the run of lesson 04, and trains it
# first if it is missing.

# %%
from helpers import evaluate, profiles, train

profile = profiles.current()
run = train.finetune(profile)

# %% [markdown]
# ## 1 · A case
#
# A *case* is a held-out question with the call that is right, the result that the tool will give,
# and the *facts*: what the answer must say and only the result tells. Some cases have earlier turns,
# and in one of three no call is right. **Expect** one of each part.

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
    execute, calls = evaluate.case_tools(case), []
    messages = first_request(case.tools, case.query, history=case.history)
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
# `evaluate.carries` reads the answer strictly: each fact as a whole number or word, with its unit
# or role; no number, code or name that stands in no source; no other day or person than the one
# asked for; and where a tool failed, the answer has to say so. A program cannot judge every
# sentence. Below, its verdicts are counted against answers that were labelled by hand. A *true
# positive* (tp) passes and is right. The rule was written with the answers of `tune`; those of
# `test` come from the same runs; those of `fresh` were labelled later, from the record of this
# lesson. **Expect** a high *precision* (what passes is right) in the first two, and a much lower
# one in `fresh`: a rule looks better on what it was made with. So only about half of the successes
# below would satisfy a person. The rule rejects good answers, too (*recall*).

# %%
import pandas as pd

from helpers import assets

labels = assets.ROOT / "data" / "judge_labels.jsonl"
parts = ("tune", "test", "fresh")
pd.DataFrame({part: evaluate.judge_agreement(labels, part) for part in parts}).T.round(2)

# %% [markdown]
# **Expect** calls, an answer and a verdict from the last checkpoint.

# %%
from helpers.model import Model

model, last = Model(profile), run.checkpoints[-1]
calls, answer = play(case, lambda messages: model.ask([messages], last.path)[0])
print(calls, repr(answer), succeeded(case, calls, answer), sep="\n")

# %% [markdown]
# `helpers/evaluate.py` holds the same loop and rule. It plays many episodes side by side and keeps
# every reply.

# %% [markdown]
# ## 4 · Score every checkpoint
#
# Step 0 is the base model. Every checkpoint answers the *development* cases, first call only, which
# is quick. The base model and the last checkpoint play whole episodes of the *test* cases, and
# answer questions of the **BFCL** benchmark (simple_python and multiple), judged by BFCL's own
# checker. **Expect** one bar over all of them. Results are kept: the second time this cell takes no
# time.

# %%
scores = evaluate.score_run(run, profile)

# %% [markdown]
# ## 5 · The curve
#
# Before you look: token accuracy starts high, because much of a text is easy to guess when you are
# shown the beginning. What will a model learn first: to call, to pick the tool, to fill in the
# arguments, or to leave a tool alone?

# %%
from helpers import plots

plots.style()
title = f"{profile.model}, {profile.format} format, 1 seed; bars: 95 % intervals"
figure = plots.accuracy_by_step(run.log(), scores, title=title)
path = plots.save(figure, run.path / "accuracy_by_step.png")

# %% [markdown]
# With a few dozen cases the bars are wide: two neighbouring points whose bars overlap are *not*
# shown to differ. One run is one random seed; the study (lesson 09) uses several.

# %% [markdown]
# ## 6 · Base beside tuned
#
# All test cases. Beside the base model stands a baseline that needs no training: two worked examples
# in its prompt. And both models are asked under a *grammar*, too, which lets a model write free text
# or a call that fits an offered tool, nothing else: no name that does not exist, no parameter
# forgotten. The base model seldom calls a tool, so it looks good at *no call where none is due*: read
# that line together with *called a tool where one is due*. The base model does not change with your
# training, so its replies come from the kit's record where you run the same profile
# (`data/runs/laptop`; delete its `scores/` to ask it yourself).

# %%
print(plots.caption(run.manifest()))
plots.comparison(scores)

# %% [markdown]
# The BFCL lines are a random sample of its cases, in AgentFabric's prompt. They are not the
# leaderboard's numbers.
#
# With one tool in the prompt, the right tool is only a matter of calling. **Expect** the choice to
# be harder the more tools are offered, and the share that blind choice would reach (*chance*).

# %%
cases = {row["id"]: evaluate.case_of(row) for row in run.cases}
pd.DataFrame(evaluate.right_tool_by_offered([*cases.values()], scores[-1]["episodes"])).round(2)

# %% [markdown]
# ## 7 · What goes wrong
#
# Every test episode of the last checkpoint, sorted by the first thing that goes wrong. **Expect**
# several kinds of failure, and few successes or none.

# %%
kinds = {}
for episode in scores[-1]["episodes"]:
    steps = [evaluate.step_of(step) for step in episode["transcript"]]
    kinds.setdefault(evaluate.failure_kind(cases[episode["id"]], steps), []).append(episode)
pd.Series({kind: len(episodes) for kind, episodes in kinds.items()}, name="episodes").sort_values()

# %% [markdown]
# Numbers hide what they count. Here is the first episode of each kind, in the order of the cases.


# %%
def show(episode):
    case = cases[episode["id"]]
    print("question:", case.query)
    print("wanted:  ", [call for call, _ in case.calls] or "no call", "→", case.answer)
    for step in episode["transcript"]:
        print(f"{step['kind']:9}", repr(step["text"][:200]))
        if step["result"]:
            print("result:  ", step["result"][:160])
    print()


for kind, episodes in kinds.items():
    print(f"--- {kind} ---")
    show(episodes[0])

# %% [markdown]
# ## 8 · What is learned first?
#
# The first calls by step, as numbers. **Expect** *called* to come first and exact calls later.

# %%
frame = plots.score_frame(scores, "dev")
parts = ["called", "tool_name", "full_call", "no_call"]
table = frame[frame.metric.isin(parts)].pivot(index="step", columns="metric", values="rate")
table[parts].astype(float).round(2)

# %% [markdown]
# ## Checkpoint
#
# Do the intervals of base and tuned overlap? **Expect** no overlap for the right tool in the laptop
# profile; successes are few after these minutes, and their intervals may overlap. Where two do, this
# run alone does not show a difference: you need more cases or more steps.

# %%
frame = plots.score_frame(scores)
for metric in ("tool_name", "full_call", "success"):
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
# 3. *Hard.* `python data/authoring/practice.py --part test --masked --out masked.jsonl` writes the
#    test cases with random names. Score them. What does a drop mean?
#
# **You learned** to measure what a user would notice, and how sure such a number is.
#
# Next: [06 · Call tools interactively](06_call_tools_interactively.ipynb)
