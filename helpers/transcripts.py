"""Draw a visit as HTML, without widgets: for lessons that run headless, and for the playground's panel.

Whatever a model wrote is shown as text: it is escaped, and nothing in it is loaded, linked or run.
"""

import re
from html import escape

from helpers.agent import Step
from helpers.agentfabric import function_of, parse_arguments, read_calls, tool_names

_HUES = {"Action": "37,99,235", "Action Input": "14,116,144", "Observation": "180,83,9",
         "Answer": "21,128,61", "Note": "147,51,234", "Error": "220,38,38", "Gave up": "220,38,38"}
# Jupyter looks for formulas and links in text, but not inside <pre>.
_PRE = ("margin:0;padding:0;background:none;font-size:13px;white-space:pre-wrap;word-break:normal;"
        "overflow-wrap:anywhere")
_PROSE = ("Answer", "Note")  # not in a typewriter face
_UNREADABLE = (
    (r"Action\s*(Input)?\s*：", 'a full-width colon stands where the runtime wants ":"'),
    (r"Action( Input)?:\S", "there is no space after the colon"),
    (r"Action: .*\n\s*\n\s*Action Input:", 'an empty line stands before "Action Input:"'),
    (r"Action: (?![\s\S]*Action Input:)", 'the line "Action Input: …" is missing'),
)


def why_unreadable(reply: str) -> str:
    """A likely reason why the runtime's pattern finds no call in a reply that speaks of an action."""
    reasons = [reason for pattern, reason in _UNREADABLE if re.search(pattern, reply)]
    return reasons[0] if reasons else 'it is not the two lines "Action: name" and "Action Input: arguments"'


def notes(step: Step, tools: list[dict] | None = None) -> list[str]:
    """What to notice about a step: a call that cannot run and why, or a reply that is no readable call.

    With `tools`, the OpenAI schemas that were offered, a call to anything else is named an unknown tool.
    """
    if step.kind == "answer" and not step.text.strip():
        return ["Empty reply: the runtime takes it as the final answer."]
    if step.kind == "answer" and re.search(r"\bAction\b", step.text):
        return [f"Unreadable call: {why_unreadable(step.text)}. The runtime takes it as the final answer."]
    return _call_notes(step, tools) if step.kind == "call" else []


def _call_notes(step: Step, tools: list[dict] | None) -> list[str]:
    """What is wrong with a call: its tool, its JSON, or a second call beside it."""
    found, offered = [], {function_of(tool)["name"]: function_of(tool) for tool in tools or []}
    if tools is not None and step.call.name not in offered:
        found.append(f"Unknown tool: {step.call.name!r} is not one of [{tool_names(tools)}].")
    try:
        arguments = parse_arguments(step.call.arguments)
        if step.call.name in offered and isinstance(arguments, dict):
            known = offered[step.call.name]["parameters"].get("properties", {})
            extra = [repr(name) for name in arguments if name not in known]
            found += [f"Ignored: {', '.join(extra)}, which {step.call.name} does not have."] if extra else []
    except (ValueError, RecursionError) as error:
        found.append(f"Malformed JSON in Action Input: {error}")
    if len(read_calls(step.text)) > 1:
        found.append(f"The reply has {len(read_calls(step.text))} calls; the runtime runs only the first.")
    return found


def step_html(step: Step, tools: list[dict] | None = None) -> str:
    """One step as labelled blocks, with notes and the raw reply to fold out; a "request" shows nothing.

    Args:
        step: of a kind of `agent.Step`, or of kind "error", whose `text` says what failed.
        tools: see `notes`.
    """
    if step.kind == "request":
        return ""
    if step.kind == "call":
        blocks = [("Action", step.call.name), ("Action Input", step.call.arguments)]
    else:
        label = {"answer": "Answer", "error": "Error", "gave_up": "Gave up"}[step.kind]
        text = step.text.strip() or "(nothing)"  # the raw reply below keeps the white space
        blocks = [(label, "No answer when the turn limit was reached." if label == "Gave up" else text)]
    blocks += [("Note", note) for note in notes(step, tools)]
    if step.result is not None:
        blocks.append(("Observation", step.result))
    raw = _raw(step.text) if step.kind in ("call", "answer") else ""
    return "".join(_block(*block) for block in blocks) + raw


def transcript_html(steps: list[Step], tools: list[dict] | None = None) -> str:
    """A visit, or what there is of it so far: what `agent.run` returns, for `IPython.display.HTML`.

    An answer without any call before it gets a note: it may be right, or the model fails to use its tools.
    """
    html = "".join(step_html(step, tools) for step in steps)
    if [step.kind for step in steps] == ["answer"] and not notes(steps[0]):
        html += _block("Note", "No tool call: the runtime shows the first reply as the final answer.")
    return f'<div style="max-width:900px">{html}</div>'


def compare_html(transcripts: dict[str, list[Step]], tools: list[dict] | None = None) -> str:
    """Transcripts side by side, each under its label (a model's name)."""
    columns = (f'<div style="flex:1 1 320px;min-width:0"><b>{escape(label)}</b>'
               f'{transcript_html(steps, tools)}</div>' for label, steps in transcripts.items())
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{"".join(columns)}</div>'


def _block(label: str, text: str) -> str:
    hue, face = _HUES[label], ";font-family:inherit" if label in _PROSE else ""
    return (f'<div style="border-left:4px solid rgb({hue});background-color:rgba({hue},0.09);'
            f'padding:4px 10px;margin:4px 0"><div style="font-weight:bold;font-size:12px">{label}</div>'
            f'<pre style="{_PRE}{face}">{escape(text)}</pre></div>')


def _raw(reply: str) -> str:
    return (f'<details style="font-size:12px;margin:2px 0 10px 14px"><summary>Raw reply</summary>'
            f'<pre style="{_PRE}">{escape(reply)}</pre></details>')
