"""A model asked in this process (a tiny random one) and over HTTP (a double of a server)."""

import asyncio
from contextlib import contextmanager

import pytest
import torch
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helpers import assets, convert, profiles, tokens
from helpers.assets import KitError
from helpers.model import Endpoint, Model
from helpers.record.proxy import serving

SMOKE = profiles.get("smoke")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model():
    return Model(SMOKE)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with random weights."""
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(assets.model_dir("smoke"))
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


def test_an_adapter_changes_the_replies_and_not_the_base_model(model, adapter, tmp_path):
    first, tuned, again = model.ask([HELLO]), model.ask([HELLO], adapter), model.ask([HELLO])
    assert first == again != tuned
    with pytest.raises(KitError, match="no adapter in .*adapter_config.json"):
        model.ask([HELLO], tmp_path)


def test_replies_keep_their_order_and_tell_when_they_were_cut(model):
    requests = [[{"role": "user", "content": "x" * length}] for length in (5, 300, 40, 120)]
    assert model.ask(requests) == [model.ask([request])[0] for request in requests]
    assert not any(reply.finished for reply in model.ask(requests, max_new_tokens=1))


def test_losses_are_those_of_the_model_on_the_labels(model, adapter, row):
    rows = list(convert.render_rows([row], "wire"))
    plain, tuned = model.losses(rows), model.losses(rows, adapter)
    bare = model.engine(None).model
    for one, found, other in zip(rows, plain, tuned, strict=True):
        encoded = tokens.template_of(SMOKE, "wire").encode(one)
        ids, labels = (torch.tensor([encoded[key]]) for key in ("input_ids", "labels"))
        with torch.inference_mode():
            loss = bare(input_ids=ids, labels=labels).loss.item()
        assert found["tokens"] == int((labels[0, 1:] != -100).sum()) == other["tokens"] > 0
        assert found["nats"] == pytest.approx(loss * found["tokens"], rel=1e-4) != other["nats"]
        assert 0 <= found["right"] <= found["tokens"]


@contextmanager
def answering(answer):
    """A server that answers every request with (status, body), or with None: not in time."""
    requests = []

    async def complete(request):
        requests.append(await request.json())
        await asyncio.sleep(0 if answer else 3)
        status, body = answer or (200, b"")
        return (Response if isinstance(body, bytes) else JSONResponse)(body, status)

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with serving(app) as url:
        yield requests, Endpoint(f"{url}/v1", {None: "m"}, timeout=1, parallel=2)


def chat(content, reason="stop"):
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": reason, "message": message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def test_a_request_names_everything_that_a_server_could_decide_otherwise():
    with answering((200, chat("hi", "length"))) as (requests, endpoint):
        (reply,) = endpoint.ask([HELLO], max_new_tokens=7)
    assert reply == "hi" and not reply.finished
    decided = {"temperature": 0, "max_tokens": 7, "stop": ["Observation:", "Observation:\n"]}
    assert requests == [{"model": "m", "messages": HELLO, **decided}]


UNUSABLE = [
    ((200, b"<html>a proxy's page</html>"), "cannot be read"),
    ((200, {"choices": []}), "cannot be read"),
    ((200, chat(["a", "list"])), "cannot be read.*no text"),
    ((200, chat("half", None)), "cannot be read.*no finish_reason"),
    ((400, {"message": "`m` is not in ['base']"}), "refused to ask 'm' .HTTP 400.*base"),
    ((500, b"Internal Server Error"), "refused.*HTTP 500"),
    (None, "gave no answer within 1 s"),
]


@pytest.mark.parametrize(("answer", "message"), UNUSABLE)
def test_an_unusable_answer_is_explained_and_ends_the_batch(answer, message):
    with answering(answer) as (requests, endpoint), pytest.raises(KitError, match=message):
        endpoint.ask([HELLO] * 100)
    assert len(requests) < 50


def test_no_server_at_all_and_no_such_adapter():
    endpoint = Endpoint("http://127.0.0.1:9/v1", {None: "m"})
    with pytest.raises(KitError, match="gave no answer.*See the end of its log"):
        endpoint.ask([HELLO])
    with pytest.raises(KitError, match="serves no adapter elsewhere"):
        endpoint.ask([HELLO], "elsewhere")
