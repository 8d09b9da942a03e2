"""Training with the real ms-swift and a tiny random model; programs that end with their starter."""

import json
import subprocess
import sys
import time
from unittest.mock import Mock

import psutil
import pytest
import yaml
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
    over = psutil.STATUS_ZOMBIE
    return wait_for(lambda: not [p for p in family if p.is_running() and p.status() != over])


def family_of(parent):
    return psutil.Process(parent.pid).children(recursive=True)


def test_a_run_leaves_its_data_checkpoints_and_manifest(run):
    assert [checkpoint.step for checkpoint in run.checkpoints] == list(range(0, 32, 2))
    rows, facts = run.path / "data" / "train.jsonl", run.manifest()
    assert facts["data_sha256"]["train"] == assets.sha256_of(rows)
    assert len(assets.read_jsonl(rows)) == 60 and len(run.cases) == SMOKE.cases
    assert str(ROOT) not in json.dumps(facts), "no path of this machine"
    evaluated = [one["global_step/max_steps"] for one in run.log() if "eval_token_acc" in one]
    assert evaluated[:2] == ["0/30", "2/30"], "step 0 is a point"


def test_a_finished_run_is_opened_without_preparing_anything(run, capsys, monkeypatch):
    data = {name: assets.read_jsonl(run.path / f"data/{name}.jsonl") for name in ("train", "eval")}
    monkeypatch.setattr(train, "prepare_data", None)
    monkeypatch.setattr(assets, "model_dir", None)
    assert train.finetune(SMOKE, "test-train") == train.open_run(SMOKE, "test-train") == run
    assert "Reusing the finished run 'test-train', trained to step 30" in capsys.readouterr().out
    assert train.finetune(SMOKE, "test-train", data={**data, "cases": run.cases}) == run
    with pytest.raises(KitError, match="begun with other data"):
        train.finetune(SMOKE, "test-train", data={**data, "cases": run.cases[1:]})


def test_another_profile_cannot_open_the_run_and_each_difference_is_named(run):
    recipe = {**SMOKE.recipe, "learning_rate": 1e-5}
    changed = profiles.get("smoke", train_rows=60, seed=7, recipe=recipe, torch_dtype="bfloat16")
    for attempt in (train.finetune, train.open_run):
        with pytest.raises(KitError) as caught:
            attempt(changed, "test-train")
        assert [line for line in str(caught.value).splitlines() if ": there " in line] == [
            "  seed: there 42, here 7",
            "  number_format: there 'float32', here 'bfloat16'",
            "  learning_rate: there 0.001, here 1e-05",
        ]


def test_killed_then_interrupted_then_resumed_ends_as_an_unbroken_run(run, tmp_path, capsys):
    broken = train.open_run(SMOKE, "broken", tmp_path)
    smoke = "profiles.get('smoke', train_rows=60)"
    code = f"from helpers import profiles, train; train.finetune({smoke}, {str(broken.path)!r})"
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
    with pytest.raises(KeyboardInterrupt):
        stop_button = Mock(side_effect=KeyboardInterrupt)
        train.finetune(SMOKE, "broken", watch=stop_button, root=tmp_path)
    printed = capsys.readouterr().out
    assert f"from step {saved}." in printed and f"after step {saved}" in printed
    assert not psutil.Process().children(recursive=True) and not broken.finished
    train.finetune(SMOKE, "broken", root=tmp_path)
    assert broken.manifest()["resumed_from"] == saved
    assert broken.manifest()["data_sha256"] == run.manifest()["data_sha256"]
    weights = [one.checkpoints[-1].path / "adapter_model.safetensors" for one in (run, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_failing_training_names_the_cause_and_the_log(tmp_path):
    broken = profiles.get("smoke", recipe={**SMOKE.recipe, "no_such_setting": 1})
    with pytest.raises(KitError, match=r"remaining_argv.*\n.*train\.log") as caught:
        train.finetune(broken, root=tmp_path)
    assert not list(tmp_path.rglob("manifest.json")) and "Traceback" not in str(caught.value)


PARSE = """
import json, sys
from swift.arguments import SftArguments
from swift.cli.main import parse_yaml_args
from swift.utils import parse_args
for recipe in sys.argv[1:]:
    given = [recipe]
    parse_yaml_args(given)
    args, unknown = parse_args(SftArguments, given)
    print("PARSED", args.learning_rate, args.agent_template, args.max_length, unknown)
"""


def test_every_profiles_recipe_is_accepted_by_ms_swifts_own_parser(run, tmp_path):
    """In a child, as in training; the tiny model stands in for models that need the hub."""
    settings, files, wanted = yaml.safe_load((run.path / "recipe.yaml").read_text("utf-8")), [], []
    here = {"output_dir": str(tmp_path), "use_cpu": True, "torch_dtype": "float32"}
    for name, profile in profiles.PROFILES.items():
        recipe = train.recipe_of(profile)
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(json.dumps(settings | recipe | here), "utf-8")  # JSON is YAML
        wanted.append("PARSED {learning_rate} {agent_template} {max_length} []".format(**recipe))
    options = {"cwd": ROOT, "env": train.child_environment(), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", PARSE, *map(str, files)], **options)
    assert [line for line in done.stdout.splitlines() if "PARSED" in line] == wanted, done.stderr


def test_the_whole_family_of_a_program_ends_with_the_block(tmp_path):
    """Two processes that ignore a polite request; the second outlives the first."""
    command = ["bash", "-c", "trap '' TERM; sleep 600 & sleep 2; exit 3"]
    with train.running(command, tmp_path / "log") as process:
        assert wait_for(lambda: len(family_of(process)) == 2)
        family = family_of(process)
        assert process.wait(timeout=30) == 3, "the program's own exit code"
        assert any(one.is_running() for one in family)
    assert gone(family)
