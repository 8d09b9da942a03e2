"""A model asked in this process (a tiny random one) and over HTTP (a double of a server)."""

import asyncio
import json
from contextlib import contextmanager
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from helpers import agent, agentfabric, assets, convert, profiles, tokens
from helpers.assets import KitError, greedy
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


QUESTIONS = {  # three or four questions to the same tools share the beginning of their prompts
    ("get_weather", "calculator"): [
        "Weather in Paris?",
        "What is 3 + 4?",
        "Thank you!",
        "17 * 23?",
    ],
    ("fire_alert", "call_fireman", "call_police"): [
        "Fire in building 3!",
        "Hello",
        "Thieves here!",
    ],
    ("calculator",): ["How much is 12 / 5?", "(2 + 3) * 4, please", "Who are you?"],
    (): ["What is the capital of France?", "Write a poem about rain."],
}
ASKED = [(agent.schemas(names), text) for names, texts in QUESTIONS.items() for text in texts]
REQUESTS = [agentfabric.first_request(tools, text) for tools, text in ASKED]


@pytest.fixture(scope="module")
def real():
    """The laptop profile's model."""
    return Model(profiles.get("laptop", torch_dtype="float32", batch_size=5))


@pytest.fixture(scope="module")
def thin_qwen3(tmp_path_factory):
    """A random Qwen3, with the tokenizer of the smoke model and a penalty on repetition."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.model_dir("smoke"))
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "head_dim": 32}
    size |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    qwen3 = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**size))
    qwen3.generation_config.repetition_penalty = 1.1
    qwen3.generation_config.eos_token_id = tokenizer.eos_token_id
    qwen3.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    names = {"model": str(folder), "model_type": "qwen3", "template": "qwen3"}
    return Model(replace(SMOKE, batch_size=5, **names))


def by_ms_swift(model, requests, limit):
    """What ms-swift's own engine replies, which `swift deploy` has: (text, finished) pairs."""
    from swift import InferRequest, RequestConfig, TransformersEngine

    loaded = model.engine(None)
    loaded.model.set_attn_implementation("sdpa")
    config = RequestConfig(max_tokens=limit, temperature=0, stop=["Observation:"])
    asked = [InferRequest(messages=request) for request in requests]
    engine = TransformersEngine(loaded.model, template=loaded.template, max_batch_size=7)
    choices = [one.choices[0] for one in engine.infer(asked, config, use_tqdm=False)]
    loaded.model.set_attn_implementation("grouped")
    return [(choice.message.content, choice.finish_reason != "length") for choice in choices]


@pytest.mark.parametrize("name", ["real", "thin_qwen3"])
def test_replies_are_those_of_ms_swifts_engine_also_to_second_requests(name, request):
    model = request.getfixturevalue(name)
    first = model.ask(REQUESTS, max_new_tokens=16)
    second = [
        agentfabric.next_request(one, agentfabric.cut_at_stop(reply), '{"result": 7}')
        for one, reply in zip(REQUESTS[:6], first)
    ]
    kept = len(model.engine(None).writer.kept)
    replies = first + model.ask(second, max_new_tokens=16)
    assert kept == len(model.engine(None).writer.kept) == len(QUESTIONS), "nothing computed anew"
    found = [(str(reply), reply.finished) for reply in replies]
    assert found == by_ms_swift(model, REQUESTS + second, 16)
    assert len(set(replies)) > len(replies) // 2


def test_the_kept_prompts_have_a_limit_and_a_prompt_must_leave_room(monkeypatch):
    requests = [[{"role": "system", "content": x}, *HELLO] for x in "abcde"]
    model = Model(SMOKE)
    replies = model.ask(requests)
    monkeypatch.setattr(greedy, "KEPT", 40)
    assert model.ask([*requests, REQUESTS[0]])[:5] == replies
    assert sum(len(tokens) for tokens, _ in model.engine(None).writer.kept.values()) <= 40
    with pytest.raises(KitError, match="a prompt is too long.*max_length.4096"):
        model.ask([[{"role": "user", "content": "é" * 5000}]])


def test_a_grammar_leaves_text_or_one_call_of_an_offered_tool_that_fits_its_schema(real):
    number = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    odd = {"name": "pick", "parameters": number | {"required": ["n"]}}  # without OpenAI's wrap
    asked = [*ASKED, ([odd], "Pick a number: Action: pick")]
    # the base model calls nothing of itself: an earlier call in the prompt leads it to
    shown = [{"role": "user", "content": "2 + 2?"}]
    shown += [{"role": "assistant", "content": "Action: sum\nAction Input: {'numbers': [2, 2]}"}]
    requests = [agentfabric.first_request(tools, text, history=shown) for tools, text in asked]
    replies = real.ask(requests, max_new_tokens=64, grammar=[tools for tools, _ in asked])
    calls = 0
    for (tools, _), reply in zip(asked, replies):
        schemas = {one["name"]: one["parameters"] for one in map(agentfabric.function_of, tools)}
        if "Action:" in reply and reply.finished:
            (call,) = agentfabric.read_calls(reply)
            assert reply.startswith("Action: ") and call.name in schemas
            arguments = json.loads(call.arguments)
            agent.check_arguments(schemas[call.name], arguments)
            written = agentfabric.cut_at_stop(reply).rstrip("\n")
            assert written == agentfabric.render_call(call.name, arguments)
            calls += 1
    assert 0 < calls < len(replies), "some call, some talk"
    impossible = {"name": "t", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(KitError, match="no grammar for these tools"):
        real.ask([HELLO], grammar=[[impossible]])


def test_a_reply_that_fits_the_grammar_is_not_written_twice(real, monkeypatch):
    tools = [tools for tools, _ in ASKED]
    requests = [agentfabric.first_request(*one) for one in ASKED]
    # with a call in front of it, a prompt leads the base model to a call that fits no schema
    shown = [{"role": "user", "content": "2 + 2?"}]
    shown += [{"role": "assistant", "content": "Action: sum\nAction Input: {'numbers': [2, 2]}"}]
    requests += [agentfabric.first_request(*one, history=shown) for one in ASKED]
    engine = real.engine(None)
    engine.free.clear()
    held = real.ask(requests, max_new_tokens=24, grammar=tools * 2)
    assert not engine.free
    free, written = real.ask(requests, max_new_tokens=24), []
    write = engine.writer.write
    monkeypatch.setattr(
        engine.writer, "write", lambda asked, limit: written.extend(asked) or write(asked, limit)
    )
    again = real.ask(requests, max_new_tokens=24, grammar=tools * 2)
    assert again == held and [one.finished for one in again] == [one.finished for one in held]
    assert 0 < len(written) < len(requests)
    assert len(written) >= sum(one != other for one, other in zip(held, free))


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
        with pytest.raises(KitError, match="cannot hold replies to a grammar"):
            endpoint.ask([HELLO], grammar=[[]])
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
