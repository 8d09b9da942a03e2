"""Packs: rows with the same prompt as one sequence, exactly the training of the separate rows."""

import pytest
import torch
from conftest import tool
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from helpers import assets, convert, profiles, tokens
from helpers.agentfabric import call_message
from helpers.assets.attention import visible

LAPTOP = profiles.get("laptop", torch_dtype="float32")
CALL = call_message("book_hotel", {"city": "Lisbon", "nights": 2})
TURNS = [  # three dialogues over one tool list: a call and its answer, no call, two turns
    ["Book Lisbon", CALL, '{"id": "HB-7"}', "Booked: HB-7."],
    ["Thank you!", "You are welcome."],
    ["Hello", "Hello! What can I do?", "Lisbon, 2 nights", CALL, '{"id": "Q"}', "It is Q."],
]


def rows(instruction=None):
    for number, texts in enumerate(TURNS):
        messages, role = [], "user"
        for text in texts:
            if isinstance(text, dict):
                messages.append(text)
                role = "tool_response"
                continue
            messages.append({"role": role, "content": text})
            role = "user" if role == "assistant" else "assistant"
        more = {"instruction": instruction} if instruction else {}
        yield {"id": str(number), "tools": [tool()], "messages": messages, **more}


def loss_and_gradient(model, template, batch):
    encoded = [template.encode({key: row[key] for key in ("messages", "tools")}) for row in batch]
    inputs = template.data_collator(encoded)
    labels, weights = inputs.pop("labels"), inputs.pop("loss_scale", None)
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    each = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none")
    each = each if weights is None else each * weights[:, 1:].flatten()
    loss = each.sum() / (labels != -100).sum()  # as ms-swift's trainer
    model.zero_grad()
    loss.backward()
    return loss.item(), torch.cat([one.grad.flatten() for one in model.parameters()])


def smollm2():
    folder = assets.model_dir("smollm2")
    own = {"attn_implementation": "shared_prefix"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **own)


def thin_qwen3():  # a double: random weights, SmolLM2's vocabulary
    size = len(AutoTokenizer.from_pretrained(assets.model_dir("smollm2")))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": size}
    torch.manual_seed(0)
    own = {"attn_implementation": "shared_prefix"}
    return AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=torch.float32, **own)


@pytest.mark.parametrize(
    "make, format, instruction",
    [(smollm2, "wire", None), (thin_qwen3, "trace", "Be brief."), (thin_qwen3, "hermes", None)],
)
def test_a_pack_is_exactly_the_training_of_its_rows(make, format, instruction):
    model, template = make(), tokens.template_of(LAPTOP, format)
    separate = list(convert.render_rows(rows(instruction), format))
    (pack,) = convert.packed(separate, 10_000)
    assert len(separate) == len(convert.split_pack(pack["messages"])) > 2
    loss, gradient = loss_and_gradient(model, template, separate)
    packed_loss, packed_gradient = loss_and_gradient(model, template, [pack])
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert (packed_gradient - gradient).norm() < 1e-5 * gradient.norm()
    both = loss_and_gradient(model, template, [pack, separate[0]])  # a plain row beside a pack
    apart = loss_and_gradient(model, template, [*separate, separate[0]])
    assert both[0] == pytest.approx(apart[0], abs=1e-5)
    assert (both[1] - apart[1]).norm() < 1e-5 * apart[1].norm()


def test_a_branch_cannot_see_its_sibling():
    model, template = smollm2(), tokens.template_of(LAPTOP, "wire")
    (pack,) = convert.packed(list(convert.render_rows(rows(), "wire")), 10_000)
    inputs = template.data_collator([template.encode(pack)])
    branches = torch.tensor(template.encode(pack)["branches"])
    asked = {key: inputs[key] for key in ("attention_mask", "position_ids", "starts")}
    with torch.no_grad():
        before = model(inputs["input_ids"], **asked).logits[0]
        other = torch.where(branches == 1, 7, inputs["input_ids"][0])  # another first branch
        after = model(other[None], **asked).logits[0]
    same = (before == after).all(-1)
    assert same[branches != 1].all() and not same[branches == 1].any()


def test_the_mask_shows_the_prefix_and_the_own_branch_only():
    assert visible([0, 0, 1, 2, 2], 6).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],  # padding, which no label follows
    ]


def test_packs_keep_every_row_and_end_where_the_prompt_changes_or_room_ends():
    one, two = (
        list(convert.render_rows(rows(), "wire")),
        list(convert.render_rows(rows("x"), "wire")),
    )
    for chars, sizes in ((10_000, [6, 6]), (0, [1] * 12)):
        packs = list(convert.packed(one + two, chars))
        split = [convert.split_pack(pack["messages"]) for pack in packs]
        assert [len(dialogues) for dialogues in split] == sizes
        assert sum(split, []) == [row["messages"] for row in one + two]
