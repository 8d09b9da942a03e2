"""The panel driven in this process: its widgets are found, set and clicked. Models are scripted."""

import re
from html import unescape

import ipywidgets as widgets
import pytest

from helpers.agent import Step, schemas
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

    def __call__(self, messages, held=None):
        self.requests.append(messages[-1]["content"])
        self.held = held
        self.system, reply = messages[0]["content"], self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


class Panel:
    """A playground, and its widgets by kind and label, in the order in which they stand."""

    def __init__(self, *arguments, **options):
        self.widgets = [playground(*arguments, **options)]
        for one in self.widgets:  # grows while it is read
            self.widgets.extend(getattr(one, "children", ()))

    def all(self, kind, label=""):
        return [one for one in self.widgets if type(one) is kind and label in one.description]

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


def test_what_a_model_wrote_is_text_never_markup():
    steps = [Step("answer", EVIL), Step("error", EVIL), Step("answer", "Action:" + EVIL)]
    for step in [*steps, Step("call", EVIL, call=Call(EVIL, EVIL), result=EVIL)]:
        html = compare_html({EVIL: [step]}, schemas(["get_weather"]))
        assert "<" not in re.sub(TAG, "", html) and EVIL in "\n".join(words(html))
    blocks = ["Action", "get_weather", "Action Input", '{"city": "Paris"}', "Observation", "fog"]
    call = Step("call", WEATHER, call=read_calls(WEATHER)[0], result="fog")
    assert words(step_html(call)) == [*blocks, "Raw reply", WEATHER]


NOTES = {  # a reply → what its note says
    "Action:get_weather\nAction Input: {}": "no space after the colon",
    "Action：get_weather\nAction Input：{}": "full-width colon",
    "Action: get_weather\n\nAction Input: {}": "empty line",
    "Action: get_weather": "is missing",
    "My Action would be to look it up": "Unreadable call: it is not the two lines",
    " \n": "Empty reply",
    "Action: get_weather\nAction Input: {'city': True}": "Malformed JSON in Action Input: <string>",
    WEATHER.replace("}", ', "zoom": 1}'): "Ignored: 'zoom', which get_weather does not have.",
    f"{WEATHER}\n{ALERT}": "The reply has 2 calls; the runtime runs only the first.",
    WEATHER: None,
}


@pytest.mark.parametrize("reply, text", NOTES.items())
def test_notes_say_what_a_reader_may_overlook(reply, text):
    call = next(iter(read_calls(reply)), None)
    step, tools = Step("call" if call else "answer", reply, call=call), schemas(["get_weather"])
    found = notes(step, tools)
    assert len(found) == (text is not None) and (text or "") in "".join(found)
    assert set(found) <= set(words(transcript_html([step], tools)))


def test_two_models_answer_side_by_side_with_the_ticked_tools():
    tuned, base = ScriptedModel(WEATHER, "Light rain.", ALERT, "ok"), ScriptedModel("No idea.", "")
    panel = Panel({"<base>": base, "tuned": tuned})
    panel.ask()
    assert "No tool call" in panel.text and not panel.busy
    order = ("<base>", "No idea.", "tuned", "light rain, 14 °C", "Light rain.")
    assert sorted(order, key=panel.text.index) == list(order)
    result = '<result>{"city": "Paris", "weather": "light rain, 14 °C"}</result>'
    assert tuned.requests[1].endswith(f"{WEATHER}\nObservation: {result}\nAnswer:")
    panel.all(widgets.Checkbox, "fire_alert: Sound the fire alarm of a building.")[0].value = False
    panel.all(widgets.Textarea, "Instruction")[0].value = "You guard a warehouse."
    panel.ask()
    assert "You guard a warehouse." in base.system and "fire_alert" not in base.requests[1]
    assert "Unknown tool: 'fire_alert'" in panel.text and "Details: 'fire_alert'" in panel.text


def test_i_play_the_tool_of_each_model_and_a_reset_drops_all():
    one, two = ScriptedModel(ALERT, WEATHER, "It rains.", WEATHER), ScriptedModel(WEATHER, WEATHER)
    panel = Panel({"one": one, "two": two}, schemas(["get_weather", "fire_alert"]))
    panel.ask("Fire in building 3!", play=True)
    assert panel.busy and "waiting for your observation" in panel.text
    assert "the alarm is sounding" in panel.observation().value and len(one.requests) == 1
    panel.observation().value = "the bell is broken <b>"
    panel.click("Send")
    assert "<result>the bell is broken <b></result>" in one.requests[1]
    assert "the bell is broken <b>" in panel.text and "light rain" in panel.observation().value
    panel.click("Send")
    assert "It rains." in panel.text and panel.observation() is None
    panel.click("Send")  # nothing waits any more: nothing happens
    assert len(one.requests) == 3 and panel.busy and panel.observation(1)
    panel.click("reset")
    assert not panel.busy and panel.observation(1) is None and "get_weather" not in panel.text


def test_a_tool_without_local_function_is_always_played():
    own = {"name": "open_gate", "parameters": {"type": "object", "properties": {}}}
    panel = Panel({"m": ScriptedModel("Action: open_gate\nAction Input: {}", "It is open.")}, [own])
    panel.ask("Let me in")
    assert panel.observation().value == ""
    panel.click("Send")
    assert "It is open." in panel.text


def test_a_failure_or_an_interrupt_leaves_the_panel_usable():
    failing = ScriptedModel(RuntimeError("no <port>"), KeyboardInterrupt(), "fine")
    sound = ScriptedModel("I am well.", "hello")
    panel = Panel({"failing": failing, "odd": ScriptedModel(5, "a"), "sound": sound})
    panel.ask()
    shown = ("RuntimeError: no <port>", "AttributeError", "I am well.")
    assert all(text in panel.text for text in shown) and "thinking" not in panel.text
    panel.ask()
    assert "Stopped" in panel.text and len(sound.requests) == 1 and not panel.busy
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
    assert "Type a question first." in panel.text and seen == []
    panel.ask()
    assert [(busy, "thinking…" in text) for busy, text in seen] == [(True, True)] * 2
    assert "light rain" in seen[1][1]


def test_replies_are_held_to_the_offered_tools_where_that_is_ticked():
    model, tools = ScriptedModel("Sunny.", "Sunny."), schemas(["get_weather"])
    panel = Panel({"one": model}, tools, grammar=True)
    (box,) = panel.all(widgets.Checkbox, "grammar")
    for ticked, held in ((False, None), (True, tools)):
        box.value = ticked
        panel.ask()
        assert model.held == held
    (box,) = Panel({"one": model}, tools).all(widgets.Checkbox, "grammar")
    assert box.layout.display == "none", "a model may take messages only"


def test_a_chinese_panel_and_no_other_language():
    model = ScriptedModel("北京今天晴。")
    Panel({"中文": model}, language="zh").click("Ask")
    assert "get_weather API。查询城市今天的天气。" in model.system
    with pytest.raises(ValueError, match="'fr'"):
        playground({}, [], language="fr")
