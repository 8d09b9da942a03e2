"""Merge, serve, ask over HTTP. The real `swift deploy` with a tiny model; servers that misbehave are doubles.

vLLM takes minutes to start and an environment of its own, so only its command line is tested here; lesson 07 starts it.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from helpers import (
    agent,
    assets,
    corpus,
    endpoint,
    engines,
    finetune,
    inference,
    merging,
    profiles,
    serving,
    sources,
    storage,
)
from helpers import supervisor as sv
from helpers.agentfabric import first_request, read_calls

# Two rows, the call and the answer of one dialogue, learned by heart: so the tiny model makes a real visit.
SMOKE = profiles.get("smoke")
BY_HEART = replace(SMOKE, train_rows=2, max_new_tokens=64, recipe={
    **SMOKE.recipe, "num_train_epochs": 100, "learning_rate": 1e-2, "save_steps": 1000, "eval_steps": 1000})
HELLO = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def run():
    return finetune.finetune(BY_HEART)


@pytest.fixture(scope="module")
def checkpoint(run):
    return run.checkpoints[-1].path


@pytest.fixture(scope="module")
def server(checkpoint):
    with serving.deploy(BY_HEART, {"tuned": checkpoint}, port=0, agent_template="agentfabric") as server:
        yield server


@pytest.fixture(scope="module")
def over_http(server):
    return endpoint.Endpoint(server.url, server.names, max_new_tokens=BY_HEART.max_new_tokens)


@pytest.fixture(scope="module")
def in_process():
    return inference.Model(BY_HEART)


@pytest.fixture(scope="module")
def dialogue(run):
    """The canonical dialogue that the model has learned by heart."""
    (name,) = {row["id"] for row in storage.read_jsonl(run.path / "data" / "train.jsonl")}
    rows, _ = sources.split_rejected(sources.read_rows(assets.dataset_file("authored")))
    return next(row for row in rows if row["id"] == name)


# --- merge


def test_a_merged_checkpoint_is_the_same_model(checkpoint, dialogue, capsys):
    merged = merging.merge(BY_HEART, checkpoint)
    assert merged.parent.name == "merged" and assets.model_dir(str(merged)) == merged
    assert 0.5 < merging.megabytes(merged) < 1.5 and not list(merged.parent.glob(".checkpoint*"))
    asked = [HELLO, first_request(dialogue["tools"], dialogue["messages"][0]["content"])]
    same = merging.compare(BY_HEART, checkpoint, merged, asked)
    assert same.same and same.same_text == same.n == 2 and 0 < same.logit_difference < 1e-3
    base = assets.model_dir(BY_HEART.model)
    other = merging.compare(BY_HEART, checkpoint, base, asked)
    assert not other.same and other.same_text < 2, "the check must be able to fail"


def test_merging_again_reuses_the_folder_and_another_adapter_does_not_pass_for_it(checkpoint, tmp_path):
    merged = merging.merge(BY_HEART, checkpoint)
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert merging.merge(BY_HEART, checkpoint) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == before
    source = json.loads((merged / "SOURCE.json").read_text("utf-8"))
    copy = merging_copy(checkpoint, tmp_path)
    (copy.parent.parent / "merged" / copy.name).mkdir(parents=True)
    (copy.parent.parent / "merged" / copy.name / "SOURCE.json").write_text(
        json.dumps({**source, "adapter_sha256": "0" * 64}), "utf-8")
    with pytest.raises(merging.MergeError, match="was merged from another adapter.*Delete it"):
        merging.merge(BY_HEART, copy)


def merging_copy(checkpoint: Path, folder: Path) -> Path:
    copy = folder / "run" / "swift" / checkpoint.name
    copy.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "args.json"):
        (copy / name).write_bytes((checkpoint / name).read_bytes())
    return copy


def test_a_damaged_adapter_leaves_no_merged_folder_and_names_cause_and_log(checkpoint, tmp_path):
    copy = merging_copy(checkpoint, tmp_path)
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(merging.MergeError, match=r"(?s)failed: .*Error.*Whole log: .*\.log") as caught:
        merging.merge(BY_HEART, copy)
    assert "Traceback" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "run" / "merged").iterdir()] == [".log"]


def test_an_incomplete_adapter_or_model_is_named_before_anything_starts(checkpoint, tmp_path):
    copy = merging_copy(checkpoint, tmp_path)
    (copy / "adapter_model.safetensors").unlink()
    for attempt in (lambda: merging.merge(BY_HEART, copy),
                    lambda: serving.deploy(BY_HEART, {"tuned": copy}).__enter__()):
        with pytest.raises(assets.AssetError, match="no complete adapter in .*: adapter_model.safetensors missing"):
            attempt()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", "utf-8")
    with pytest.raises(assets.AssetError, match="not a complete model folder. It lacks: a tokenizer .*weights"):
        serving.deploy(replace(BY_HEART, model=str(tmp_path / "model"))).__enter__()


# --- the real server


def test_base_and_adapter_are_served_side_by_side(server, over_http, in_process, checkpoint, dialogue):
    assert [model.id for model in over_http.client().models.list()] == ["base", "tuned"]
    asked = [HELLO, first_request(dialogue["tools"], dialogue["messages"][0]["content"])]
    for adapter in (None, checkpoint, None):
        replies, expected = over_http.ask(asked, adapter), in_process.ask(asked, adapter)
        assert replies == expected and [r.finished for r in replies] == [r.finished for r in expected]
    assert over_http.ask(asked) != over_http.ask(asked, checkpoint), "two different models"
    assert not over_http.ask([HELLO], max_new_tokens=1)[0].finished


def test_the_tool_loop_over_http_makes_the_same_visit(over_http, in_process, checkpoint, dialogue):
    """The same two steps, request by request, through a server as without one; and it is the visit that was learned."""
    turn = corpus.turns_of(dialogue)[0]
    visits = [agent.run(dialogue["tools"], turn.query, lambda messages, model=model: model.ask([messages], checkpoint)[0],
                        lambda call: turn.calls[0][1], max_turns=3) for model in (over_http, in_process)]
    assert visits[0] == visits[1]
    assert [step.kind for step in visits[0]] == ["call", "answer"]
    assert visits[0][0].call.name == turn.calls[0][0]["name"] and visits[0][1].text == turn.answer


def test_parallel_requests_keep_their_order(over_http, checkpoint):
    asked = [[*HELLO[:1], {"role": "user", "content": f"Hello {'x ' * number}"}] for number in range(12)]
    assert over_http.ask(asked, checkpoint) == [over_http.ask([one], checkpoint)[0] for one in asked]


def test_a_completion_goes_through_the_chat_template(over_http):
    """`swift deploy` wraps the prompt of /v1/completions in a user turn; a raw completion would count its own tokens."""
    prompt = "San Francisco is a"
    answer = over_http.client().completions.create(model="base", prompt=prompt, max_tokens=4, temperature=0)
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(assets.model_dir("smoke"))
    plain = len(tokenizer(prompt).input_ids)
    wrapped = len(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                                return_dict=True)["input_ids"])
    assert answer.usage.prompt_tokens == wrapped > plain


def test_native_tools_reach_the_model_as_the_prompt_it_was_trained_on(over_http, checkpoint, dialogue):
    """With the agent template "agentfabric" the server writes the tools block that our own renderer writes."""
    system, user = first_request(dialogue["tools"], dialogue["messages"][0]["content"])
    client = over_http.client()
    ours = client.chat.completions.create(model="tuned", messages=[system, user])
    native = client.chat.completions.create(model="tuned", messages=[user], tools=dialogue["tools"])
    assert native.usage == ours.usage and native.choices[0].message.content == ours.choices[0].message.content
    (call,) = native.choices[0].message.tool_calls
    gold = corpus.turns_of(dialogue)[0].calls[0][0]
    assert (call.function.name, json.loads(call.function.arguments)) == (gold["name"], gold["arguments"])


def test_streamed_pieces_add_up_to_the_reply(over_http, checkpoint, dialogue):
    asked = first_request(dialogue["tools"], dialogue["messages"][0]["content"])
    stream = over_http.client().chat.completions.create(model="tuned", messages=asked, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(pieces) > 2 and "".join(pieces) == over_http.ask([asked], checkpoint)[0]


def test_a_wrong_served_name_is_answered_with_the_right_ones(server, checkpoint):
    with pytest.raises(endpoint.EndpointError, match=r"refused the request to model 'tunde' \(HTTP 400\).*base.*tuned"):
        endpoint.Endpoint(server.url, {None: "tunde"}).ask([HELLO])
    with pytest.raises(endpoint.EndpointError, match="no served name for adapter elsewhere"):
        endpoint.Endpoint(server.url, server.names).ask([HELLO], "elsewhere")


def test_a_port_in_use_is_named_with_its_program(server):
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(serving.ServingError, match=rf"port {port} cannot be used: in use by .*python.* \(process \d+\)"):
        serving.deploy(BY_HEART, port=port).__enter__()
    with pytest.raises(serving.ServingError, match="port 70000 cannot be used"):
        serving.checked_port(70000)
    assert serving.checked_port(0) > 0


@pytest.mark.parametrize(("number", "exit_code", "options", "names"), [
    (signal.SIGINT, 0, [], "base, tuned"), (signal.SIGTERM, 143, ["--merged"], "tuned"), (signal.SIGKILL, -9, [], "base, tuned")])
def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(run, number, exit_code, options, names):
    """SIGTERM and SIGINT end the command politely, SIGKILL does not: nothing is left in any case."""
    code = ("import signal, sys; signal.signal(2, signal.default_int_handler)  # a shell may have switched it off\n"
            "from helpers import serving; sys.exit(serving.main(sys.argv[1:]))")
    command = subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", "--adapter", run.checkpoints[-1].path, *options], cwd=ROOT,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "KIT_PROFILE": "smoke"})
    try:
        assert command.stdout.readline().startswith(f"swift serves {names} at http://127.0.0.1:")
        assert "curl http://127.0.0.1" in command.stdout.readline()
        family = psutil.Process(command.pid).children(recursive=True)
        assert len(family) >= 2
    finally:
        command.send_signal(number)
    assert command.wait(timeout=60) == exit_code
    assert gone(family)


def test_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KIT_PROFILE", "smoke")
    monkeypatch.setattr(finetune, "find", lambda profile: finetune.Run(tmp_path))
    assert serving.main([]) == 1
    assert "no trained run yet: run lesson 04" in capsys.readouterr().err


# --- engines


def service(**changes):
    given = {"profile": profiles.get("laptop"), "model": Path("m"), "name": "base", "adapters": {"tuned": Path("c")},
             "port": 8000, "agent_template": "react_en"}
    return engines.Service(**{**given, **changes})


def test_without_vllm_the_way_to_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "repo_root", lambda: tmp_path)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    for engine in (engines.vllm, engines.swift_vllm):
        with pytest.raises(serving.ServingError, match="vLLM is not installed here: `make vllm`"):
            engine(service())


def test_every_engine_is_told_what_serving_needs(monkeypatch):
    monkeypatch.setattr(engines, "vllm_python", lambda: "python")
    for engine, build in engines.ENGINES.items():
        command, environment = build(service())
        text = " ".join(str(part) for part in command)
        assert "--host 127.0.0.1 --port 8000" in text and "tuned=c" in text, engine
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert ("--temperature 0" in text) or ('"temperature": 0' in text), "AgentFabric sends none"
        bare = " ".join(str(part) for part in build(service(adapters={}))[0])
        assert "adapters" not in bare and "lora" not in bare
        gpu = " ".join(str(part) for part in build(service(profile=profiles.get("gpu")))[0])
        assert "eager" not in gpu and "len" not in gpu.replace("--model", "")


# --- servers that misbehave: doubles

DOUBLE = """
import http.server, json, sys, time
mode, port = sys.argv[1], int(sys.argv[2])
if mode == "dies":
    sys.exit("ValueError: no room for the model")
if mode == "silent":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "someone-else" if mode == "stranger" else "base"}]}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0 if mode == "moves" else port), Handler)
print(f"Uvicorn running on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def double_engine(monkeypatch, tmp_path):
    """Makes `deploy` start a double of a server, in one of its moods, in place of an engine."""
    monkeypatch.setattr(assets, "repo_root", lambda: tmp_path)
    monkeypatch.setattr(assets, "model_dir", lambda model: tmp_path)

    def start(mood: str, **options):
        monkeypatch.setitem(engines.ENGINES, "double", lambda service: (
            [sys.executable, "-c", DOUBLE, mood, service.port], None))
        return serving.deploy(SMOKE, engine="double", port=0, **options)

    return start


def test_the_real_port_comes_from_the_log(double_engine, capsys):
    with double_engine("moves") as server:
        asked = server.log.stem.split("-")[1]
        assert not server.url.endswith(f":{asked}/v1")
        assert f"at {server.url} (port {asked} was not free yet)" in capsys.readouterr().out
        assert [model.id for model in endpoint.Endpoint(server.url, {}).client().models.list()] == ["base"]


@pytest.mark.parametrize(("mood", "message"), [
    ("dies", r"double stopped while starting: ValueError: no room for the model\nWhole log: .*\.log"),
    ("silent", r"did not answer within 2 s"),
    ("stranger", r"did not answer within 2 s"),
])
def test_a_server_that_does_not_come_up_is_stopped_and_explained(double_engine, mood, message):
    started = time.monotonic()
    with pytest.raises(serving.ServingError, match=message):
        double_engine(mood, timeout=2).__enter__()
    assert time.monotonic() - started < 20
    assert not [p for p in psutil.Process().children(recursive=True) if mood in p.cmdline()]


class Answers(http.server.BaseHTTPRequestHandler):
    """A double of an endpoint: answers each request with the next entry of `server.script`, in one of several moods."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        answer = self.server.script(body)
        if answer == "dies":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{\"choi")
            self.wfile.flush()
            self.connection.shutdown(2)
            return
        if answer == "hangs":
            time.sleep(3)
            return
        status, payload = answer
        payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        """Quiet."""


@contextmanager
def answering(script):
    """An endpoint's double on this machine; `script` maps a request's body to (status, body), "dies" or "hangs"."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.script, server.requests = script, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, endpoint.Endpoint(f"http://127.0.0.1:{server.server_port}/v1", {None: "m"}, timeout=1)
    finally:
        server.shutdown()
        server.server_close()


def chat(content, reason="stop", **message):
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content, **message}}]}


def test_a_request_names_everything_a_server_could_decide_otherwise():
    with answering(lambda body: (200, chat("hi", "length"))) as (server, asked):
        (reply,) = asked.ask([HELLO], max_new_tokens=7)
    assert reply == "hi" and not reply.finished
    (body,) = server.requests
    assert body == {"model": "m", "messages": HELLO, "temperature": 0, "max_tokens": 7,
                    "stop": ["Observation:", "Observation:\n"]}


@pytest.mark.parametrize(("answer", "message"), [
    ((200, b"<html>a proxy's page</html>"), "cannot be read|malformed"),
    ((200, {}), "malformed answer"),
    ((200, {"choices": []}), "malformed answer"),
    ((200, "text"), "malformed answer|cannot be read"),
    ((200, chat(None)), "malformed answer"),
    ((200, chat("half", None)), "malformed answer"),
    ((200, chat(["a", "list"])), "malformed answer"),
    ((200, chat("x") | {"choices": [{"index": 0}]}), "malformed answer"),
    ((400, {"message": "`m` is not in the model_list: `['base']`.", "object": "error"}), "refused.*HTTP 400.*base"),
    ((500, b"Internal Server Error"), "refused.*HTTP 500"),
    ("dies", "no connection to .*see the end of its log"),
    ("hangs", "no answer within 1 s"),
])
def test_an_unusable_answer_is_explained_and_nothing_hangs(answer, message):
    started = time.monotonic()
    with answering(lambda body: answer) as (_, asked):
        with pytest.raises(endpoint.EndpointError, match=message):
            asked.ask([HELLO])
    assert time.monotonic() - started < 8


def test_no_server_at_all():
    with pytest.raises(endpoint.EndpointError, match="The server is not running, or has stopped"):
        endpoint.Endpoint("http://127.0.0.1:9/v1", {None: "m"}).ask([HELLO])


def test_a_failure_ends_the_batch():
    with answering(lambda body: (400, {"message": "no"})) as (server, asked):
        with pytest.raises(endpoint.EndpointError, match="refused"):
            replace(asked, parallel=2).ask([HELLO] * 200)
    assert len(server.requests) < 100


# What ModelScope-Agent 0.7.2 does with such replies was recorded: the number of requests, and how the visit ends.
@pytest.mark.parametrize(("reply", "requests", "end"), [
    ('Action: get_weather\n{"city": "Paris"}', 1, "answer"),
    ('Action：get_weather\nAction Input：{"city": "Paris"}', 1, "answer"),
    ("", 1, "answer"),
    ('Action: get_weather\nAction Input: {"city": "Paris"', 2, "answer"),
    ('Action: get_weather\nAction Input: "Paris"', 2, "answer"),
    ("Action: get_weather\nAction Input: {}", 2, "answer"),
    ('Action: get_weather \nAction Input: {"city": "Paris"}', 2, "answer"),
    ('Action: weather\nAction Input: {"city": "Paris"}', 2, "answer"),
    ('Action: get_weather\nAction Input: {\n"city": "Paris"}', 2, "answer"),
    ("Action: get_weather\nAction Input: {'city': 'Paris',}", 2, "answer"),
    ('Action: get_weather\nAction Input: {"city": 7}', 2, "answer"),
    ('Action: get_weather\nAction Input: {"city": "Paris"}\nObservation: rain\nAnswer: rain', 2, "answer"),
])
@pytest.mark.parametrize("endless", [False, True])
def test_malformed_replies_over_http_end_the_visit_as_the_runtime_does(reply, requests, end, endless):
    from helpers.tools import execute, schemas

    def script(body):
        seen = "<result>" in body["messages"][-1]["content"]
        return 200, chat("It rains." if seen and not endless else reply)

    with answering(script) as (server, asked):
        steps = agent.run(schemas(["get_weather"]), "Weather in Paris?", lambda messages: asked.ask([messages])[0], execute)
    endless = endless and requests > 1
    assert len(server.requests) == (10 if endless else requests)
    assert steps[-1].kind == ("gave_up" if endless else end)
    assert len(read_calls(reply)) == (requests > 1)


# --- the supervisor


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "parent":
    subprocess.Popen([sys.executable, __file__, "child"])
print(sys.argv[1], flush=True)
time.sleep(600 if sys.argv[1] == "child" or sys.argv[2:] != ["ends"] else 1)
"""


@pytest.fixture
def stubborn(tmp_path):
    """A program of two processes that ignore a polite request to end."""
    (tmp_path / "stubborn.py").write_text(STUBBORN, "utf-8")
    return [sys.executable, str(tmp_path / "stubborn.py"), "parent"]


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def gone(processes):
    return wait_for(lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 30)


@pytest.mark.parametrize("killed", [False, True], ids=["block left", "supervisor killed"])
def test_the_whole_family_ends_with_the_block(stubborn, tmp_path, killed):
    with sv.supervised(stubborn, tmp_path / "log") as process:
        assert wait_for(lambda: len(sv.session(process.pid)) == 2)
        family = sv.session(process.pid)
        if killed:
            process.kill()
    assert gone(family) and (tmp_path / "log").read_text("utf-8").split() == ["parent", "child"]


def test_children_that_outlive_their_parent_are_found(stubborn, tmp_path):
    with sv.supervised([*stubborn, "ends"], tmp_path / "log") as process:
        assert wait_for(lambda: len(sv.session(process.pid)) == 2)
        family = sv.session(process.pid)
        assert process.wait(timeout=40) == 0, "the program's own exit code"
        assert gone(family)


def test_the_family_ends_when_whoever_started_it_is_killed(stubborn, tmp_path):
    code = (f"import time; from pathlib import Path; from helpers.supervisor import supervised\n"
            f"with supervised({stubborn!r}, Path({str(tmp_path / 'log')!r})): time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert wait_for(lambda: len(psutil.Process(parent.pid).children(recursive=True)) == 3)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert gone(family)


def test_the_cause_is_the_last_error_that_says_something(tmp_path):
    log = tmp_path / "log"
    log.write_text("INFO\nValueError: too long\nRuntimeError: Engine core failed. See root cause above.\nbye\n", "utf-8")
    assert sv.cause_in(log) == "ValueError: too long"
    log.write_text("only this\n", "utf-8")
    assert sv.cause_in(log) == "only this"
    log.write_text("", "utf-8")
    assert sv.cause_in(log) == "no output"
