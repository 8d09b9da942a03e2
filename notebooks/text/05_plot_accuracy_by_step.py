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
# **You will do:** let every checkpoint make real visits, with tools it has never seen, and draw how it gets better.
#
# **You will learn:** the difference between token accuracy and a visit that succeeds, and how much a small number of cases can say.
#
# **You will need:** 5 to 15 minutes on two CPU cores, 4 GB of memory. It uses the run of lesson 04, and trains it first if it is missing.

# %%
from helpers import evaluate, finetune, profiles

profile = profiles.current()
run = finetune.finetune(profile)

# %% [markdown]
# ## 1 · What counts as a success
#
# A *visit* is one question put to the model through AgentFabric's own loop. It succeeds if the model makes exactly the right call or calls, repeats none, stops, and its answer carries the
# facts that only the tool's result could tell it. Here is one case. Expect a question, the call we want, and the facts.

# %%
from helpers import scoring

case = scoring.case_of(run.cases[0])
print("question:", case.query)
print("call:    ", case.calls[0][0])
print("result:  ", case.calls[0][1])
print("facts:   ", case.facts)

# %% [markdown]
# With one tool in the prompt, calling the right one is only a matter of calling. How many tools do our cases offer? (BFCL's *multiple* offers two to four.)

# %%
from collections import Counter

for number, cases in sorted(Counter(len(row["tools"]) for row in run.cases).items()):
    print(f"{cases:3} cases offer {number} tool{'s' * (number > 1)}")

# %% [markdown]
# ## 2 · Score every checkpoint
#
# Step 0 is the base model. Every checkpoint answers the same held-out cases, and 40 questions of the **BFCL** benchmark (simple_python and multiple) judged by BFCL's own checker.
# Expect one bar over all cases of all checkpoints. Results are kept: the second time this cell takes no time.

# %%
scores = evaluate.score_run(run, profile)

# %% [markdown]
# ## 3 · The curve
#
# Before you look: token accuracy starts high, because much of a text is easy to guess when you are shown the beginning. Where do you expect visit success to start?

# %%
from helpers import curves

curves.style()
figure = curves.accuracy_by_step(run.log(), scores, title=f"{profile.model}, {profile.shape} shape, 1 seed; bars: 95 % Wilson intervals")
path = curves.save(figure, run.path / "accuracy_by_step.png")

# %% [markdown]
# The bars are 95 % Wilson intervals. With a few dozen cases they are wide: two neighbouring points of which the bars overlap are *not* shown to differ. One run
# is one seed; the study (lesson 09) uses several.

# %% [markdown]
# ## 4 · Base beside tuned
#
# Expect the tuned model to win most lines and to lose one: the base model never calls a tool, so it looks good at *no call where none is due*. The tuned one, after so
# few rows, calls whenever it sees tools. The two lines have to be read together.

# %%
table = curves.comparison(scores)
table

# %% [markdown]
# The BFCL line is a sample of 40, chosen by length so that a laptop can read it, in AgentFabric's prompt. It is not the leaderboard's number.

# %% [markdown]
# ## 5 · Look at the failures
#
# Numbers hide what goes wrong. Expect near misses: a value slightly off, an argument too many (words of the schema, such as `required`, slip in), a fact left out.

# %%
failed = [visit for visit in scores[-1]["visits"] if visit["judged"]["visit_success"] is False]
for visit in failed[:3]:
    gold = next(row for row in run.cases if row["id"] == visit["id"])
    print("question:", gold["messages"][0]["content"])
    print("wanted:  ", gold["messages"][1]["content"])
    for step in visit["transcript"]:
        print(f"{step['kind']:9}", repr(step["text"][:160]))
    print()

# %% [markdown]
# And the same question to the base model:

# %%
first = scores[0]["visits"][0]
[(step["kind"], step["text"][:200]) for step in first["transcript"]]

# %% [markdown]
# ## 6 · What was gained first?
#
# The parts of a visit by step. Expect *calling at all* to come within a few steps, and exact arguments later.

# %%
frame = curves.score_frame(scores)
parts = ["called", "tool_name", "full_call", "faithful_answer", "visit_success"]
frame[frame.measure.isin(parts)].pivot(index="step", columns="measure", values="rate")[parts].astype(float).round(2)

# %% [markdown]
# ## Checkpoint
#
# Do the intervals of base and tuned overlap? Expect none to: not for the right tool, exact calls, BFCL, nor for whole visits, which ask for most. Where two do overlap, the
# run alone does not show a difference: you would need more cases or more steps.

# %%
for measure in ("tool_name", "full_call", "bfcl", "visit_success"):
    line = frame[frame.measure == measure].sort_values("step")
    base, tuned = line.iloc[0], line.iloc[-1]
    shown = " ".join(f"{name} {one.k:.0f}/{one.n:.0f} [{one.low:.1%}, {one.high:.1%}]" for name, one in (("base", base), ("tuned", tuned)))
    print(f"{measure:14} {shown} {'no overlap' if tuned.low > base.high else 'overlap'}")

# %% [markdown]
# **If all of them overlap:** either this is the `smoke` profile, whose random model learns nothing, or the run was made with a changed recipe; `manifest.json` says which.
#
# ## Exercises
#
# 1. *Easy.* Which measure reaches its final value first?
# 2. *Medium.* `scoring.wilson(1, 10)` is the interval of the seed's "one visit in ten". Put ten of our visits beside it. How many would you need to tell 10 % from 30 %?
# 3. *Hard.* Rename the tools of the held-out cases to random words and score again. What does a drop mean?
#
# **You learned** to measure what a user would notice, with its uncertainty.
#
# Next: [06 · Call tools interactively](06_call_tools_interactively.ipynb)
