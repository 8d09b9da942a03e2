"""What ms-swift's template makes of training rows, token by token: prompt text, labels and loss weights."""

import pytest

from helpers import agentfabric, corpus, profiles, tokens

SMOKE = profiles.get("smoke")


def encoded(row, shape, loss_scale=None):
    return tokens.encode(row, SMOKE, shape, loss_scale)


def weighted(parts):
    """The text that carries each weight, joined: {weight: text}; None collects what is no label."""
    found = {}
    for token in parts:
        key = token.weight if token.graded else None
        found[key] = found.get(key, "") + token.text
    return found


def chatml(messages):
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages) + \
        "<|im_start|>assistant\n"


@pytest.mark.parametrize("fixture", ["row", "two_turns"])
def test_a_wire_rows_prompt_is_the_request_byte_for_byte(fixture, request):
    row = request.getfixturevalue(fixture)
    for training_row, (sent, reply) in zip(corpus.render_rows([row], "wire"), corpus.wire_requests(row)):
        parts = encoded(training_row, "wire")
        text = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        assert "".join(token.text for token in parts if not token.graded) == chatml(sent)
        assert "".join(token.text for token in parts if token.graded).removesuffix("\n") == text + "<|im_end|>"


def test_chinese_rows_too(row):
    row["messages"][0]["content"] = "请在里斯本订两晚酒店。"
    for training_row, (sent, _) in zip(corpus.render_rows([row], "wire"), corpus.wire_requests(row)):
        assert "# 工具" in sent[0]["content"]
        assert "".join(t.text for t in encoded(training_row, "wire") if not t.graded) == chatml(sent)


def test_inference_sees_the_training_tokens(row):
    """The engine's template in inference mode gives the very token ids the training prompt had."""
    training_row = next(corpus.render_rows([row], "wire"))
    template = tokens.template_of(SMOKE, "wire")
    trained = template.encode({key: training_row[key] for key in ("messages", "tools")})
    template.set_mode("transformers")
    sent = template.encode({"messages": agentfabric.first_request(row["tools"], row["messages"][0]["content"])})
    assert trained["input_ids"][:len(sent["input_ids"])] == sent["input_ids"]
    assert all(label == -100 for label in trained["labels"][:len(sent["input_ids"])])


def test_the_answer_in_either_turn_is_all_that_is_graded(row):
    """Behind a call in the user turn stand the tokens of the wire row, behind one in the assistant turn the trace's."""
    placed, answer = corpus.answer_rows(row), row["messages"][-1]["content"]
    *_, wire = corpus.render_rows([row], "wire")
    (trace,) = corpus.render_rows([row], "trace")
    for place, training_row, shape in (("user", wire, "wire"), ("assistant", trace, "trace")):
        parts = encoded(placed[place], "wire")
        assert "".join(token.text for token in parts if token.graded).strip() == answer + "<|im_end|>"
        assert [token.text for token in parts] == [token.text for token in encoded(training_row, shape)]


def test_weights_of_a_call(row):
    parts = weighted(encoded(next(corpus.render_rows([row], "wire")), "wire"))
    assert parts[2.0] == 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'
    assert parts[1.0].strip() == "<|im_end|>"


def test_weights_of_a_trace_observation_out_answer_in(row):
    parts = weighted(encoded(next(corpus.render_rows([row], "trace")), "trace"))
    assert parts[2.0] == 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}\nObservation:'
    assert parts[1.0].strip() == "Answer:Booked: HB-7, 80 euros.<|im_end|>"
    observation = ' <result>{"booking": "HB-7", "price": 80}</result>\n'
    assert (parts.get(0.0, "") + parts[None]).endswith(observation) or observation in parts.get(0.0, "") + parts[None]


def test_the_react_scale_wipes_the_answer_out_and_default_trains_the_observation(row):
    trace = next(corpus.render_rows([row], "trace"))
    react = weighted(encoded(trace, "trace", "react"))
    assert "Booked" not in react.get(1.0, "") + react[2.0]
    default = weighted(encoded(trace, "trace", "default"))
    assert '<result>{"booking": "HB-7", "price": 80}</result>' in default[1.0]


def test_only_the_last_round_of_a_wire_row_with_history_is_graded(two_turns):
    *_, thanks = corpus.render_rows([two_turns], "wire")
    graded = "".join(token.text for token in encoded(thanks, "wire") if token.weight)
    assert graded.strip() == "You are welcome.<|im_end|>"


def test_roles_train_in_agentfabrics_form_too(row):
    """Any tools + messages data set trains in trace form through the agent template alone."""
    canonical = {**next(corpus.render_rows([row], "hermes"))}
    text = "".join(token.text for token in encoded(canonical, "trace"))
    assert 'nights": 2}\nObservation: <result>{"booking": "HB-7", "price": 80}</result>\nAnswer:Booked' in text
    assert weighted(encoded(canonical, "trace"))[1.0].strip() == "Booked: HB-7, 80 euros.<|im_end|>"


def test_the_picture_escapes_text_and_shows_weights():
    shown = tokens.coloured([tokens.Token("<b>", False, 0), tokens.Token("x\n", True, 2.0), tokens.Token("y", True, 0.0)])
    assert "&lt;b&gt;" in shown and "<b>" not in shown and 'title="weight 2"' in shown and "#f4b6b0" in shown
