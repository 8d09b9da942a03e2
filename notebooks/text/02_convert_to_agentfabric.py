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
# **You will do:** parse ms_agent's prompts and replies with regular expressions, write
# AgentFabric's prompt, see what the original recipe's script loses, and convert the data without
# loss.
#
# **You will learn:** why a model tuned on ms_agent fails in AgentFabric, and what a conversion has
# to keep.
#
# **You will need:** < 1 min, 0.2 GB on two CPU cores. No network.
#
# The *original recipe* (document 001) fine-tuned Qwen-7B-Chat on ms_agent and put it into
# AgentFabric. Of ten visits one called correctly. AgentFabric's prompt looks different, so its
# authors converted the data with a short script. That was the right idea. Here we do it step by
# step, and then look closely at their script.

# %% [markdown]
# ## 1 · Two prompts for the same tool
#
# **Expect** an ms_agent prompt: numbered tools in English sentences, and the reply that it asks
# for, from `Thought` to `Final Answer`.

# %%
import json

from helpers import assets

raw = [json.loads(line) for line in assets.dataset_file("authored").read_text("utf-8").splitlines()]
sample = next(row for row in raw if "-en-weather-single-" in row["id"])
ms_agent_prompt = sample["conversations"][0]["value"]
print(ms_agent_prompt)

# %% [markdown]
# ## 2 · The parser, written out
#
# Each tool begins with a number, its name, and one fixed phrase: a regular expression finds it.
# After `Parameters:` comes a JSON list. There a regex is the wrong tool, because brackets nest; a
# JSON decoder stops by itself where the list ends.

# %%
import re

HEAD = re.compile(r"\n\s*\d+\. (.+?): Call this tool to interact with the .+? API\. ")
USEFUL = re.compile(r"What is the .+? API useful for\? ?")


def read_tools(system):
    """The tools of an ms_agent prompt as OpenAI function schemas."""
    _, *parts = HEAD.split("\n" + system)  # name, text, name, text, …
    return [read_tool(name, text) for name, text in zip(parts[::2], parts[1::2])]


def read_tool(name, text):
    found = re.search(r"\s*Parameters: (?=\[)", text)
    listed, _ = json.JSONDecoder().raw_decode(text, found.end())
    description = USEFUL.sub("", text[: found.start()]).removesuffix(".").strip()
    needless = "name", "required"
    properties = {
        one["name"]: {key: one[key] for key in one if key not in needless} for one in listed
    }
    required = [one["name"] for one in listed if str(one["required"]).lower() == "true"]
    schema = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


# %% [markdown]
# **Expect** the schema form that OpenAI, ms-swift and AgentFabric share.

# %%
read_tools(ms_agent_prompt)[0]

# %% [markdown]
# The replies are parsed in the same way, at their five words.

# %%
import ast

from helpers.agentfabric import call_message

WORD = re.compile(r"\n(Thought|Action|Action Input|Observation|Final Answer): ?")


def read_reply(text):
    """An ms_agent reply as messages: tool_call, tool_response, …, assistant. Thoughts are left out."""
    before, *parts = WORD.split("\n" + text)
    messages = [] if parts else [{"role": "assistant", "content": before.strip()}]
    for word, value in zip(parts[::2], map(str.strip, parts[1::2])):
        if word == "Action":
            name = value
        elif word == "Action Input":  # a Python dictionary, as text
            messages.append(call_message(name, ast.literal_eval(value)))
        elif word == "Observation":
            messages.append({"role": "tool_response", "content": value})
        elif word == "Final Answer":
            messages.append({"role": "assistant", "content": value})
    return messages


# %% [markdown]
# **Expect** three messages: the call, its result, the answer.

# %%
read_reply(sample["conversations"][2]["value"])

# %% [markdown]
# `helpers/ms_agent.py` holds the same parser. It also accepts other spellings of the arguments,
# gives each parameter the type of the values that are passed, and says why a row cannot be read.
# From here on we use it.

# %%
from helpers import ms_agent

row = ms_agent.to_canonical(sample)
assert ms_agent.parse_tools(ms_agent_prompt) == read_tools(ms_agent_prompt)
row.keys()

# %% [markdown]
# ## 3 · AgentFabric's prompt, written out
#
# This is what AgentFabric 0.7.2 sends in English, to the letter. The runtime's Chinese text says
# the same.


# %%
def describe(tool):
    """One tool as one line of the prompt."""
    one, schema = tool["function"], json.dumps(tool["function"]["parameters"], ensure_ascii=False)
    line = f"{one['name']}: {one['name']} API. {one['description']} Parameters: {schema}"
    return line + " Format the arguments as a JSON object."


def write_prompt(tools, instruction):
    """AgentFabric's system message."""
    names = ",".join(tool["function"]["name"] for tool in tools)
    return (
        "\n# Tools\n\n## You have the following tools:\n\n"
        + "\n\n".join(map(describe, tools))
        + "\n\n## When you need to call a tool, please intersperse the following tool command in your "
        "reply. You can call zero or more times according to your needs:\n\nTool Invocation\n"
        f"Action: The name of the tool, must be one of [{names}]\nAction Input: Tool input\n"
        "Observation: <result>Tool returns result</result>\n"
        "Answer: Summarize the results of this tool call based on Observation.\n\n"
        f"\n#Instructions\n\n{instruction}\n\nNote: you have the ability to display images and videos, "
        "as well as the ability to run code. Don't say you can't do it.\n"
    )


# %% [markdown]
# **Expect** the same facts in other words, and another reply that is asked for: `Action`, `Action
# Input`, `Observation: <result>…</result>`, `Answer`.

# %%
from helpers import agentfabric

written = write_prompt(row["tools"], "You are a helpful assistant.")
assert written == agentfabric.system_prompt(row["tools"], "You are a helpful assistant.", "en")
print(written)

# %% [markdown]
# ## 4 · The requests, written out
#
# AgentFabric asks the model once for a call, runs the tool, and asks again. With an OpenAI-type
# server the model's own call and its result go to the end of the **user** message. So a dialogue
# with one call gives two training rows. The kit calls this format *wire*.


# %%
def wire(row):
    """The (user message, reply) pairs of a dialogue with one question."""
    names = ",".join(tool["function"]["name"] for tool in row["tools"])
    user = ""
    for message in row["messages"]:
        role, content = message["role"], message["content"]
        if role == "user":
            user = f"(. you can use tools: [{names}])" + content
        elif role == "tool_call":
            call = json.loads(content)
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            reply = f"Action: {call['name']}\nAction Input: {arguments}"
            yield user, reply
        elif role == "tool_response":
            user += reply + f"\nObservation: <result>{content}</result>\nAnswer:"
        else:
            yield user, content


# %% [markdown]
# **Expect** two pairs. The second reply is the summary alone.

# %%
for user, reply in wire(row):
    print("USER: ", user)
    print("REPLY:", reply, "\n")

# %% [markdown]
# `helpers/convert.py` makes the same rows, with earlier turns and Chinese. In another format,
# *trace*, the whole dialogue stands in one assistant turn. **Expect** call, result and answer in
# one text.

# %%
from helpers import convert

print(next(convert.render_rows([row], "trace"))["messages"][-1]["content"])

# %% [markdown]
# ## 5 · The original script
#
# Document 001 prints the script that made the 30,000 converted rows of
# `AI-ModelScope/ms_agent_for_agentfabric`. The next two cells behave like it, errors included: the
# kit's tests compare them with the script's own output on 1,565 prompts. First, what it reads of
# each tool.


# %%
def original_tools(system):
    tools = []
    for text in re.findall(r"\n\d\.(.*?})]", system, re.DOTALL):
        tool = {"name": re.search(r"(.*?):", text).group(1).strip()}
        tool["label"] = re.search(r"(\S+)\sAPI", text).group(1)
        tool["description"] = re.search(r"useful for\?\s(.*?)\.", text).group(1)
        _, found, listed = text.partition("Parameters: [{")
        if found:
            tool["key"] = re.search(r'"name": "(.*?)"', listed).group(1)
            tool["about"] = re.search(r'"description": "(.*?)"', listed).group(1)
            required = re.search(r'"required": "(.*)"', listed).group(1)
            tool["required"] = required.strip().lower() == "true"
        tools.append(tool)
    return tools


# %% [markdown]
# Then, how it writes a tool. **Expect** one parameter per tool, whatever the tool had.


# %%
def original_line(tool):
    line = f"{tool['name']}: {tool['label']} API。{tool['description']}输入参数: "
    key = (
        f'"\\{tool["key"]}": {{"type": "string", "description": "{tool["about"]}"}}'
        if "key" in tool
        else ""
    )
    required = json.dumps([tool["key"]] if tool.get("required") else [])
    schema = '{"type": "object", "properties": {' + key + '},"required": ' + required + "}"
    return line + schema + " Format the arguments as a JSON object."


longest = max(
    (one["conversations"][0]["value"] for one in raw[:60]), key=lambda text: text.count('"name"')
)
for tool, whole in list(zip(original_tools(longest), ms_agent.parse_tools(longest)))[:3]:
    print(original_line(tool))
    print("had:", *whole["function"]["parameters"]["properties"], "\n")

# %% [markdown]
# Two things to see here. Only the first parameter is left. And its name has a backslash before it,
# so what the prompt shows is not JSON. The rest of the script joins these lines with AgentFabric's
# Chinese text.

# %% [markdown]
# ## 6 · Where it loses something
#
# The script was written against a few prompts, and there it does most of its work. Each line below
# is a small prompt on which it does not keep what is there. **Expect** the two columns to differ in
# every line.


# %%
def tool_text(name, number, description, listed):
    return (
        f"\n{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API "
        f"useful for? {description}. Parameters: {json.dumps(listed)}\n"
    )


def parameter(name, required="True", **more):
    return {"name": name, "description": f"the {name}", "required": required, **more}


two = [parameter("city"), parameter("date")]
one = two[:1]
tool_text("w", 1, "Weather", one)

# %% [markdown]
# The prompts. **Expect** seven.

# %%
fire = "\n1. fire: Call this tool to interact with the fire API. It sees fire. Parameters: "
weather = tool_text("w", 2, "Weather", one)
prompts = {
    "two parameters": tool_text("w", 1, "Weather", two),
    "a number as parameter": tool_text("w", 1, "Weather", [parameter("days", type="integer")]),
    "a description with a dot": tool_text("w", 1, "Get v1.2 weather", one),
    "a tool without parameters first": tool_text("stop", 1, "Stop", []) + weather,
    "a tool without parameters alone": tool_text("stop", 1, "Stop", []),
    "ten tools": "".join(tool_text(f"t{n}", n, "Tool", one) for n in range(1, 11)),
    "no words 'useful for?'": fire + json.dumps(one),
}
len(prompts)

# %%
import pandas as pd


def original_summary(text):
    try:
        tools = original_tools(text)
    except AttributeError:
        return "the script dies"
    first = tools[0] if tools else {"name": "–", "description": ""}
    kept = f"{first.get('key')}: string, required {first.get('required')}"
    return f"{len(tools)} tools; {first['name']}: {first['description']!r}; {kept}"


def parser_summary(text):
    tools = [tool["function"] for tool in ms_agent.parse_tools(text)]
    schema = tools[0]["parameters"]
    kept = [f"{key}: {one.get('type', 'string')}" for key, one in schema["properties"].items()]
    first = f"{tools[0]['name']}: {tools[0]['description']!r}"
    return f"{len(tools)} tools; {first}; {', '.join(kept)}, required {schema['required']}"


pd.set_option("display.max_colwidth", 100)
lines = {case: (original_summary(text), parser_summary(text)) for case, text in prompts.items()}
pd.DataFrame(lines, index=["original script", "parser"]).T

# %% [markdown]
# Four more differences are not in the parameters:
#
# - With two or more parameters `required` is always empty.
# - A name is kept whole, but the label after it is cut to its last word: `Factorial calculator:
#   calculator API。`
# - The list of names is quoted, `["a", "b"]`, and Chinese names in it become `\u` codes.
#   AgentFabric sends `[a,b]`.
# - The prompt is Chinese whatever the language of the dialogue is.
#
# And the largest one: only the *system* turn is rewritten. The replies keep `Thought:` and `Final
# Answer:`, so each converted row contradicts its own prompt.

# %% [markdown]
# ## 7 · How much is lost in all?
#
# Counted over the whole file. Before you run it: what share of the parameters would you guess?

# %%
from collections import Counter

lost = Counter()
for prompt in (one["conversations"][0]["value"] for one in raw):
    whole, kept = ms_agent.parse_tools(prompt), original_tools(prompt)
    schemas = [tool["function"]["parameters"] for tool in whole]
    lost["parameters"] += sum(len(schema["properties"]) for schema in schemas)
    lost["parameters left"] += sum("key" in tool for tool in kept)
    lost["required flags"] += sum(len(schema["required"]) for schema in schemas)
    lost["required flags left"] += sum(tool.get("required", False) for tool in kept)
    lost["tools"] += len(whole)
    lost["tools left"] += len(kept)
    lost["prompts left without a tool"] += not kept
for what in ("parameters", "required flags", "tools"):
    print(
        f"{what:15} {lost[what]:6} → {lost[what + ' left']:6} ({lost[what + ' left'] / lost[what]:.1%} left)"
    )
print(f"{lost['prompts left without a tool']} of {len(raw)} prompts end without a tool")

# %% [markdown]
# These are shares of *our synthetic* prompts. How often `iic/ms_agent` itself is hit is for you to
# count with `"modelscope"` (exercise 3). On none of our prompts the script dies; on 6 of the 11
# genuine system prompts in ms-swift's documentation it does.

# %% [markdown]
# ## 8 · Convert a whole file
#
# `convert.convert` does it for a file, in a format of your choice. **Expect** more rows from *wire*
# than there are dialogues, and nothing rejected.

# %%
folder = assets.ROOT / "runs" / "converted"
formats = ("trace", "wire")
reports = [convert.convert("authored", name, folder / f"{name}.jsonl") for name in formats]
columns = ["format", "rows_in", "converted", "rows_out", "rejected"]
pd.DataFrame(reports)[columns]

# %% [markdown]
# The same from a shell: `python -m helpers.convert authored:30000 --to wire --out rows.jsonl`. With
# `--strict`, the first row that would be rejected stops it, with its line number.

# %% [markdown]
# ## 9 · What is rejected
#
# A row that cannot be converted without guessing is neither repaired nor dropped in silence. It is
# kept, with its line and its reason, in `….rejected.jsonl` beside the rows. Our file is clean, so
# we break some rows. **Expect** five reasons, and as many rows as went in.


# %%
def broken(change):
    return json.dumps(
        {**sample, "conversations": change(sample["conversations"])}, ensure_ascii=False
    )


lines = [
    json.dumps(sample, ensure_ascii=False),
    broken(lambda turns: turns[1:]),
    broken(
        lambda turns: [
            *turns[:2],
            {**turns[2], "value": turns[2]["value"].replace("Action Input", "Input")},
        ]
    ),
    broken(lambda turns: [{**turns[0], "value": "You are helpful."}, *turns[1:]]),
    broken(lambda turns: [{**turns[0], "value": 42}, *turns[1:]]),
    '{"id": "cut off in the mid',
]
(folder / "broken.jsonl").write_text("\n".join(lines), "utf-8")
report = convert.convert(str(folder / "broken.jsonl"), "trace", folder / "mended.jsonl")
assert report.rows_in == report.converted + sum(report.rejected.values())
pd.read_json(folder / "mended.rejected.jsonl", lines=True)[["line", "id", "reason"]]

# %% [markdown]
# ## Checkpoint
#
# The whole file: every row is converted or accounted for, and every call of the original is still
# there.

# %%
from helpers import data

rows, rejected = data.load("authored")
replies = [
    turn["value"] for one in raw for turn in one["conversations"] if turn["from"] == "assistant"
]
actions = sum(reply.count("\nAction Input: ") for reply in replies)
calls = sum(len(agentfabric.calls_of(one["messages"])) for one in rows)
assert len(rows) + len(rejected) == len(raw) and calls == actions
print(f"{len(rows)} rows converted, {len(rejected)} rejected, {calls} of {actions} calls kept")

# %% [markdown]
# **If not:** a row of your own data uses another wording (look at its reason, then at the patterns
# in `helpers/ms_agent.py`), or its replies do not keep to `Action`, `Action Input`, `Observation`,
# `Final Answer`.
#
# ## Appendix · Other data sets, the same function
#
# Tool-calling data comes in many spellings. `data.load` knows ms_agent, `tools` + `messages`,
# OpenAI's `tool_calls`, ShareGPT (glaive) and Seal-Tools, and recognises them by their keys. Here
# is a ShareGPT row. **Expect** messages, and then AgentFabric's trace.

# %%
bell = {"type": "object", "properties": {"times": {"type": "integer"}}, "required": ["times"]}
glaive = {
    "tools": json.dumps([{"name": "ring_bell", "description": "Ring a bell.", "parameters": bell}]),
    "conversations": [
        {"from": "human", "value": "Ring the bell twice."},
        {"from": "function_call", "value": '{"name": "ring_bell", "arguments": {"times": 2}}'},
        {"from": "observation", "value": "rung"},
        {"from": "gpt", "value": "Done: it rang twice."},
    ],
}
(folder / "glaive.jsonl").write_text(json.dumps(glaive), "utf-8")
(read,), _ = data.load(str(folder / "glaive.jsonl"))
print(read["messages"], "\n")
print(next(convert.render_rows([read], "trace"))["messages"][-1]["content"])

# %% [markdown]
# ## Exercises
#
# 1. *Easy.* Change one word of a prompt so that a row is rejected. Which reason do you get?
# 2. *Medium.* Change `original_tools` so that `required` survives. What breaks next?
# 3. *Hard.* With a network, count section 7 on `"modelscope"`. How far is it from the synthetic
#    rows, and why?
#
# **You learned** that "convert the format" can hide two things, a change of format and a loss, and
# how to have the one without the other.
#
# Next: [03 · See tokens, labels and loss](03_see_tokens_labels_and_loss.ipynb)
