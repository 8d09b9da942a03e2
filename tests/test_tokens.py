"""What ms-swift's template makes of training rows, token by token: text, labels and weights."""

from helpers import agentfabric, convert, profiles, tokens

SMOKE = profiles.get("smoke")
CALL = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'
RESULT = '<result>{"booking": "HB-7", "price": 80}</result>'


def weighted(row, format, loss_scale=None):
    """The text of each weight, joined: {weight: text}; masked text is under None."""
    found = {}
    for token in tokens.encode(row, SMOKE, format, loss_scale):
        key = token.weight if token.in_loss else None
        found[key] = found.get(key, "") + token.text
    return found


def test_a_wire_rows_prompt_is_the_request_byte_for_byte_and_id_for_id(row, two_turns):
    query = {"role": "user", "content": "请在里斯本订两晚酒店。"}
    canonical = [row, two_turns, {**row, "messages": [query, *row["messages"][1:]]}]
    rows = list(convert.render_rows(canonical, "wire"))
    requests = [pair for one in canonical for pair in convert.requests_of(one)]
    training, inference = (tokens.template_of(SMOKE, "wire") for _ in range(2))
    inference.set_mode("transformers")  # as the engine asks
    sizes = {"rows": len(rows), "tokens": 0, "in the loss": 0}
    for training_row, (sent, reply) in zip(rows, requests, strict=True):
        text = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        parts = tokens.encode(training_row, SMOKE, "wire")
        asked = [f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in sent]
        masked = "".join(part.text for part in parts if not part.in_loss)
        assert masked == "".join(asked) + "<|im_start|>assistant\n"
        trained = "".join(part.text for part in parts if part.in_loss)
        assert trained.removesuffix("\n") == text + "<|im_end|>"
        encoded = training.encode({key: training_row[key] for key in ("messages", "tools")})
        prompt = inference.encode({"messages": sent})["input_ids"]
        assert encoded["input_ids"][: len(prompt)] == prompt
        sizes["tokens"] += len(encoded["input_ids"])
        sizes["in the loss"] += sum(label != -100 for label in encoded["labels"])
    assert tokens.count(rows, SMOKE, "wire") == sizes


def test_a_call_counts_twice_the_observation_not_and_the_answer_once(row):
    wire = weighted(next(convert.render_rows([row], "wire")), "wire")
    assert wire[2.0] == CALL and wire[1.0].strip() == "<|im_end|>"
    trace = next(convert.render_rows([row], "trace"))
    ours, react = weighted(trace, "trace"), weighted(trace, "trace", "react")
    assert ours[2.0] == f"{CALL}\nObservation:" and ours.keys() <= {None, 0.0, 1.0, 2.0}
    assert ours[1.0].strip() == "Answer:Booked: HB-7, 80 euros.<|im_end|>"
    assert "Booked" not in react.get(1.0, "") + react[2.0], "ms-swift's own scale leaves it out"
    assert RESULT in weighted(trace, "trace", "default")[1.0]
    # any data set of tools and messages trains as a trace through the agent template alone
    hermes = next(convert.render_rows([row], "hermes"))
    text = "".join(part.text for part in tokens.encode(hermes, SMOKE, "trace"))
    assert f"{CALL}\nObservation: {RESULT}\nAnswer:Booked" in text


def test_the_picture_has_a_legend_escapes_text_and_shows_weights():
    weights = {"<b>": None, "x\n": 2.0, "y": 1.0, "z": 0.0}
    parts = [tokens.Token(text, key is not None, key or 0.0) for text, key in weights.items()]
    shown = tokens.coloured(parts)
    assert "&lt;b&gt;" in shown and "<b>" not in shown and 'title="weight 2">x⏎\n</span>' in shown
    for name, style in tokens.STYLES.items():  # once in the legend, once at a token
        assert shown.count(f'style="{style}"') == 2 and f">{name}</span>" in shown
    assert "… 3 tokens before …" in tokens.coloured(parts, tail=1)
