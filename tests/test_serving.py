"""Merge, serve, ask over HTTP: the real `swift deploy`, a tiny model; broken servers are doubles.

vLLM takes minutes to start and has an environment of its own: only its command line is tested.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import gone

from helpers import agent, assets, convert, data, profiles, serving, train
from helpers.agentfabric import first_request
from helpers.assets import KitError
from helpers.model import Endpoint, Model
from helpers.serving import engines, server

# Two rows, the call and the answer of one dialogue, learned by heart: a real episode.
SMOKE = profiles.get("smoke")
RECIPE = {"num_train_epochs": 100, "learning_rate": 1e-2, "save_steps": 1000, "eval_steps": 1000}
BY_HEART = replace(SMOKE, train_rows=2, max_new_tokens=64, recipe={**SMOKE.recipe, **RECIPE})
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
HELLO = [SYSTEM, {"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def run():
    return train.finetune(BY_HEART, name="test-serving")


@pytest.fixture(scope="module")
def checkpoint(run):
    return run.checkpoints[-1].path


@pytest.fixture(scope="module")
def served(checkpoint):
    adapters = {"tuned": checkpoint}
    with serving.deploy(BY_HEART, adapters, port=0, agent_template="agentfabric") as one:
        yield one


@pytest.fixture(scope="module")
def over_http(served):
    return Endpoint(served.url, served.names, max_new_tokens=BY_HEART.max_new_tokens)


@pytest.fixture(scope="module")
def in_process():
    return Model(BY_HEART)


@pytest.fixture(scope="module")
def dialogue(run):
    """The canonical dialogue that the model has learned by heart."""
    (name,) = {row["id"] for row in assets.read_jsonl(run.path / "data" / "train.jsonl")}
    return next(row for row in data.load("authored")[0] if row["id"] == name)


@pytest.fixture(scope="module")
def asked(dialogue):
    return [HELLO, first_request(dialogue["tools"], dialogue["messages"][0]["content"])]


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the checkpoint, to be spoiled."""
    copy = tmp_path / "run" / "swift" / checkpoint.name
    copy.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "args.json"):
        (copy / name).write_bytes((checkpoint / name).read_bytes())
    return copy


# --- merge


def test_a_merged_checkpoint_is_the_same_model_and_made_once(checkpoint, asked):
    merged = serving.merge(BY_HEART, checkpoint)
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert serving.merge(BY_HEART, checkpoint) == merged == assets.model_dir(str(merged))
    assert (merged / "model.safetensors").stat().st_mtime_ns == before
    assert 0.5 < serving.megabytes(merged) < 1.5 and not list(merged.parent.glob(".checkpoint*"))
    same = serving.compare(BY_HEART, checkpoint, merged, asked)
    assert same.same and same.same_text == same.n == 2 and 0 < same.logit_difference < 1e-3
    other = serving.compare(BY_HEART, checkpoint, assets.model_dir(BY_HEART.model), asked)
    assert not other.same and other.same_text < 2, "the check must be able to fail"


def test_what_was_merged_from_another_adapter_does_not_pass(copied):
    merged = copied.parent.parent / "merged" / copied.name
    merged.mkdir(parents=True)
    (merged / "SOURCE.json").write_text(json.dumps({"adapter_sha256": "0" * 64}), "utf-8")
    with pytest.raises(KitError, match="was merged from another adapter.*Delete it"):
        serving.merge(BY_HEART, copied)


def test_a_damaged_adapter_leaves_no_merged_folder_and_names_cause_and_log(copied):
    weights = copied / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(KitError, match=r"(?s)failed: .*Error.*Whole log: .*\.log") as caught:
        serving.merge(BY_HEART, copied)
    assert "Traceback" not in str(caught.value)
    assert [one.suffix for one in (copied.parent.parent / "merged").iterdir()] == [".log"]


def test_an_incomplete_adapter_or_model_is_named_before_anything_starts(copied, tmp_path):
    (copied / "adapter_model.safetensors").unlink()
    for attempt in (serving.merge, lambda *a: serving.deploy(a[0], {"tuned": a[1]}).__enter__()):
        with pytest.raises(KitError, match="no complete adapter in .*: adapter_model.safetensors"):
            attempt(BY_HEART, copied)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", "utf-8")
    with pytest.raises(KitError, match="tokenizer.*weights"):
        serving.deploy(replace(BY_HEART, model=str(tmp_path / "model"))).__enter__()


# --- the real server


def test_base_and_adapter_are_served_side_by_side(over_http, in_process, checkpoint, asked):
    assert [model.id for model in over_http.client().models.list()] == ["base", "tuned"]
    for adapter in (None, checkpoint, None):
        for reply, expected in zip(over_http.ask(asked, adapter), in_process.ask(asked, adapter)):
            assert (reply, reply.finished) == (expected, expected.finished)
    assert over_http.ask(asked) != over_http.ask(asked, checkpoint), "two different models"
    assert not over_http.ask([HELLO], max_new_tokens=1)[0].finished
    many = [[SYSTEM, {"role": "user", "content": f"Hello {'x ' * i}"}] for i in range(12)]
    assert over_http.ask(many, checkpoint) == [over_http.ask([x], checkpoint)[0] for x in many]


def test_the_tool_loop_over_http_runs_the_same_episode(over_http, in_process, checkpoint, dialogue):
    turn = convert.turns_of(dialogue)[0]
    gold, result = turn.calls[0]

    def episode(model):
        ask = lambda messages: model.ask([messages], checkpoint)[0]  # noqa: E731
        return agent.run(dialogue["tools"], turn.query, ask, lambda call: result, max_turns=3)

    here, there = episode(in_process), episode(over_http)
    assert here == there and [step.kind for step in there] == ["call", "answer"]
    assert there[0].call.name == gold["name"] and there[1].text == turn.answer


def test_native_tools_reach_the_model_as_the_prompt_of_training(over_http, dialogue, asked):
    """The agent template "agentfabric" writes our renderer's block; streaming gives the same."""
    ask = over_http.client().chat.completions.create
    ours = ask(model="tuned", messages=asked[1])
    native = ask(model="tuned", messages=asked[1][1:], tools=dialogue["tools"])
    assert native.usage == ours.usage
    assert native.choices[0].message.content == ours.choices[0].message.content
    (call,) = native.choices[0].message.tool_calls
    gold = convert.turns_of(dialogue)[0].calls[0][0]
    assert {"name": call.function.name, "arguments": json.loads(call.function.arguments)} == gold
    stream = ask(model="tuned", messages=asked[1], stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(pieces) > 2 and "".join(pieces) == ours.choices[0].message.content


def test_a_wrong_served_name_is_answered_with_the_right_ones(served):
    with pytest.raises(KitError, match=r"'tunde' \(HTTP 400\).*base.*tuned"):
        Endpoint(served.url, {None: "tunde"}).ask([HELLO])


def test_a_port_in_use_is_named_with_its_program(served):
    port = int(served.url.split(":")[2].split("/")[0])
    said = rf"port {port} cannot be used: in use by .*python.* \(process \d+\)"
    with pytest.raises(KitError, match=said):
        serving.deploy(BY_HEART, port=port).__enter__()
    with pytest.raises(KitError, match="port 70000 cannot be used"):
        serving.checked_port(70000)
    assert serving.checked_port(0) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(checkpoint, number):
    code = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    options, names = (["--merged"], "tuned") if code == 143 else ([], "base, tuned")
    script = (
        "import runpy, signal; signal.signal(2, signal.default_int_handler)\n"  # if a shell hid it
        "runpy.run_module('helpers.serving', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", script, "--port", "0", "--adapter", checkpoint, *options]
    settings = {"cwd": assets.ROOT, "env": {**os.environ, "KIT_PROFILE": "smoke"}}
    kit = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **settings)
    try:
        lines = [kit.stdout.readline() for _ in range(3)]
        assert lines[1].startswith(f"swift serves {names} at http://127.0.0.1:")
        assert "curl http://127.0.0.1" in lines[2]
        family = psutil.Process(kit.pid).children(recursive=True)
        assert family
    finally:
        kit.send_signal(number)
    assert kit.wait(timeout=60) == code
    assert gone(family)


def test_the_command_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "open_run", lambda profile: train.Run(tmp_path))
    with pytest.raises(KitError, match="no trained run yet: run lesson 04"):
        server.last_checkpoint(SMOKE)


# --- command lines


def command(engine, profile="laptop", adapters=("tuned=c",)):
    profile = profiles.get(profile)
    words, environment = engines.command_of(engine, profile, Path("m"), "base", [*adapters], 8000)
    return " ".join(map(str, words)), environment


def test_without_vllm_the_way_to_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    for engine in ("vllm", "swift-vllm"):
        with pytest.raises(KitError, match="vLLM is not installed here: `make vllm`"):
            command(engine)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_every_engine_is_told_what_serving_needs(engine, monkeypatch):
    monkeypatch.setattr(engines, "vllm_python", lambda: "python")
    text, environment = command(engine)
    assert "--host 127.0.0.1 --port 8000" in text and "tuned=c" in text
    assert ("--temperature 0" in text) or ('"temperature": 0' in text), "AgentFabric sends none"
    assert environment["HF_HUB_OFFLINE"] == "1"
    bare, _ = command(engine, adapters=())
    assert "adapters" not in bare and "lora" not in bare
    gpu, _ = command(engine, "gpu")
    assert "eager" not in gpu and "len" not in gpu.replace("--model", "")


# --- servers that misbehave: doubles

DOUBLE = """
import http.server, json, sys, time
mood, port = sys.argv[1], int(sys.argv[2])
if mood == "dies":
    sys.exit("ValueError: no room for the model")
if mood == "silent":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = "someone-else" if mood == "stranger" else "base"
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name}]}).encode())
server = http.server.HTTPServer(("127.0.0.1", 0 if mood == "moves" else port), Handler)
print(f"Uvicorn running on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def double(monkeypatch, tmp_path):
    """`deploy` starts a double of a server, in one of its moods, in place of an engine."""
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    monkeypatch.setattr(assets, "model_dir", lambda model: tmp_path)
    program = [sys.executable, "-c", DOUBLE]
    monkeypatch.setattr(server, "command_of", lambda mood, *_: ([*program, mood, _[-1]], None))
    return lambda mood, **options: serving.deploy(SMOKE, engine=mood, port=0, **options)


def test_the_real_port_comes_from_the_log(double):
    with double("moves") as one:
        assert not one.url.endswith(f":{one.log.stem.split('-')[1]}/v1")
        assert [model.id for model in Endpoint(one.url, {}).client().models.list()] == ["base"]


@pytest.mark.parametrize("mood", ["dies", "silent", "stranger"])
def test_a_server_that_does_not_come_up_is_stopped_and_explained(double, mood):
    died = r"starting \(exit code 1\): ValueError: no room for the model\nWhole log: .*\.log"
    with pytest.raises(KitError, match=died if mood == "dies" else "did not answer within 2 s"):
        double(mood, timeout=2).__enter__()
    assert not [p for p in psutil.Process().children(recursive=True) if mood in p.cmdline()]
