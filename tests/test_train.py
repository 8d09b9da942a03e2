"""Training with the real ms-swift and a tiny random model; programs that end with their starter."""

import json
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import psutil
import pytest
import yaml
from conftest import ROOT, gone, wait_for

from helpers import assets, convert, profiles, train
from helpers.assets import KitError, processes

SMOKE = profiles.get("smoke", train_rows=60)


@pytest.fixture(scope="module")
def run():
    return train.finetune(SMOKE, "test-train")


def test_a_finished_run_is_whole_and_only_opened_as_what_it_is(run, capsys, monkeypatch):
    rows, facts = run.path / "data" / "train.jsonl", run.manifest()
    packs = assets.read_jsonl(rows)
    steps = -(-len(packs) // SMOKE.recipe["per_device_train_batch_size"])
    saved = [*range(0, steps, 2), steps]
    assert steps > 4 and [checkpoint.step for checkpoint in run.checkpoints] == saved
    assert facts["data_sha256"]["train"] == assets.sha256_of(rows)
    exchanges = [one for pack in packs for one in convert.split_pack(pack["messages"])]
    assert (len(exchanges), len(run.cases), len(run.dev)) == (60, SMOKE.cases, SMOKE.dev)
    assert str(ROOT) not in json.dumps(facts), "no path of this machine"
    evaluated = [one["global_step/max_steps"] for one in run.log() if "eval_token_acc" in one]
    assert evaluated[:2] == [f"0/{steps}", f"2/{steps}"], "step 0 is a point"
    data = {path.stem: assets.read_jsonl(path) for path in run.path.glob("data/*.jsonl")}
    monkeypatch.setattr(train, "prepare_data", None)
    monkeypatch.setattr(assets, "model_dir", None)
    assert train.finetune(SMOKE, "test-train") == train.open_run(SMOKE, "test-train") == run
    assert "Reusing the finished run" in capsys.readouterr().out
    assert train.finetune(SMOKE, "test-train", data=data) == run
    with pytest.raises(KitError, match="begun with other data"):
        train.finetune(SMOKE, "test-train", data={**data, "cases": run.cases[1:]})
    recipe = {**SMOKE.recipe, "learning_rate": 1e-5}
    changed = replace(SMOKE, seed=7, recipe=recipe, torch_dtype="bfloat16")
    for attempt in (train.finetune, train.open_run):
        with pytest.raises(KitError) as caught:
            attempt(changed, "test-train")
        assert [line for line in str(caught.value).splitlines() if ": there " in line] == [
            "  seed: there 42, here 7",
            "  number_format: there 'float32', here 'bfloat16'",
            f"  learning_rate: there {SMOKE.recipe['learning_rate']}, here 1e-05",
        ]


def test_killed_then_interrupted_then_resumed_ends_as_an_unbroken_run(run, tmp_path, capsys):
    broken = train.open_run(SMOKE, "broken", tmp_path)
    others = psutil.Process().children(recursive=True)  # such as a process pool's resource tracker
    smoke, folder = "profiles.get('smoke', train_rows=60)", str(broken.path)
    code = f"from helpers import profiles, train; train.finetune({smoke}, {folder!r})"
    parent = psutil.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert wait_for(lambda: len(broken.checkpoints) > 1, 240)
    with pytest.raises(KitError, match="is being trained by another process"):
        train.finetune(SMOKE, "broken", root=tmp_path)
    family = parent.children(recursive=True)
    parent.kill()
    parent.wait()
    assert len(family) >= 2 and gone(family), "a killed notebook leaves no training behind"
    saved = broken.checkpoints[-1].step
    assert 2 <= saved < 30
    with pytest.raises(KeyboardInterrupt):
        stop_button = Mock(side_effect=KeyboardInterrupt)
        train.finetune(SMOKE, "broken", watch=stop_button, root=tmp_path)
    printed = capsys.readouterr().out
    assert f"from step {saved}." in printed and f"after step {saved}" in printed
    left = [one for one in psutil.Process().children(recursive=True) if one not in others]
    assert not left and not broken.finished
    train.finetune(SMOKE, "broken", root=tmp_path)
    assert broken.manifest()["resumed_from"] == saved
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
    options = {
        "cwd": ROOT,
        "env": processes.child_environment(),
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run([sys.executable, "-c", PARSE, *map(str, files)], **options)
    assert [line for line in done.stdout.splitlines() if "PARSED" in line] == wanted, done.stderr


def test_what_a_program_leaves_running_ends_with_the_block(tmp_path):
    log = tmp_path / "log"
    command = ["bash", "-c", "trap '' TERM; sleep 600 & echo $!; exit 3"]  # ignores a request
    with processes.running(command, log) as process:
        assert process.wait(timeout=30) == 3, "the program's own exit code"
        left = psutil.Process(int(log.read_text("utf-8")))
    assert gone([left])
