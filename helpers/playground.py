"""The playground: ask models the same question side by side, see every step, and play the tool if you like.

The only module with widgets. `step_html` and `transcript_html`, from `helpers.transcripts`, draw without any.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape

import ipywidgets as widgets

from helpers.agent import Step, visit
from helpers.agentfabric import Call, function_of
from helpers.tools import REGISTRY, execute, schemas
from helpers.transcripts import step_html, transcript_html

__all__ = ["playground", "step_html", "transcript_html"]
QUERIES = {"en": "What is the weather in Paris today?", "zh": "今天北京天气怎么样？"}
AUTO, PLAY = "tools answer", "I play the tool"


@dataclass
class Column:
    """One model's side of the panel: its widgets, and the visit in progress."""

    ask: Callable[[list[dict]], str]
    status: widgets.HTML
    transcript: widgets.HTML
    observation: widgets.Textarea
    send: widgets.Button
    loop: Generator | None = None
    steps: list[Step] = field(default_factory=list)
    tools: list[dict] = field(default_factory=list)

    @property
    def waiting(self) -> bool:
        """Whether a call waits for the person's observation."""
        return bool(self.steps) and self.steps[-1].kind == "call" and self.steps[-1].result is None


@dataclass(frozen=True)
class Form:
    """The controls above the columns; `ticks` pairs each tool's schema with its checkbox."""

    ticks: list[tuple[dict, widgets.Checkbox]]
    instruction: widgets.Textarea
    query: widgets.Textarea
    mode: widgets.RadioButtons
    ask: widgets.Button
    reset: widgets.Button
    message: widgets.HTML


def playground(models: dict[str, Callable[[list[dict]], str]], tools: list[dict] | None = None,
               query: str | None = None, language: str = "en") -> widgets.Widget:
    """A panel to ask models the same question side by side, and to watch or play their tools.

    Args:
        models: label → `ask`, which takes messages and returns the reply.
        tools: OpenAI function schemas, by default all local tools. One without a local function, you play.
        query: the question that stands there at first.
        language: "en" or "zh", of the default tools and question.

    Replies are computed inside the click, so only the notebook's ■ (interrupt) stops one that takes too long.

    Raises:
        ValueError: another language.
    """
    if language not in QUERIES:
        raise ValueError(f"the playground has no language {language!r}; choose one of {', '.join(QUERIES)}")
    form = _form(schemas(REGISTRY, language) if tools is None else tools, query or QUERIES[language])
    columns = [_column(ask) for ask in models.values()]
    form.ask.on_click(lambda _: _start(form, columns))
    form.reset.on_click(lambda _: _reset(form, columns))
    for column in columns:
        column.send.on_click(lambda _, column=column: _send(form, columns, column))
    boxes = [widgets.VBox([widgets.HTML(f"<b>{escape(label)}</b>"), column.transcript, column.status,
                           column.observation, column.send], layout={"flex": "1 1 320px", "min_width": "0"})
             for label, column in zip(models, columns, strict=True)]
    _reset(form, columns)
    grid = {"grid_template_columns": "repeat(auto-fit, minmax(380px, 1fr))"}
    return widgets.VBox([
        widgets.HTML("<b>Tools the models may call</b>"),
        widgets.GridBox([tick for _, tick in form.ticks], layout=grid),
        form.instruction, form.query, form.mode, widgets.HBox([form.ask, form.reset, form.message]),
        widgets.HBox(boxes, layout={"flex_flow": "row wrap", "grid_gap": "16px"})])


def _form(tools: list[dict], query: str) -> Form:
    """The controls, with every tool ticked."""
    wide = {"layout": {"width": "98%"}}
    texts = [f"{function_of(tool)['name']}: {function_of(tool).get('description', '')}" for tool in tools]
    return Form([(tool, widgets.Checkbox(True, description=text, indent=False, **wide))
                 for tool, text in zip(tools, texts, strict=True)],
                widgets.Textarea(description="Instruction", rows=2, **wide,
                                 placeholder="Who the model is. Left empty: a helpful assistant"),
                widgets.Textarea(query, description="Question", rows=2, **wide,
                                 placeholder="Ask something that one of the tools can answer"),
                widgets.RadioButtons(options=[AUTO, PLAY], description="Who answers a call", **wide,
                                     orientation="horizontal", style={"description_width": "initial"}),
                widgets.Button(description="Ask", button_style="primary", icon="play"),
                widgets.Button(description="Stop and reset", icon="refresh"), widgets.HTML())


def _column(ask: Callable) -> Column:
    """One side's widgets, hidden until there is something to show."""
    return Column(ask, widgets.HTML(), widgets.HTML(), widgets.Textarea(
        description="Observation (you are the tool):", rows=4, style={"description_width": "initial"},
        layout={"width": "98%", "flex_flow": "column", "align_items": "flex-start"}),
        widgets.Button(description="Send", button_style="primary"))


def _start(form: Form, columns: list[Column]) -> None:
    """Ask: every model begins its visit."""
    if form.ask.disabled:  # a second click that was on its way
        return
    _reset(form, columns)
    query = form.query.value.strip()
    form.message.value = "" if query else "<b>Type a question first.</b>"
    tools = [tool for tool, tick in form.ticks if tick.value]
    for column in columns if query else []:
        column.tools = tools
        column.loop = visit(tools, query, instruction=form.instruction.value.strip() or None)
    if query:
        _run(form, columns, [(column, partial(next, column.loop)) for column in columns])


def _send(form: Form, columns: list[Column], column: Column) -> None:
    """Send: the person's observation goes to the model that waits for it."""
    if column.waiting:
        _run(form, columns, [(column, partial(_feed, column, column.observation.value))])


def _run(form: Form, columns: list[Column], moves: list[tuple[Column, Callable[[], Step]]]) -> None:
    """Advance visits one after the other; Ask stays disabled as long as one is open."""
    form.ask.disabled = True
    try:
        for column, first in moves:
            _drive(column, form.mode.value == PLAY, first)
    except KeyboardInterrupt:
        form.message.value = "<b>Stopped from the keyboard.</b>"
    form.ask.disabled = any(column.waiting for column in columns)


def _reset(form: Form, columns: list[Column]) -> None:
    """Drop all visits, whatever they wait for."""
    form.ask.disabled, form.message.value = False, ""
    for column in columns:
        column.loop, column.steps = None, []
        _show(column)


def _show(column: Column, status: str = "") -> None:
    column.status.value = f'<span role="status"><i>{escape(status)}</i></span>' if status else ""
    column.transcript.value = transcript_html(column.steps, column.tools) if column.steps else ""
    column.observation.layout.display = column.send.layout.display = None if column.waiting else "none"


def _drive(column: Column, play: bool, move: Callable[[], Step]) -> None:
    """Advance one visit until it ends, fails, or waits for the person; show each step as it happens."""
    try:
        step = move()
        while step.kind in ("request", "call"):
            if step.kind == "request":
                _show(column, "thinking…")
                step = column.loop.send(column.ask(list(step.messages)))
                continue
            column.steps.append(step)
            result = _local_result(column.tools, step.call)
            if play or result is None:
                column.observation.value = result or ""
                return
            step = _feed(column, result)
        column.steps.append(step)
    except BaseException as error:  # a model may fail in any way; the panel has to outlive it
        column.steps.append(Step("error", text=f"{type(error).__name__}: {error}".rstrip(": ")))
        if not isinstance(error, Exception):
            raise
    finally:
        _show(column, "waiting for your observation" if column.waiting else "")


def _feed(column: Column, text: str) -> Step:
    """Give the observation to the call that stands last; the visit's next step."""
    column.steps[-1] = replace(column.steps[-1], result=text)
    return column.loop.send(text)


def _local_result(tools: list[dict], call: Call) -> str | None:
    """What the local tools say to a call, also if it was not offered; None where only a person can answer."""
    offered = [function_of(tool)["name"] for tool in tools]
    if call.name in offered and call.name not in REGISTRY:
        return None
    return execute(call, {name: REGISTRY[name] for name in offered if name in REGISTRY})
