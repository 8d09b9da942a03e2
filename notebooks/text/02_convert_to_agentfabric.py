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
# # 02 · Convert to AgentFabric
#
# **You will do:** parse the ms_agent prompt with regular expressions, see what the seed recipe's own regex loses, and convert the data without loss.
#
# **You will learn:** why a model tuned on ms_agent fails in AgentFabric, and what a faithful conversion has to keep.
#
# **You will need:** one minute, 0.5 GB of memory. No GPU, no network.
#
# The seed recipe fine-tuned Qwen-7B-Chat on ms_agent, put it into AgentFabric and saw one success in ten visits: AgentFabric's prompt looks
# different. So its authors converted the data with a short regex script. That was the right idea. Here we look closely at it.

# %% [markdown]
# ## 1 · Two prompts for the same tool
#
# One tool, written both ways. Expect the same facts in other words, and one larger difference: the *reply* that is asked for. ms_agent wants
# `Thought … Final Answer`; AgentFabric wants `Observation: <result>…</result>` and `Answer`.

# %%
import json

from helpers import agentfabric, assets, canonical, dialogues, sources

raw = [json.loads(line) for line in assets.dataset_file("authored").read_text("utf-8").splitlines()]
sample = next(row for row in raw if "-en-weather-single-" in row["id"])
ms_agent_prompt = sample["conversations"][0]["value"]
print(ms_agent_prompt)

# %%
row = dialogues.to_canonical(sample)
print(agentfabric.system_prompt(row["tools"], "You are a helpful assistant.", "en"))

# %% [markdown]
# ## 2 · Parse it: find where each tool starts
#
# The text has one fixed phrase per tool: a number, the name, `: Call this tool to interact with the … API.` A regular expression finds it. Expect
# as many names as the prompt has numbers.

# %%
import re

tool_head = re.compile(r"^\s*\d+\. (.+?): Call this tool to interact with the .+? API\. ", re.MULTILINE)
[head[1] for head in tool_head.finditer(ms_agent_prompt)]

# %% [markdown]
# ## 3 · Parse it: read the parameters
#
# After `Parameters:` comes a JSON list. A regex is the wrong tool for nested brackets; a JSON decoder stops by itself where the list ends. Expect
# Python objects.

# %%
start = re.search(r"Parameters: (?=\[)", ms_agent_prompt).end()
parameters, _ = json.JSONDecoder().raw_decode(ms_agent_prompt, start)
parameters

# %% [markdown]
# `dialogues.parse_tools` does both for every tool and gives the schema form that OpenAI, ms-swift and AgentFabric share:

# %%
dialogues.parse_tools(ms_agent_prompt)[0]

# %% [markdown]
# ## 4 · What the seed's regex keeps
#
# The seed's script reads the parameters with `\[({.*})` and then `"required": "(.*)"`. Both are *greedy*: they take as much as they can. `helpers/seed_converter.py`
# behaves like that script. Expect its first tool to look fine and the longer ones not to.

# %%
from helpers import seed_converter

prompt = max((one["conversations"][0]["value"] for one in raw[:60]), key=lambda text: text.count('"name"'))
for tool in seed_converter.seed_tools(prompt)[:4]:
    print(tool)
print("faithful:", [len(t["function"]["parameters"]["properties"]) for t in dialogues.parse_tools(prompt)], "parameters per tool")

# %% [markdown]
# One parameter per tool, whatever the tool had. And in the rendered prompt every key carries a stray backslash, which is not JSON:

# %%
line = next(line for line in seed_converter.seed_prompt(prompt).split("\n\n") if "输入参数" in line)
print(line)
schema = re.search(r"输入参数: (.*) Format", line)[1]
try:
    json.loads(schema)
except json.JSONDecodeError as error:
    print("\njson:", error)

# %% [markdown]
# ## 5 · Ten defects, each on a prompt that shows it
#
# None of this is carelessness: the script was written against a few short prompts, and on those it works. Each row of the table is the
# smallest prompt on which it does not. Expect the last two columns to differ everywhere.

# %%
import pandas as pd

def tool_text(name, number, description, listed):
    return (f"\n{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API useful for? "
            f"{description}. Parameters: {json.dumps(listed)}\n")

def parameter(name, required="True", **more):
    return {"name": name, "description": f"the {name}", "required": required, **more}

def probe(text, look):
    answers = []
    for parse in (lambda: seed_converter.seed_tools(text), lambda: dialogues.parse_tools(text)):
        try:
            answers.append(look(parse()))
        except AttributeError as error:
            answers.append(f"dies: {error}")
    return answers

# %% [markdown]
# Two small helpers are ready: `tool_text` writes a tool as ms_agent does, `probe` asks both parsers. Now the ten prompts:

# %%
two = [parameter("city"), parameter("date")]
PROMPTS = {
    "1 more than one parameter": tool_text("w", 1, "Weather", two),
    "2 required of two parameters": tool_text("w", 1, "Weather", two),
    "3 keys in the rendered JSON": tool_text("w", 1, "Weather", two[:1]),
    "4 another wording": "\n1. fire: Call this tool to interact with the fire API. It sees fire. Parameters: []\n",
    "5 names with spaces": tool_text("Factorial calculator", 1, "Factorial", two[:1]),
    "5b descriptions with a dot": tool_text("w", 1, "Get v1.2 weather", two[:1]),
    "6 a tool without parameters": tool_text("stop", 1, "Stop", []) + tool_text("w", 2, "Weather", two[:1]),
    "7 the tenth tool": "".join(tool_text(f"t{n}", n, "Tool", two[:1]) for n in range(1, 11)),
    "8 a number as parameter": tool_text("w", 1, "Weather", [parameter("days", type="integer")]),
    "9 the list of names": tool_text("天气", 1, "Weather", two[:1]),
}
len(PROMPTS)

# %% [markdown]
# What each prompt asks of the parsers, first for the seed's result, then for the faithful one:

# %%
def names(tools):
    return [getattr(tool, "name", None) or tool["function"]["name"] for tool in tools]

def describe(tools):
    return [f"{t.name}: {t.description}" if hasattr(t, "name") else
            f"{t['function']['name']}: {t['function']['description']}" for t in tools]

def schemas(tools):
    return [f"{t.parameter}{' (required)' if t.required else ''}: string" if hasattr(t, "name") else
            ", ".join(f"{key}{' (required)' if key in t['function']['parameters']['required'] else ''}: {value.get('type', 'string')}"
                      for key, value in t["function"]["parameters"]["properties"].items()) for t in tools]

LOOK = {"5": describe, "6": names, "7": lambda tools: len(tools), "9": names}
table = {case: probe(text, LOOK.get(case[0], schemas)) for case, text in PROMPTS.items() if case[0] != "3"}
pd.set_option("display.max_colwidth", 90)
pd.DataFrame(table, index=["seed's regex", "faithful parse"]).T

# %% [markdown]
# Defects 3 and 9 appear in the rendering, not in the parse: keys with a backslash (seen above), and names in quotes, Chinese ones as `\u5929`, where the app
# sends them bare:

# %%
print("seed: ", re.search("必须是.*之一", seed_converter.seed_prompt(PROMPTS["9 the list of names"]))[0])
print("app:   必须是[" + agentfabric.tool_names(dialogues.parse_tools(PROMPTS["9 the list of names"])) + "]之一")

# %% [markdown]
# The tenth defect is the largest and is not in the regex at all: only the *system* turn is rewritten. The replies keep `Thought:` and `Final Answer:`, so every
# converted row contradicts its own prompt. Section 7 converts the replies as well.

# %% [markdown]
# ## 6 · How much is lost in all?
#
# Counted over the whole file. Before you run it: what share of the parameters would you guess?

# %%
from collections import Counter

lost = Counter()
for one in raw:
    lost.update(seed_converter.losses(one["conversations"][0]["value"]))
for what, total in [("parameters gone", "parameters"), ("required flags gone", "parameters"), ("types turned to string", "parameters"),
                    ("tools gone or renamed", "tools"), ("prompts the script dies on", "prompts")]:
    print(f"{what:28} {lost[what]:6} of {lost[total]:6} {total:10} = {lost[what] / lost[total]:.1%}")

# %% [markdown]
# These are shares of *our synthetic* prompts. The defects are real; how often they strike `iic/ms_agent` is for you to count with `"modelscope"` (exercise 3).

# %% [markdown]
# ## 7 · The faithful conversion
#
# `dialogues.to_canonical` reads a row into `tools` and `messages`; `corpus.render_rows` writes it out in a shape. *wire* is what AgentFabric's OpenAI
# path really sends: one training row per request. Expect two rows for one dialogue: the call, then the summary, and in the second one the model's own call inside the **user** turn.

# %%
from helpers import corpus, storage

for training_row in corpus.render_rows([row], "wire"):
    *_, user, reply = training_row["messages"]
    print("USER: ", user["content"])
    print("REPLY:", reply["content"], "\n")

# %% [markdown]
# The other shape, *trace*, holds everything in one assistant turn. It is what the seed trained:

# %%
print(next(corpus.render_rows([row], "trace"))["messages"][-1]["content"])

# %% [markdown]
# ## 8 · A whole file, three ways
#
# `convert.convert` does it for a file, by one word: *seed* (the script as it was), *faithful* (the trace in one turn), *wire*. It streams, so 300,000 rows need no
# more memory than 3,000. Expect *wire* to give more rows than dialogues, and *seed* to lose some: prompts on which the script dies.

# %%
from helpers import convert

folder = assets.repo_root() / "runs" / "converted"
reports = [convert.convert("authored", way, folder / f"{way}.jsonl") for way in convert.WAYS]
pd.DataFrame([{"way": one.way, "dialogues in": one.rows_in, "converted": one.converted,
               "set aside": sum(one.rejected.values()), "training rows": one.rows_out} for one in reports])

# %% [markdown]
# The same from a shell, at full size: `python -m helpers.convert authored:30000 --to wire --out rows.jsonl`. With `--strict`, the first row that would be set aside
# stops it, with its line number.

# %% [markdown]
# ## 9 · What is set aside
#
# A row that cannot be converted without guessing is not repaired and not dropped in silence: it is kept, with its line and its reason, in
# `….rejected.jsonl` beside the rows. Our file is clean, so we break some rows on purpose. Expect a table of reasons, and as many rows as went in.

# %%
def broken(change):
    return json.dumps({**sample, "conversations": change(sample["conversations"])}, ensure_ascii=False)

lines = [
    json.dumps(sample, ensure_ascii=False),
    broken(lambda turns: turns[1:]),
    broken(lambda turns: [*turns[:2], {**turns[2], "value": turns[2]["value"].replace("Action Input", "Input")}]),
    broken(lambda turns: [{**turns[0], "value": "You are helpful."}, *turns[1:]]),
    broken(lambda turns: [{**turns[0], "value": 42}, *turns[1:]]),
    '{"id": "cut off in the mid',
]
(folder / "broken.jsonl").write_text("\n".join(lines), "utf-8")
report = convert.convert(str(folder / "broken.jsonl"), "faithful", folder / "mended.jsonl")
assert report.rows_in == report.converted + sum(report.rejected.values())
pd.read_json(folder / "mended.rejected.jsonl", lines=True)[["line", "id", "reason"]]

# %% [markdown]
# ## 10 · Other data sets, the same door
#
# Tool-calling data comes in many spellings. `sources.read_rows` knows ms_agent, `tools` + `messages`, OpenAI's `tool_calls`, ShareGPT (glaive) and Seal-Tools, and
# recognises them by their keys. Here is a ShareGPT row. Expect the canonical form, and then AgentFabric's.

# %%
glaive = {"tools": json.dumps([{"name": "ring_bell", "description": "Ring a bell.", "parameters": {
              "type": "object", "properties": {"times": {"type": "integer"}}, "required": ["times"]}}]),
          "conversations": [{"from": "human", "value": "Ring the bell twice."},
                            {"from": "function_call", "value": '{"name": "ring_bell", "arguments": {"times": 2}}'},
                            {"from": "observation", "value": "rung"}, {"from": "gpt", "value": "Done: it rang twice."}]}
(folder / "glaive.jsonl").write_text(json.dumps(glaive), "utf-8")
(read,) = sources.read_rows(folder / "glaive.jsonl")
print(read["messages"], "\n")
print(next(corpus.render_rows([read], "trace"))["messages"][-1]["content"])

# %% [markdown]
# ## 11 · Rows recorded from AgentFabric
#
# The seed recipe's other remedy was to add 488 *recorded* visits. `helpers.recorder` stands between AgentFabric and any model server and keeps what they say. Here
# the model is a **scripted teacher** (it plays a part from a script; it is no model), and our own loop asks; lesson 08 puts the real ModelScope-Agent in its place. Expect one line per request.

# %%
from helpers import agent, recorder, scoring
from helpers.endpoint import Endpoint
from helpers.scripted_teacher import NAME, script_of, scripted_teacher

visits = [one for one in storage.read_jsonl(assets.dataset_file("addition")) if len(corpus.turns_of(one)) == 1][:20]
wire = folder / "recordings.jsonl"
wire.unlink(missing_ok=True)
with scripted_teacher(script_of(visits)) as teacher, recorder.recording(teacher, wire) as url:
    model = Endpoint(url, {None: NAME})
    for one in visits:
        case = scoring.case_of(one)
        prompt = {key: one[key] for key in ("instruction", "role", "knowledge") if key in one}
        agent.run(one["tools"], case.query, lambda messages: model.ask([messages])[0], scoring.case_tools(case), **prompt)
print(len(visits), "visits,", len(wire.read_text("utf-8").splitlines()), "requests recorded")

# %% [markdown]
# `recordings.convert` groups the requests into visits, and keeps a visit if its calls fit their tools, its answer carries what the tools said, and it stopped by
# itself. We cut the last line, as a crash would. Expect one visit fewer, and the reason.

# %%
from helpers import recordings

wire.write_text(wire.read_text("utf-8")[:-60], "utf-8")
print(recordings.convert(wire, folder / "recorded.jsonl", source="scripted teacher"))
storage.read_jsonl(folder / "recorded.jsonl")[0]["messages"]

# %% [markdown]
# ## Checkpoint
#
# The whole file: every row is converted or accounted for, and every call of the original is still there.

# %%
rows, rejected = sources.split_rejected(sources.read_rows(assets.dataset_file("authored")))
actions = sum(turn["value"].count("\nAction Input: ") for one in raw for turn in one["conversations"] if turn["from"] == "assistant")
calls = sum(len(canonical.calls_of(one["messages"])) for one in rows)
assert len(rows) + len(rejected) == len(raw) and calls == actions
print(f"{len(rows)} rows converted, {len(rejected)} set aside, {calls} of {actions} calls kept")

# %% [markdown]
# **If not:** either a row of your own data uses another wording (look at its reason, then at `_TOOL_HEAD` in `helpers/dialogues.py`), or its replies do not keep to
# `Action / Action Input / Observation / Final Answer`.
#
# ## Exercises
#
# 1. *Easy.* Change one word of a prompt so that a row is set aside. Which reason do you get?
# 2. *Medium.* Repair `_FIRST` in the seed's script so that `required` survives. What breaks next?
# 3. *Hard.* With a network, count section 6 on `"modelscope"`. How far is it from the synthetic rows, and why?
#
# **You learned** that "convert the format" hides two things, a format and a loss, and how to have the one without the other.
#
# Next: [03 · See tokens, labels and loss](03_see_tokens_labels_and_loss.ipynb)
