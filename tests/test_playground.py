"""The panel driven in this process: its widgets are found, set and clicked. Models are scripted."""

import re
from html import unescape

import ipywidgets as widgets
import pytest

from helpers.agent import Step, execute, run, schemas
from helpers.agentfabric import Call, read_calls
from helpers.playground import compare_html, notes, playground, step_html, transcript_html

WEATHER = 'Action: get_weather\nAction Input: {"city": "Paris"}'
ALERT = 'Action: fire_alert\nAction Input: {"location": "Building 3"}'
EVIL = '<script>alert(1)</script><img src="http://x.invalid/a.png" onerror=alert(1)>&amp;</pre>'
TAG = r'</?(?:div|pre|details|summary|b|i|span)(?: (?:style|role)="[^"<>]*")*>'


def words(html):
    """The texts between the allowed tags; any other tag stays in them."""
    return [unescape(part) for part in re.split(TAG, html) if part]


class ScriptedModel:
    """A double for a model: gives its replies in turn (or raises them) and keeps the requests."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    def __call__(self, messages):
        self.requests.append(messages[-1]["content"])
        self.system, reply = messages[0]["content"], self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


class Panel:
    """A playground, and its widgets by kind and label, in the order in which they stand."""

    def __init__(self, models, *arguments, **options):
        self.root = playground(models, *arguments, **options)

    def all(self, kind, label=""):
        found, queue = [], [self.root]
        while queue:
            widget = queue.pop(0)
            queue = [*getattr(widget, "children", ()), *queue]
            if type(widget) is kind and label in getattr(widget, "description", ""):
                found.append(widget)
        return found

    def click(self, label, column=0):
        self.all(widgets.Button, label)[column].click()

    def ask(self, query="Weather in Paris?", play=False):
        self.all(widgets.RadioButtons)[0].index = int(play)
        self.all(widgets.Textarea, "Question")[0].value = query
        self.click("Ask")

    def observation(self, column=0):
        box = self.all(widgets.Textarea, "Observation (you are the tool):")[column]
        return None if box.layout.display == "none" else box

    @property
    def busy(self):
        return self.all(widgets.Button, "Ask")[0].disabled

    @property
    def text(self):
        return "\n".join(words("".join(one.value for one in self.all(widgets.HTML))))


def step_from(reply, result=None):
    calls = read_calls(reply)
    return Step(
        "call" if calls else "answer", reply, call=calls[0] if calls else None, result=result
    )


def test_a_call_shows_labelled_blocks_in_order():
    blocks = ["Action", "get_weather", "Action Input", '{"city": "Paris"}', "Observation", "fog"]
    assert words(step_html(step_from(WEATHER, "fog"))) == [*blocks, "Raw reply", WEATHER]
    assert "Observation" not in step_html(step_from(WEATHER))
    assert step_html(Step("request", messages=({"role": "user", "content": "x"},))) == ""


def test_what_a_model_wrote_is_text_never_markup():
    steps = [Step("answer", EVIL), Step("error", EVIL), Step("answer", "Action:" + EVIL)]
    for step in [*steps, Step("call", EVIL, call=Call(EVIL, EVIL), result=EVIL)]:
        html = transcript_html([step], schemas(["get_weather"]))
        assert "<" not in re.sub(TAG, "", html) and EVIL in "\n".join(words(html))
    page = words(compare_html({"<base>": [Step("answer", "no")], "tuned": [Step("answer", "yes")]}))
    shown = [word for word in page if word in ("<base>", "tuned", "no", "yes")]
    assert shown == ["<base>", "no", "no", "tuned", "yes", "yes"]  # each answer also as raw reply


NOTES = {  # a reply → what its note says
    "Action:get_weather\nAction Input: {}": "no space after the colon",
    "Action: get_weather\nAction Input:{}": "no space after the colon",
    "Action：get_weather\nAction Input：{}": "full-width colon",
    "Action: get_weather\n\nAction Input: {}": "empty line",
    "Action: get_weather": "is missing",
    "My Action would be to look it up": "Unreadable call: it is not the two lines",
    " \n": "Empty reply",
    "Action: nope\nAction Input: {}": "Unknown tool: 'nope' is not one of [get_weather].",
    "Action: get_weather\nAction Input: {'city': True}": "Malformed JSON in Action Input: <string>",
    WEATHER.replace("}", ', "zoom": 1}'): "Ignored: 'zoom', which get_weather does not have.",
    f"{WEATHER}\n{ALERT}": "The reply has 2 calls; the runtime runs only the first.",
}


def test_notes_say_what_a_reader_may_overlook():
    tools = schemas(["get_weather"])
    for reply, text in NOTES.items():
        (note,) = notes(step_from(reply), tools)
        assert text in note and note in words(step_html(step_from(reply), tools))
    assert (
        notes(step_from(WEATHER), tools) == notes(step_from(ALERT)) == []
    )  # no tools: none unknown
    assert "No tool call" in transcript_html([Step("answer", "I am a model.")])
    assert "Note" not in transcript_html([step_from(WEATHER, "fog"), Step("answer", "Fog.")])
    endless = run(tools, "weather?", ScriptedModel(*[WEATHER] * 10), execute)
    assert "No answer when the turn limit was reached." in transcript_html(endless)


def test_two_models_answer_side_by_side_with_the_local_tools():
    tuned, base = ScriptedModel(WEATHER, "Light rain."), ScriptedModel("I cannot know.")
    panel = Panel({"<base>": base, "tuned": tuned})
    panel.ask()
    assert "light rain, 14 °C" in panel.text and "No tool call" in panel.text and not panel.busy
    order = ("<base>", "I cannot know", "tuned", "Light rain.")
    assert sorted(order, key=panel.text.index) == list(order)
    result = '<result>{"city": "Paris", "weather": "light rain, 14 °C"}</result>'
    assert tuned.requests[1].endswith(f"{WEATHER}\nObservation: {result}\nAnswer:")


def test_ticks_and_instruction_reach_the_model_and_all_inputs_have_labels():
    model = ScriptedModel("a", ALERT, "done")
    panel = Panel({"m": model}, schemas(["get_weather", "fire_alert"]))
    kinds = (widgets.Textarea, widgets.Checkbox, widgets.RadioButtons, widgets.Button)
    assert all(widget.description for kind in kinds for widget in panel.all(kind))
    panel.ask()
    assert "You are a helpful assistant." in model.system
    panel.all(widgets.Checkbox, "fire_alert: Sound the fire alarm of a building.")[0].value = False
    panel.all(widgets.Textarea, "Instruction")[0].value = "You guard a warehouse."
    panel.ask()
    assert "You guard a warehouse." in model.system and "[get_weather]" in model.requests[1]
    assert "Unknown tool: 'fire_alert'" in panel.text and "Details: 'fire_alert'" in panel.text


def test_i_play_the_tool():
    model = ScriptedModel(ALERT, WEATHER, "Everybody is out, and it rains.")
    panel = Panel({"m": model}, schemas(["get_weather", "fire_alert"]))
    panel.ask("Fire in building 3!", play=True)
    assert panel.busy and "waiting for your observation" in panel.text and len(model.requests) == 1
    assert (
        panel.observation().value == '{"location": "Building 3", "status": "the alarm is sounding"}'
    )
    panel.observation().value = "the bell is broken <b>"
    panel.click("Send")
    assert "<result>the bell is broken <b></result>" in model.requests[1]
    assert "the bell is broken <b>" in panel.text and "light rain" in panel.observation().value
    panel.click("Send")
    assert "it rains" in panel.text and panel.observation() is None and not panel.busy
    shown = panel.text
    panel.click("Send")  # nothing waits any more: nothing happens
    assert len(model.requests) == 3 and panel.text == shown


def test_two_models_wait_for_their_own_observation_and_a_reset_drops_both():
    one, two = ScriptedModel(WEATHER, "again"), ScriptedModel(WEATHER, "two done", "again")
    panel = Panel({"one": one, "two": two})
    panel.ask("first", play=True)
    panel.click("Send", 1)
    assert "two done" in panel.text and panel.busy and len(one.requests) == 1
    assert panel.observation(0) and panel.observation(1) is None
    panel.click("reset")
    assert not panel.busy and panel.observation() is None and "get_weather" not in panel.text
    panel.ask("second")
    assert "again" in panel.text and "first" not in one.requests[1]


def test_a_tool_without_local_function_is_always_played():
    own = {"name": "open_gate", "parameters": {"type": "object", "properties": {}}}
    panel = Panel({"m": ScriptedModel("Action: open_gate\nAction Input: {}", "It is open.")}, [own])
    panel.ask("Let me in")
    assert panel.observation().value == ""
    panel.observation().value = "creak"
    panel.click("Send")
    assert (
        "creak" in panel.text and "It is open." in panel.text and "Unknown tool" not in panel.text
    )


def test_models_that_fail_are_shown_and_the_others_go_on():
    failing = {"one": ScriptedModel(WEATHER, RuntimeError("no <port>")), "two": ScriptedModel(5)}
    panel = Panel(failing | {"sound": ScriptedModel("I am fine.")})
    panel.ask(play=True)
    panel.click("Send")
    shown = ("light rain", "RuntimeError: no <port>", "AttributeError", "I am fine.")
    assert all(text in panel.text for text in shown) and "thinking" not in panel.text
    assert not panel.busy and panel.observation() is None


def test_an_interrupt_stops_all_and_leaves_the_panel_usable():
    second = ScriptedModel("hello")
    panel = Panel({"slow": ScriptedModel(KeyboardInterrupt(), "fine"), "second": second})
    panel.ask()
    assert "Stopped" in panel.text and second.requests == [] and not panel.busy
    panel.ask()
    assert "fine" in panel.text and "hello" in panel.text and "Stopped" not in panel.text


def test_steps_appear_as_they_come_and_ask_is_disabled_while_a_model_works():
    seen = []

    def watches(messages):
        """A double that looks at the panel, and clicks Ask again, while it is being asked."""
        seen.append((panel.busy, panel.text))
        panel.click("Ask")
        return WEATHER if len(seen) == 1 else "done"

    panel = Panel({"m": watches})
    panel.ask("  ")
    assert "Type a question first." in panel.text and seen == [] and not panel.busy
    panel.ask()
    assert len(seen) == 2 and all(busy and "thinking…" in text for busy, text in seen)
    assert "light rain" not in seen[0][1] and "light rain" in seen[1][1]


def test_a_chinese_panel_and_no_other_language():
    model = ScriptedModel('Action: get_weather\nAction Input: {"city": "北京"}', "北京今天晴。")
    panel = Panel({"中文": model}, language="zh")
    assert panel.all(widgets.Checkbox, "get_weather: 查询城市今天的天气。")
    panel.click("Ask")
    assert "晴，18℃" in panel.text and "北京今天晴。" in panel.text and "# 工具" in model.system
    with pytest.raises(ValueError, match="'fr'"):
        playground({}, [], language="fr")
