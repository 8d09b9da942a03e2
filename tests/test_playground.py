"""The panel driven in-process: its widgets are found, set and clicked. Models are scripted doubles."""

from html.parser import HTMLParser

import ipywidgets as widgets
import pytest

from helpers.agent import Step, run
from helpers.agentfabric import Call
from helpers.playground import PLAY, playground, step_html, transcript_html
from helpers.tools import execute, schemas
from helpers.transcripts import compare_html, notes, why_unreadable

WEATHER = 'Action: get_weather\nAction Input: {"city": "Paris"}'
ALERT = 'Action: fire_alert\nAction Input: {"location": "Building 3"}'


class ScriptedModel:
    """A double for a model: gives its replies in turn (raises an exception) and keeps the requests it got."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    def __call__(self, messages: list[dict]) -> str:
        self.requests.append(messages)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


class Panel:
    """A handle on a playground: its widgets by kind and label, in the order in which they stand."""

    def __init__(self, models: dict, *arguments, **options):
        self.root = playground(models, *arguments, **options)

    def all(self, kind: type, label: str = "") -> list:
        found, queue = [], [self.root]
        while queue:
            widget = queue.pop(0)
            queue = [*getattr(widget, "children", ()), *queue]
            if type(widget) is kind and label in getattr(widget, "description", ""):
                found.append(widget)
        return found

    def click(self, label: str, column: int = 0) -> None:
        self.all(widgets.Button, label)[column].click()

    def ask(self, query: str | None = None) -> None:
        if query is not None:
            self.all(widgets.Textarea, "Question")[0].value = query
        self.click("Ask")

    def play(self) -> None:
        self.all(widgets.RadioButtons)[0].value = PLAY

    def observation(self, column: int = 0) -> widgets.Textarea | None:
        box = self.all(widgets.Textarea, "Observation (you are the tool):")[column]
        return None if box.layout.display == "none" else box

    @property
    def busy(self) -> bool:
        return self.all(widgets.Button, "Ask")[0].disabled

    @property
    def text(self) -> str:
        return text_of("".join(widget.value for widget in self.all(widgets.HTML)))


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def parsed(html: str) -> _Text:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return parser


def text_of(html: str) -> str:
    return "\n".join(parsed(html).words)


def call_of(reply: str, name: str, arguments: str, result: str | None = None) -> Step:
    return Step("call", reply, call=Call(name, arguments), result=result)


# --- Drawing ---

def test_a_call_shows_labelled_blocks_in_order():
    words = parsed(step_html(call_of(WEATHER, "get_weather", '{"city": "Paris"}', "fog"))).words
    assert words == ["Action", "get_weather", "Action Input", '{"city": "Paris"}', "Observation", "fog",
                     "Raw reply", WEATHER]


def test_a_call_that_waits_has_no_observation_and_a_request_shows_nothing():
    assert "Observation" not in step_html(call_of(WEATHER, "get_weather", "{}"))
    assert step_html(Step("request", messages=({"role": "user", "content": "x"},))) == ""


EVIL = '<script>alert(1)</script><img src="http://x.invalid/a.png" onerror=alert(1)>&amp;</pre></details>'


@pytest.mark.parametrize("step", [
    Step("answer", EVIL), Step("error", EVIL), call_of(EVIL, EVIL, EVIL, EVIL),
    Step("answer", "Action:" + EVIL)])
def test_what_a_model_wrote_is_text_never_markup(step):
    html = transcript_html([step], schemas(["get_weather"]))
    assert {tag for tag, _ in parsed(html).tags} <= {"div", "pre", "details", "summary"}
    assert all(set(attributes) <= {"style"} for _, attributes in parsed(html).tags)
    assert EVIL in text_of(html)


def test_a_chinese_transcript():
    assert "北京今天晴。" in transcript_html([Step("answer", "北京今天晴。")])


@pytest.mark.parametrize("reply, reason", [
    ("Action:get_weather\nAction Input: {}", "no space after the colon"),
    ("Action: get_weather\nAction Input:{}", "no space after the colon"),
    ("Action：get_weather\nAction Input：{}", "full-width colon"),
    ("Action: get_weather\n\nAction Input: {}", "empty line"),
    ("Action: get_weather", "is missing"),
    ("My Action would be to look it up", "not the two lines"),
])
def test_an_unreadable_call_is_named_with_its_likely_reason(reply, reason):
    assert reason in why_unreadable(reply)
    assert notes(Step("answer", reply)) == [
        f"Unreadable call: {why_unreadable(reply)}. The runtime takes it as the final answer."]


def test_notes_on_a_call_that_cannot_run():
    tools = schemas(["get_weather"])
    assert notes(call_of("", "nope", "{}"), tools) == ["Unknown tool: 'nope' is not one of [get_weather]."]
    assert notes(call_of("", "nope", "{}")) == []  # without the tools nothing is known to be unknown
    assert notes(call_of("", "get_weather", "{'city': True}"), tools) == [
        'Malformed JSON in Action Input: <string>:1 Unexpected "T" at column 10']
    assert notes(call_of("", "get_weather", '{"city": "Paris", "zoom": 1}'), tools) == [
        "Ignored: 'zoom', which get_weather does not have."]
    assert notes(call_of("", "get_weather", "[1]"), tools) == []
    assert notes(call_of(f"{WEATHER}\n{ALERT}", "get_weather", "{}"), tools) == [
        "The reply has 2 calls; the runtime runs only the first."]
    assert notes(call_of(WEATHER, "get_weather", '{"city": "Paris"}'), tools) == []


def test_an_answer_is_noted_only_where_no_tool_was_called():
    assert "No tool call" in transcript_html([Step("answer", "I am a model.")])
    after = [call_of(WEATHER, "get_weather", "{}", "fog"), Step("answer", "There is fog.")]
    assert "Note" not in transcript_html(after)


def test_an_empty_reply_says_so():
    assert notes(Step("answer", " \n")) == ["Empty reply: the runtime takes it as the final answer."]
    assert parsed(step_html(Step("answer", " \n"))).words[:2] == ["Answer", "(nothing)"]


def test_transcripts_stand_side_by_side_under_escaped_labels():
    words = parsed(compare_html({"<base>": [Step("answer", "no")], "tuned": [Step("answer", "yes")]})).words
    assert [word for word in words if word in ("<base>", "tuned", "no", "yes")] == \
        ["<base>", "no", "no", "tuned", "yes", "yes"]  # each answer once more as raw reply


def test_giving_up_is_shown():
    endless = ScriptedModel(*[WEATHER] * 10)
    steps = run(schemas(["get_weather"]), "weather?", endless, execute)
    assert text_of(transcript_html(steps)).endswith("Gave up\nNo answer when the turn limit was reached.")


# --- The panel ---

def test_two_models_answer_side_by_side_with_the_local_tools():
    tuned, base = ScriptedModel(WEATHER, "Light rain."), ScriptedModel("I cannot know.")
    panel = Panel({"base": base, "tuned": tuned}, query="Weather in Paris?")
    panel.ask()
    assert "light rain, 14 °C" in panel.text and "Light rain." in panel.text and "No tool call" in panel.text
    assert panel.text.index("base") < panel.text.index("I cannot know") < panel.text.index("tuned")
    assert not panel.busy and len(base.requests) == 1 and len(tuned.requests) == 2
    result = '{"city": "Paris", "weather": "light rain, 14 °C"}'
    fed_back = f"{WEATHER}\nObservation: <result>{result}</result>\nAnswer:"
    assert tuned.requests[1][-1]["content"].endswith(fed_back)


def test_only_ticked_tools_are_offered_and_run():
    model = ScriptedModel(ALERT, "done")
    panel = Panel({"m": model}, schemas(["get_weather", "fire_alert"]))
    panel.all(widgets.Checkbox, "fire_alert")[0].value = False
    panel.ask()
    assert "[get_weather]" in model.requests[0][-1]["content"]
    assert "Unknown tool: 'fire_alert'" in panel.text and "Details: 'fire_alert'" in panel.text


def test_every_input_has_a_label_and_every_tool_its_description():
    panel = Panel({"m": ScriptedModel()}, schemas(["get_weather"]))
    inputs = [w for kind in (widgets.Textarea, widgets.Checkbox, widgets.RadioButtons, widgets.Button)
              for w in panel.all(kind)]
    assert len(inputs) == 8 and all(widget.description for widget in inputs)
    assert panel.all(widgets.Checkbox)[0].description == "get_weather: Get today's weather in a city."


def test_the_instruction_reaches_the_model_and_an_empty_one_is_the_default():
    model = ScriptedModel("a", "b")
    panel = Panel({"m": model})
    panel.ask("hello")
    panel.all(widgets.Textarea, "Instruction")[0].value = "You guard a warehouse."
    panel.ask("hello")
    first, second = (request[0]["content"] for request in model.requests)
    assert "You are a helpful assistant." in first and "You guard a warehouse." in second


def test_i_play_the_tool():
    model = ScriptedModel(ALERT, WEATHER, "Everybody is out, and it rains.")
    panel = Panel({"m": model}, schemas(["get_weather", "fire_alert"]))
    panel.play()
    panel.ask("Fire in building 3!")
    assert panel.busy and "waiting for your observation" in panel.text and len(model.requests) == 1
    assert panel.observation().value == '{"location": "Building 3", "status": "the alarm is sounding"}'
    panel.observation().value = "the bell is broken <b>"
    panel.click("Send")
    assert "<result>the bell is broken <b></result>" in model.requests[1][-1]["content"]
    assert "the bell is broken <b>" in panel.text and "light rain" in panel.observation().value
    panel.click("Send")
    assert "it rains" in panel.text and panel.observation() is None and not panel.busy
    shown = panel.text
    panel.click("Send")  # nothing waits any more: nothing happens
    assert len(model.requests) == 3 and panel.text == shown


def test_two_models_wait_for_their_own_observation():
    one, two = ScriptedModel(WEATHER, "one done"), ScriptedModel(WEATHER, "two done")
    panel = Panel({"one": one, "two": two})
    panel.play()
    panel.ask()
    panel.observation(1).value = "only for two"
    panel.click("Send", 1)
    assert "two done" in panel.text and "one done" not in panel.text and panel.busy
    assert len(one.requests) == 1 and panel.observation(0) and panel.observation(1) is None
    panel.click("Send", 0)
    assert "one done" in panel.text and not panel.busy


def test_a_tool_without_local_function_is_always_played():
    own = {"name": "open_gate", "parameters": {"type": "object", "properties": {}}}
    model = ScriptedModel("Action: open_gate\nAction Input: {}", "It is open.")
    panel = Panel({"m": model}, [own])
    panel.ask("Let me in")
    assert panel.observation().value == ""
    panel.observation().value = "creak"
    panel.click("Send")
    assert "creak" in panel.text and "It is open." in panel.text and "Unknown tool" not in panel.text


def test_reset_drops_a_visit_that_waits_and_a_new_one_starts_afresh():
    model = ScriptedModel(WEATHER, "second visit")
    panel = Panel({"m": model})
    panel.play()
    panel.ask("first")
    panel.click("reset")
    assert not panel.busy and panel.observation() is None and "get_weather" not in panel.text
    panel.ask("second")
    assert "second visit" in panel.text and "first" not in model.requests[1][-1]["content"]


@pytest.mark.parametrize("failure, shown", [
    (RuntimeError("no server at <port>"), "RuntimeError: no server at <port>"), (None, "AttributeError"),
    (5, "AttributeError")])
def test_a_model_that_fails_is_shown_and_the_others_go_on(failure, shown):
    panel = Panel({"broken": ScriptedModel(failure), "sound": ScriptedModel("I am fine.", "Again.")})
    panel.ask()
    assert shown in panel.text and "I am fine." in panel.text and not panel.busy
    assert "thinking" not in panel.text


def test_a_failure_after_an_observation_ends_only_that_visit():
    panel = Panel({"m": ScriptedModel(WEATHER, RuntimeError("out of memory"))})
    panel.play()
    panel.ask()
    panel.click("Send")
    assert "light rain" in panel.text and "out of memory" in panel.text
    assert not panel.busy and panel.observation() is None


def test_an_interrupt_stops_all_and_leaves_the_panel_usable():
    second = ScriptedModel("hello")
    panel = Panel({"slow": ScriptedModel(KeyboardInterrupt(), "fine"), "second": second})
    panel.ask()
    assert "Stopped" in panel.text and second.requests == [] and not panel.busy
    panel.ask()
    assert "fine" in panel.text and "hello" in panel.text and "Stopped" not in panel.text


def test_ask_shows_thinking_and_is_disabled_while_a_model_works():
    seen = []

    def watches(messages: list[dict]) -> str:
        """A double that looks at the panel, and clicks Ask again, while it is being asked."""
        seen.append((panel.busy, panel.text))
        panel.click("Ask")
        return WEATHER if len(seen) == 1 else "done"
    panel = Panel({"m": watches})
    panel.ask()
    assert len(seen) == 2 and all(busy and "thinking…" in text for busy, text in seen)
    assert "get_weather" not in seen[0][1] and "light rain" in seen[1][1]  # steps appear as they happen


def test_an_empty_question_is_asked_of_nobody():
    model = ScriptedModel()
    panel = Panel({"m": model})
    panel.ask("  ")
    assert "Type a question first." in panel.text and model.requests == [] and not panel.busy


def test_a_chinese_panel():
    model = ScriptedModel('Action: get_weather\nAction Input: {"city": "北京"}', "北京今天晴。")
    panel = Panel({"中文": model}, language="zh")
    panel.ask()
    assert panel.all(widgets.Checkbox, "get_weather")[0].description == "get_weather: 查询城市今天的天气。"
    assert "晴，18℃" in panel.text and "北京今天晴。" in panel.text
    assert "# 工具" in model.requests[0][0]["content"]


def test_another_language_is_refused():
    with pytest.raises(ValueError, match="'fr'; choose one of en, zh"):
        playground({}, [], language="fr")


def test_labels_of_models_are_escaped():
    assert "<script>" in Panel({"<script>": ScriptedModel()}).text
