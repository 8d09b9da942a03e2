"""The whole road with the real ms-swift and a tiny random model: train, interrupt, resume, reuse, score, draw."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT

from helpers import assets, curves, evaluate, finetune, inference, manifest, profiles, scoring

SMOKE = profiles.get("smoke")


@pytest.fixture(scope="module")
def run():
    return finetune.finetune(SMOKE)


def test_a_run_leaves_recipe_data_checkpoints_and_a_manifest(run):
    assert [checkpoint.step for checkpoint in run.checkpoints] == [0, 2, 4, 6]
    facts = manifest.read(run.path)
    assert facts["versions"]["ms-swift"] == "4.6.0" and facts["profile"]["seed"] == SMOKE.seed
    assert facts["data_sha256"]["train"] == assets.sha256_of(run.path / "data" / "train.jsonl")
    frame = curves.training_frame(run.log())
    assert list(frame.index) == list(range(7)) and frame.loss.notna().sum() == 6
    assert list(frame.eval_token_acc.dropna().index) == [0, 2, 4, 6], "step 0 is a point"


def test_the_same_request_reuses_the_run_and_another_recipe_does_not(run, capsys):
    assert finetune.finetune(SMOKE) == run
    assert "Reusing" in capsys.readouterr().out
    assert finetune.find(replace(SMOKE, recipe={**SMOKE.recipe, "learning_rate": 1e-5})).path != run.path
    assert finetune.find(replace(SMOKE, seed=7)).path != run.path


def test_training_changes_the_model_and_only_through_the_adapter(run):
    model = inference.Model(SMOKE)
    ask = [[{"role": "user", "content": "Hello"}]]
    first, tuned, again = model.ask(ask), model.ask(ask, run.checkpoints[-1].path), model.ask(ask)
    assert first == again and isinstance(tuned[0], str)
    with pytest.raises(assets.AssetError, match="no adapter"):
        model.ask(ask, run.path)


def test_replies_keep_their_order_and_tell_when_they_were_cut(run):
    model = inference.Model(SMOKE)
    requests = [[{"role": "user", "content": "x" * length}] for length in (5, 300, 40, 120)]
    together = model.ask(requests)
    assert together == [model.ask([request])[0] for request in requests]
    assert not any(reply.finished for reply in model.ask(requests, max_new_tokens=1))


def test_scores_are_kept_and_every_number_follows_from_them(run, capsys):
    scores = evaluate.score_run(run, SMOKE)
    capsys.readouterr()
    assert evaluate.score_run(run, SMOKE) == scores
    assert capsys.readouterr().out == f"Scored 0 parts, reused {2 * len(run.checkpoints)}.\n"
    cases = {row["id"]: scoring.case_of(row) for row in run.cases}
    for score in scores:
        assert [visit["id"] for visit in score["visits"]] == list(cases)
        assert len(score["bfcl"]) == SMOKE.bfcl
        for visit in score["visits"]:
            steps = [evaluate.step_of(step) for step in visit["transcript"]]
            assert scoring.judge(cases[visit["id"]], steps) == visit["judged"]
    frame = curves.score_frame(scores)
    line = frame[(frame.step == 0) & (frame.measure == "visit_success")].iloc[0]
    judged = [visit["judged"]["visit_success"] for visit in scores[0]["visits"]]
    assert (line.n, line.k) == (sum(one is not None for one in judged), sum(one is True for one in judged))


def test_figures_are_redrawn_byte_equal(run, tmp_path):
    scores = evaluate.score_run(run, SMOKE)
    paths = [curves.save(curves.accuracy_by_step(run.log(), scores, "t"), tmp_path / name / "f.png") for name in "ab"]
    plt.close("all")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "tuned, step 6" in curves.comparison(scores)


def test_an_interrupted_training_leaves_no_process_and_says_how_to_go_on(tmp_path):
    """That a resumed training ends with the same numbers is shown in test_study."""
    import psutil

    profile = replace(SMOKE, train_rows=60)
    code = (f"import signal; signal.signal(2, signal.default_int_handler)  # a shell may have switched it off\n"
            f"from dataclasses import replace; from helpers import finetune, profiles; p = profiles.get('smoke'); "
            f"finetune.finetune(replace(p, train_rows=60), root={str(tmp_path)!r})")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    run = finetune.find(profile, root=tmp_path)
    deadline = time.time() + 240
    while len(run.checkpoints) < 2 and time.time() < deadline:
        time.sleep(0.2)
    children = psutil.Process(parent.pid).children(recursive=True)
    with pytest.raises(finetune.TrainingError, match="is being trained by another process"):
        finetune.finetune(profile, root=tmp_path)
    parent.send_signal(2)  # what the stop button of a notebook does
    printed = parent.communicate(timeout=60)[0]
    assert "Interrupted after step" in printed and "to resume from there" in printed and not run.finished
    assert psutil.wait_procs(children, timeout=20)[1] == [] and len(run.checkpoints) >= 2


def test_a_failing_training_names_the_cause_and_the_log(tmp_path):
    broken = replace(SMOKE, recipe={**SMOKE.recipe, "no_such_setting": 1})
    with pytest.raises(finetune.TrainingError, match=r"remaining_argv.*\n.*train\.log") as caught:
        finetune.finetune(broken, root=tmp_path)
    assert not list(tmp_path.rglob("manifest.json")) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "seed"])
def test_without_a_gpu_nothing_is_fetched_for_one(name, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile = replace(profiles.get("smoke"), name=name, device=profiles.get(name).device)
    with pytest.raises(assets.AssetError, match="nvidia-smi"):
        finetune.finetune(profile, root=tmp_path)
    with pytest.raises(assets.AssetError, match="no GPU"):
        inference.Model(profile).ask([[{"role": "user", "content": "Hi"}]])


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_profiles_recipe_is_accepted_by_ms_swifts_own_parser(name, tmp_path):
    """In a child, as training does; the tiny model's folder stands in for the profile's own, which needs the hub."""
    profile = profiles.get(name)
    recipe = finetune.recipe_of(profile)
    data = tmp_path / "rows.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', "utf-8")
    settings = {**recipe, "model": str(assets.model_dir("smoke")), "dataset": [str(data)], "val_dataset": [str(data)],
                "external_plugins": [str(finetune.PLUGIN)], "output_dir": str(tmp_path / "out"), "add_version": False,
                "use_cpu": True}
    if name in ("gpu", "seed"):
        settings["torch_dtype"] = "float32"  # this machine has no GPU to refuse bf16 for
    code = ("import json, sys; from swift.arguments import SftArguments; from swift.utils import parse_args\n"
            "args, rest = parse_args(SftArguments, json.loads(sys.argv[1])); assert not rest, rest\n"
            "print(json.dumps({k: getattr(args, k) for k in ('learning_rate', 'agent_template', 'lora_rank', 'max_length')}))")
    argv = [part for key, value in settings.items()
            for part in [f"--{key}", *map(str, value if isinstance(value, list) else [value])]]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(argv)], capture_output=True, text=True, cwd=ROOT,
                          env=finetune.child_environment())
    assert done.returncode == 0, done.stderr[-1500:]
    assert json.loads(done.stdout.splitlines()[-1]) == {key: recipe[key] for key in (
        "learning_rate", "agent_template", "lora_rank", "max_length")}


def test_scoring_in_several_processes_gives_the_same_scores(run, tmp_path):
    import shutil

    alone = evaluate.score_run(run, SMOKE)
    copy = finetune.Run(tmp_path / "run")
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("scores"))
    assert evaluate.score_run(copy, replace(SMOKE, scorers=2)) == alone


def test_an_unknown_profile_is_named(monkeypatch):
    monkeypatch.setenv("KIT_PROFILE", "huge")
    with pytest.raises(ValueError, match="no profile 'huge'; choose one of smoke, laptop, gpu, seed"):
        profiles.current()
