"""Training with the real ms-swift and a tiny random model; programs that end with their starter."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT

from helpers import assets, profiles, train
from helpers.assets import KitError

SMOKE = profiles.get("smoke", train_rows=60)


@pytest.fixture(scope="module")
def run():
    return train.finetune(SMOKE, "test-train")


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def gone(family):
    alive = (psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP)
    return wait_for(lambda: not [p for p in family if p.is_running() and p.status() in alive])


def family_of(parent):
    return psutil.Process(parent.pid).children(recursive=True)


def test_a_run_leaves_its_profile_recipe_data_checkpoints_and_manifest(run):
    assert [checkpoint.step for checkpoint in run.checkpoints] == list(range(0, 32, 2))
    facts = run.manifest()
    assert (facts["name"], facts["model"], facts["number_format"]) == (
        "test-train",
        "smoke",
        "float32",
    )
    assert facts["versions"]["ms-swift"] == "4.6.0" and facts["hardware"]["cores"] == os.cpu_count()
    assert str(ROOT) not in json.dumps(facts), "no path of this machine"
    train_file = run.path / "data" / "train.jsonl"
    assert facts["data_sha256"]["train"] == assets.sha256_of(train_file)
    assert len(assets.read_jsonl(train_file)) == 60 and len(run.cases) == SMOKE.cases
    evaluated = [one["global_step/max_steps"] for one in run.log() if "eval_token_acc" in one]
    assert evaluated[:2] == ["0/30", "2/30"], "step 0 is a point"


def test_a_finished_run_is_opened_without_preparing_data(run, capsys, monkeypatch):
    monkeypatch.setattr(train, "prepare_data", None)
    monkeypatch.setattr(assets, "model_dir", None)
    assert train.finetune(SMOKE, "test-train") == train.open_run(SMOKE, "test-train") == run
    assert (
        "Reusing the finished run 'test-train' with its 15 checkpoints" in capsys.readouterr().out
    )


def test_another_profile_cannot_open_the_run_and_each_difference_is_named(run):
    recipe = {**SMOKE.recipe, "learning_rate": 1e-5, "no_such_setting": 1}
    for attempt in (train.finetune, train.open_run):
        with pytest.raises(KitError) as caught:
            attempt(profiles.get("smoke", train_rows=60, seed=7, recipe=recipe), "test-train")
        assert str(caught.value).splitlines()[1:] == [
            "  seed: there 42, here 7",
            "  learning_rate: there 0.001, here 1e-05",
            "  no_such_setting: there None, here 1",
            'Give this run a name (name="…"), or delete that folder.',
        ]


def test_another_number_format_is_refused_with_the_way_to_go_on(run, monkeypatch):
    """As on a CPU on which "auto" is another format than where the run was begun."""
    with monkeypatch.context() as patched:
        patched.setattr(train, "dtype_of", lambda profile: "bfloat16")
        with pytest.raises(KitError) as caught:
            train.open_run(profiles.get("smoke", train_rows=60, torch_dtype="auto"), "test-train")
    assert "number_format: there 'float32', here 'bfloat16'" in str(caught.value)
    assert 'profiles.get("smoke", torch_dtype="float32")' in str(caught.value)


def test_killed_then_interrupted_then_resumed_ends_as_an_unbroken_run(run, tmp_path, capsys):
    code = (
        "from helpers import profiles, train; smoke = profiles.get('smoke', train_rows=60); "
        f"train.finetune(smoke, 'broken', root={str(tmp_path)!r})"
    )
    broken = train.open_run(SMOKE, "broken", tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert wait_for(lambda: len(broken.checkpoints) > 1, 240)
    with pytest.raises(KitError, match="is being trained by another process"):
        train.finetune(SMOKE, "broken", root=tmp_path)
    family = family_of(parent)
    parent.kill()
    parent.wait()
    assert len(family) >= 2 and gone(family), "a killed notebook leaves no training behind"
    saved = broken.checkpoints[-1].step
    assert 2 <= saved < 30 and not broken.finished

    def stop_button(log):
        if broken.checkpoints[-1].step > saved:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.finetune(SMOKE, "broken", watch=stop_button, root=tmp_path)
    printed = capsys.readouterr().out
    assert f"from step {saved}." in printed and "run this again to resume from there" in printed
    assert not psutil.Process().children(recursive=True) and not broken.finished
    train.finetune(SMOKE, "broken", root=tmp_path)
    assert broken.manifest()["resumed_from"] > saved
    assert broken.manifest()["data_sha256"] == run.manifest()["data_sha256"]
    weights = [one.checkpoints[-1].path / "adapter_model.safetensors" for one in (run, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_keeps_to_its_data(run):
    data = {name: assets.read_jsonl(run.path / "data" / f"{name}.jsonl") for name in train.FILES}
    assert train.finetune(SMOKE, "test-train", data=data) == run
    with pytest.raises(KitError, match="begun with other data"):
        train.finetune(SMOKE, "test-train", data={**data, "train": data["train"][1:]})


def test_a_failing_training_names_the_cause_and_the_log(tmp_path):
    broken = profiles.get("smoke", recipe={**SMOKE.recipe, "no_such_setting": 1})
    with pytest.raises(KitError, match=r"remaining_argv.*\n.*train\.log") as caught:
        train.finetune(broken, root=tmp_path)
    assert not list(tmp_path.rglob("manifest.json")) and "Traceback" not in str(caught.value)


def test_every_profiles_recipe_is_accepted_by_ms_swifts_own_parser(tmp_path):
    """In a child, as in training; the tiny model stands in for models that need the hub."""
    rows = [{"messages": [{"role": role, "content": "a"} for role in ("user", "assistant")]}]
    assets.write_jsonl(tmp_path / "rows.jsonl", rows)
    recipes, given = {name: train.recipe_of(profiles.get(name)) for name in profiles.PROFILES}, []
    for recipe in recipes.values():
        settings = {"model": assets.model_dir("smoke"), "dataset": tmp_path / "rows.jsonl"}
        settings |= {"external_plugins": train.PLUGIN, "output_dir": tmp_path, **recipe}
        settings |= {"use_cpu": True, "torch_dtype": "float32"}  # no GPU here to ask for bfloat16
        values = {
            key: value if isinstance(value, list) else [value] for key, value in settings.items()
        }
        given.append([str(part) for key in values for part in (f"--{key}", *values[key])])
    code = (
        "import json, sys; from swift.arguments import SftArguments; from swift.utils import parse_args\n"
        "for given in json.loads(sys.argv[1]):\n"
        "    args, rest = parse_args(SftArguments, given); assert not rest, rest\n"
        "    print('RECIPE', json.dumps([args.learning_rate, args.agent_template, args.max_length]))"
    )
    command = [sys.executable, "-c", code, json.dumps(given)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=train.child_environment()
    )
    parsed = [line[7:] for line in done.stdout.splitlines() if line.startswith("RECIPE ")]
    wanted = [
        [one[key] for key in ("learning_rate", "agent_template", "max_length")]
        for one in recipes.values()
    ]
    assert [json.loads(line) for line in parsed] == wanted, done.stderr[-1500:]


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "parent":
    subprocess.Popen([sys.executable, __file__, "child"])
print(sys.argv[1], flush=True)
time.sleep(1 if sys.argv[1:] == ["parent", "ends"] else 600)
"""


@pytest.fixture
def stubborn(tmp_path):
    """A program of two processes that ignore a polite request to end."""
    (tmp_path / "stubborn.py").write_text(STUBBORN, "utf-8")
    return [sys.executable, str(tmp_path / "stubborn.py"), "parent"]


@pytest.mark.parametrize("options", [[], ["ends"]], ids=["block left", "program over"])
def test_the_whole_family_ends_with_the_block(stubborn, options, tmp_path):
    with train.running([*stubborn, *options], tmp_path / "log") as process:
        assert wait_for(lambda: len(family_of(process)) == 1)
        family = [psutil.Process(process.pid), *family_of(process)]
        if options:
            assert process.wait(timeout=30) == 0, "the program's own exit code"
    assert gone(family) and (tmp_path / "log").read_text("utf-8").split() == ["parent", "child"]


def test_the_whole_family_ends_when_whoever_started_it_is_killed(stubborn, tmp_path):
    code = (
        "import time; from pathlib import Path; from helpers.train import running\n"
        f"with running({stubborn!r}, Path({str(tmp_path / 'log')!r})): time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert wait_for(lambda: len(family_of(parent)) == 3)
    family = family_of(parent)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(family)


def test_the_cause_is_the_last_error_that_says_something(tmp_path):
    log = tmp_path / "log"
    for text, cause in {
        "INFO\nValueError: long\nRuntimeError: failed. See root cause above.\nbye\n": "ValueError: long",
        "only this\n\n": "only this",
        "": "no output",
    }.items():
        log.write_text(text, "utf-8")
        assert train.last_error(log) == cause
