"""A model asked in this process (a tiny random one) and over HTTP (a double of a server)."""

import asyncio
import json
from contextlib import contextmanager

import peft
import pytest
import torch
import transformers
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from helpers import assets, convert, profiles, tokens
from helpers.assets import KitError
from helpers.model import Endpoint, Model
from helpers.record.proxy import serving
from helpers.study.scorers import losses_of

SMOKE = profiles.get("smoke")
HELLO = [{"role": "user", "content": "Hello"}]
MODEL = Model(SMOKE)  # loaded when first asked


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with random weights."""
    base = transformers.AutoModelForCausalLM.from_pretrained(assets.model_dir("smoke"))
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


def test_replies_are_the_adapters_keep_their_order_and_tell_when_they_were_cut(adapter):
    requests = [[{"role": "user", "content": "x" * length}] for length in (5, 300, 40, 120)]
    first, tuned, again = (MODEL.ask(requests, one) for one in (None, adapter, None))
    assert first == again == [MODEL.ask([request])[0] for request in requests] and first != tuned
    assert not any(reply.finished for reply in MODEL.ask(requests, max_new_tokens=1))
    with pytest.raises(KitError, match="no adapter in .*adapter_config.json"):
        MODEL.ask([HELLO], adapter.parent)


def test_losses_are_those_of_the_model_on_the_labels(adapter, row):
    rows = list(convert.render_rows([row], "wire"))
    plain, tuned = losses_of(MODEL, rows), losses_of(MODEL, rows, adapter)
    for one, found, other in zip(rows, plain, tuned, strict=True):
        encoded = tokens.template_of(SMOKE, "wire").encode(one)
        ids, labels = (torch.tensor([encoded[key]]) for key in ("input_ids", "labels"))
        expected = MODEL.engine(None).model(input_ids=ids, labels=labels)
        nats = expected.loss.item() * found["tokens"]
        assert found["tokens"] == int((labels[0, 1:] != -100).sum()) == other["tokens"] > 0
        assert found["nats"] == pytest.approx(nats, rel=1e-4) != other["nats"]
        assert found["right"] == (expected.logits[0, :-1].argmax(-1) == labels[0, 1:]).sum()


@contextmanager
def answering(answer):
    """A server that answers every request with (body, status), or with None: not in time."""
    requests = []

    async def complete(request):
        requests.append(await request.json())
        await asyncio.sleep(0 if answer else 3)
        return Response(*(answer or ("", 200)), media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with serving(app) as url:
        yield requests, Endpoint(f"{url}/v1", {None: "m"}, timeout=1, parallel=2)


def chat(content, reason="stop"):
    return json.dumps({"choices": [{"finish_reason": reason, "message": {"content": content}}]})


def test_a_request_names_everything_that_a_server_could_decide_otherwise():
    with answering((chat("hi", "length"), 200)) as (requests, endpoint):
        (reply,) = endpoint.ask([HELLO], max_new_tokens=7)
        with pytest.raises(KitError, match="serves no adapter elsewhere"):
            endpoint.ask([HELLO], "elsewhere")
    assert reply == "hi" and not reply.finished
    decided = {"temperature": 0, "max_tokens": 7, "stop": ["Observation:", "Observation:\n"]}
    assert requests == [{"model": "m", "messages": HELLO, **decided}]
    with pytest.raises(KitError, match="gave no answer"):  # the server has ended
        endpoint.ask([HELLO])


UNUSABLE = [
    (("<html>a proxy's page</html>", 200), "cannot be read"),
    (('{"choices": []}', 200), "cannot be read"),
    ((chat(["a", "list"]), 200), "cannot be read.*no text"),
    ((chat("half", None), 200), "cannot be read.*no finish_reason"),
    (('{"message": "`m` is not in [\'base\']"}', 400), "refused to ask 'm' .HTTP 400.*base"),
    (None, "gave no answer: timed out \\(limit: 1 s\\)"),
]


@pytest.mark.parametrize(("answer", "message"), UNUSABLE)
def test_an_unusable_answer_is_explained_and_ends_the_batch(answer, message):
    with answering(answer) as (requests, endpoint), pytest.raises(KitError, match=message):
        endpoint.ask([HELLO] * 100)
    assert len(requests) < 50
