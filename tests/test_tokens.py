"""What ms-swift's template makes of training rows, token by token: text, labels and weights."""

import pytest

from helpers import agentfabric, convert, profiles, tokens

SMOKE = profiles.get("smoke")
CALL = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'
RESULT = '<result>{"booking": "HB-7", "price": 80}</result>'


def weighted(row, format, loss_scale=None):
    """The text of each weight, joined: {weight: text}; masked text is under None."""
    found = {None: ""}
    for token in tokens.encode(row, SMOKE, format, loss_scale):
        key = token.weight if token.in_loss else None
        found[key] = found.get(key, "") + token.text
    return found


def chatml(messages):
    turns = [f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


@pytest.mark.parametrize("fixture", ["row", "two_turns", "chinese"])
def test_a_wire_rows_prompt_is_the_request_byte_for_byte(fixture, request):
    row = request.getfixturevalue("row" if fixture == "chinese" else fixture)
    if fixture == "chinese":
        row["messages"][0]["content"] = "请在里斯本订两晚酒店。"
    rows, requests = convert.render_rows([row], "wire"), convert.requests_of(row)
    for training_row, (sent, reply) in zip(rows, requests, strict=True):
        assert ("# 工具" in sent[0]["content"]) == (fixture == "chinese")
        text = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        parts = tokens.encode(training_row, SMOKE, "wire")
        assert "".join(part.text for part in parts if not part.in_loss) == chatml(sent)
        trained = "".join(part.text for part in parts if part.in_loss)
        assert trained.removesuffix("\n") == text + "<|im_end|>"


def test_inference_sees_the_training_tokens(row):
    """The engine's template in inference mode gives the token ids that the training prompt had."""
    training_row = next(convert.render_rows([row], "wire"))
    template = tokens.template_of(SMOKE, "wire")
    trained = template.encode({key: training_row[key] for key in ("messages", "tools")})
    template.set_mode("transformers")
    request = agentfabric.first_request(row["tools"], row["messages"][0]["content"])
    sent = template.encode({"messages": request})["input_ids"]
    assert trained["input_ids"][: len(sent)] == sent
    assert set(trained["labels"][: len(sent)]) == {-100}


def test_a_call_counts_twice_the_observation_not_and_the_answer_once(row):
    wire = weighted(next(convert.render_rows([row], "wire")), "wire")
    assert wire[2.0] == CALL and wire[1.0].strip() == "<|im_end|>"
    trace = weighted(next(convert.render_rows([row], "trace")), "trace")
    assert trace[2.0] == f"{CALL}\nObservation:"
    assert trace[1.0].strip() == "Answer:Booked: HB-7, 80 euros.<|im_end|>"
    assert f" {RESULT}\n" in (trace.get(0.0, ""), trace[None][-len(RESULT) - 2 :])


def test_the_react_scale_leaves_the_answer_out_and_default_trains_the_observation(row):
    trace = next(convert.render_rows([row], "trace"))
    react = weighted(trace, "trace", "react")
    assert "Booked" not in react.get(1.0, "") + react[2.0]
    assert RESULT in weighted(trace, "trace", "default")[1.0]


def test_only_the_last_round_of_a_wire_row_with_history_is_in_the_loss(two_turns):
    *_, thanks = convert.render_rows([two_turns], "wire")
    found = weighted(thanks, "wire")
    assert found[1.0].strip() == "You are welcome.<|im_end|>" and set(found) == {None, 1.0}


def test_rows_of_tools_and_messages_train_in_agentfabrics_format_too(row):
    """Any such data set trains as a trace through the agent template alone."""
    parts = tokens.encode(next(convert.render_rows([row], "hermes")), SMOKE, "trace")
    assert f"{CALL}\nObservation: {RESULT}\nAnswer:Booked" in "".join(part.text for part in parts)


def test_what_is_counted_is_what_is_shown(row):
    rows = list(convert.render_rows([row], "wire"))
    parts = [part for one in rows for part in tokens.encode(one, SMOKE, "wire")]
    in_loss = sum(part.weight > 0 for part in parts)
    counted = tokens.count(rows, SMOKE, "wire")
    assert counted == {"rows": 2, "tokens": len(parts), "in the loss": in_loss}


def test_the_picture_has_a_legend_escapes_text_and_shows_weights():
    weights = {"<b>": None, "x\n": 2.0, "y": 1.0, "z": 0.0}
    parts = [tokens.Token(text, key is not None, key or 0.0) for text, key in weights.items()]
    shown = tokens.coloured(parts)
    assert "&lt;b&gt;" in shown and "<b>" not in shown and 'title="weight 2">x⏎\n</span>' in shown
    for name, style in tokens.STYLES.items():  # once in the legend, once at a token
        assert shown.count(f'style="{style}"') == 2 and f">{name}</span>" in shown
    lines = [style.split("border-bottom:")[-1] for style in tokens.STYLES.values()]
    assert len(set(lines)) == 4, "a second sign beside the colour"
    assert "… 3 tokens before …" in tokens.coloured(parts, tail=1)
