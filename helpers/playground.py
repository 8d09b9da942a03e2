"""The playground: ask models the same question side by side, see every step, play the tool.

What a model wrote is shown as text: it is escaped, and nothing in it is loaded, linked or run.
"""

import re
from collections.abc import Callable, Generator
from dataclasses import replace
from html import escape

import ipywidgets as widgets

from helpers.agent import REGISTRY, Step, episode, execute, schemas
from helpers.agentfabric import function_of, parse_arguments, read_calls, tool_names

QUERIES = {"en": "What is the weather in Paris today?", "zh": "今天北京天气怎么样？"}
AUTO, PLAY = "tools answer", "I play the tool"
_HUES = {"Action": "37,99,235", "Action Input": "14,116,144", "Observation": "180,83,9"}
_HUES |= {"Answer": "21,128,61", "Note": "147,51,234"}
_HUES |= {"Error": "220,38,38", "Gave up": "220,38,38"}
# Jupyter looks for formulas and links in text, but not inside <pre>.
_PRE = "margin:0;padding:0;background:none;font-size:13px;white-space:pre-wrap;"
_PRE += "word-break:normal;overflow-wrap:anywhere"
_UNREADABLE = {  # what the runtime's pattern does not read → the likely reason
    r"Action\s*(Input)?\s*：": 'a full-width colon stands where the runtime wants ":"',
    r"Action( Input)?:\S": "there is no space after the colon",
    r"Action: .*\n\s*\n\s*Action Input:": 'an empty line stands before "Action Input:"',
    r"Action: (?![\s\S]*Action Input:)": 'the line "Action Input: …" is missing',
    "": 'it is not the two lines "Action: name" and "Action Input: arguments"',
}


def notes(step: Step, tools: list[dict] | None = None) -> list[str]:
    """What to notice about a step: a call that cannot run, or a reply that is no readable call.
    With `tools`, the OpenAI schemas that were offered, also calls to other tools."""
    if step.kind == "answer" and not step.text.strip():
        return ["Empty reply: the runtime takes it as the final answer."]
    if step.kind == "answer" and re.search(r"\bAction\b", step.text):
        reason = next(why for pattern, why in _UNREADABLE.items() if re.search(pattern, step.text))
        return [f"Unreadable call: {reason}. The runtime takes it as the final answer."]
    if step.kind != "call":
        return []
    found, name = [], step.call.name
    offered = {one["name"]: one["parameters"] for one in map(function_of, tools or [])}
    if tools is not None and name not in offered:
        found.append(f"Unknown tool: {name!r} is not one of [{tool_names(tools)}].")
    try:
        arguments = parse_arguments(step.call.arguments)
        if name in offered and isinstance(arguments, dict):
            known = offered[name].get("properties", {})
            if extra := ", ".join(repr(key) for key in arguments if key not in known):
                found.append(f"Ignored: {extra}, which {name} does not have.")
    except (ValueError, RecursionError) as error:
        found.append(f"Malformed JSON in Action Input: {error}")
    if (count := len(read_calls(step.text))) > 1:
        found.append(f"The reply has {count} calls; the runtime runs only the first.")
    return found


def step_html(step: Step, tools: list[dict] | None = None) -> str:
    """One step as labelled blocks, with `notes` and the raw reply to fold out. Its kind is one of
    `agent.Step` (but "request"), or "error" with the reason as text."""
    if step.kind == "call":
        blocks = [("Action", step.call.name), ("Action Input", step.call.arguments)]
    elif step.kind == "gave_up":
        blocks = [("Gave up", "No answer when the turn limit was reached.")]
    else:
        blocks = [(step.kind.capitalize(), step.text.strip() or "(nothing)")]
    blocks += [("Note", note) for note in notes(step, tools)]
    if step.result is not None:
        blocks.append(("Observation", step.result))
    html = "".join(_block(*block) for block in blocks)
    if step.kind in ("call", "answer"):
        raw = f'<summary>Raw reply</summary><pre style="{_PRE}">{escape(step.text)}</pre>'
        html += f'<details style="font-size:12px;margin:2px 0 10px 14px">{raw}</details>'
    return html


def _block(label: str, text: str) -> str:
    hue, face = _HUES[label], ";font-family:inherit" if label in ("Answer", "Note") else ""
    look = f"border-left:4px solid rgb({hue});background-color:rgba({hue},0.09)"
    head = f'<div style="font-weight:bold;font-size:12px">{label}</div>'
    body = f'<pre style="{_PRE}{face}">{escape(text)}</pre>'
    return f'<div style="{look};padding:4px 10px;margin:4px 0">{head}{body}</div>'


def transcript_html(steps: list[Step], tools: list[dict] | None = None) -> str:
    """An episode as far as it has come, as HTML. An answer without any call gets a note."""
    html = "".join(step_html(step, tools) for step in steps)
    if [step.kind for step in steps] == ["answer"] and not notes(steps[0]):
        html += _block("Note", "No tool call: the runtime shows this reply as the final answer.")
    return f'<div style="max-width:900px">{html}</div>'


def compare_html(transcripts: dict[str, list[Step]], tools: list[dict] | None = None) -> str:
    """Transcripts side by side, each under its label (a model's name)."""
    html = ""
    for label, steps in transcripts.items():
        column = f"<b>{escape(label)}</b>{transcript_html(steps, tools)}"
        html += f'<div style="flex:1 1 320px;min-width:0">{column}</div>'
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{html}</div>'


class _Column:
    """One model's side of the panel: its widgets, and the episode in progress."""

    def __init__(self, label: str, ask: Callable):
        self.ask, self.shown = ask, widgets.HTML()
        self.observation = widgets.Textarea(description="Observation (you are the tool):", rows=4)
        above = {"flex_flow": "column", "align_items": "flex-start"}  # the label, and whole
        self.observation.layout = {"width": "98%", **above}
        self.observation.style.description_width = "initial"
        self.send = widgets.Button(description="Send", button_style="primary")
        parts = [widgets.HTML(f"<b>{escape(label)}</b>"), self.shown, self.observation, self.send]
        self.box = widgets.VBox(parts, layout={"flex": "1 1 320px", "min_width": "0"})

    def begin(self, tools: list[dict] = (), loop: Generator | None = None) -> None:
        """Drop the episode in progress, whatever it waits for, and have another one ready."""
        self.tools, self.loop, self.steps = tools, loop, []
        self.names = {function_of(tool)["name"] for tool in tools}
        self.show()

    @property
    def waiting(self) -> bool:
        """Whether a call waits for the person's observation."""
        return bool(self.steps) and self.steps[-1].kind == "call" and self.steps[-1].result is None

    def show(self, status: str = "") -> None:
        html = transcript_html(self.steps, self.tools) if self.steps else ""
        self.shown.value = html + f'<i role="status">{status}</i>'
        for widget in (self.observation, self.send):
            widget.layout.display = None if self.waiting else "none"

    def drive(self, play: bool, held: bool) -> None:
        """Go on until the episode ends, fails, or waits for the person; show steps as they come.
        held: replies follow a grammar of the tools."""
        sent = self.observation.value if self.waiting else None  # what the loop gets next
        try:
            while True:
                if self.waiting:
                    self.steps[-1] = replace(self.steps[-1], result=sent)
                step = self.loop.send(sent)
                if step.kind == "request":
                    self.show("thinking…")
                    sent = self.ask(list(step.messages), *([self.tools] if held else []))
                    continue
                self.steps.append(step)
                if step.kind != "call":
                    return
                by_person = step.call.name in self.names - REGISTRY.keys()
                local = {name: REGISTRY[name] for name in self.names & REGISTRY.keys()}
                sent = "" if by_person else execute(step.call, local)
                if play or by_person:
                    self.observation.value = sent
                    return
        except BaseException as error:  # a model may fail in any way; the panel has to outlive it
            self.steps.append(Step("error", f"{type(error).__name__}: {error}".rstrip(": ")))
            if not isinstance(error, Exception):
                raise
        finally:
            self.show("waiting for your observation" if self.waiting else "")


def playground(models: dict, tools: list | None = None, query=None, language="en", grammar=False):
    """A widget to ask models (label → function from messages to the reply) the same question side
    by side. tools: OpenAI schemas; you play those without a local function. language: "en" or "zh",
    of the tools and question asked for by default; another is a ValueError. grammar: offer a box
    that passes the tools as second argument, for replies that are held to them."""
    local = schemas(REGISTRY, language)  # raises where there is no such language
    tools = local if tools is None else tools
    texts = [f"{one['name']}: {one.get('description', '')}" for one in map(function_of, tools)]
    wide = {"width": "98%"}
    ticks = [widgets.Checkbox(True, description=one, indent=False, layout=wide) for one in texts]
    grid = {"grid_template_columns": "repeat(auto-fit, minmax(380px, 1fr))"}
    instruction = widgets.Textarea(description="Instruction", rows=2, layout=wide)
    instruction.placeholder = "Who the model is. Left empty: a helpful assistant"
    question = widgets.Textarea(query or QUERIES[language], description="Question", layout=wide)
    mode = widgets.RadioButtons(options=[AUTO, PLAY], description="Who answers a call")
    mode.orientation, mode.style.description_width = "horizontal", "initial"
    held = widgets.Checkbox(False, description="grammar", indent=False)
    held.layout.display = None if grammar else "none"
    ask = widgets.Button(description="Ask", button_style="primary", icon="play")
    reset = widgets.Button(description="Stop and reset", icon="refresh")
    message = widgets.HTML()
    columns = [_Column(label, model) for label, model in models.items()]

    def clear(_=None) -> None:
        ask.disabled, message.value = False, ""
        for column in columns:
            column.begin()

    def drive(moving: list[_Column]) -> None:
        ask.disabled = True
        try:
            for column in moving:
                column.drive(mode.value == PLAY, held.value)
        except KeyboardInterrupt:
            message.value = "<b>Stopped from the keyboard.</b>"
        ask.disabled = any(column.waiting for column in columns)

    def start(_) -> None:
        if ask.disabled:  # a second click that was on its way
            return
        clear()
        asked, role = question.value.strip(), instruction.value.strip() or None
        message.value = "" if asked else "<b>Type a question first.</b>"
        offered = [tool for tool, tick in zip(tools, ticks) if tick.value]
        for column in columns:
            column.begin(offered, episode(offered, asked, instruction=role))
        drive(columns if asked else [])

    clear()
    ask.on_click(start)
    reset.on_click(clear)
    for column in columns:
        column.send.on_click(lambda _, column=column: drive([column] if column.waiting else []))
    form = [widgets.HTML("<b>Tools the models may call</b>"), widgets.GridBox(ticks, layout=grid)]
    form += [instruction, question, mode, held, widgets.HBox([ask, reset, message])]
    row = {"flex_flow": "row wrap", "grid_gap": "16px"}
    return widgets.VBox([*form, widgets.HBox([column.box for column in columns], layout=row)])
