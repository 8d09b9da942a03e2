"""A recipe → `swift sft` in a child process → a run folder with a manifest.

A run folder is `runs/<profile>/<shape>-<fingerprint>/`, where the fingerprint covers recipe, data and model: the same
request finds the same folder, finished (then nothing is trained), interrupted (then it resumes) or new. It holds

    recipe.yaml      what ms-swift was told; `swift sft recipe.yaml` repeats it by hand
    data/            train.jsonl, eval.jsonl (training rows) and cases.jsonl (held-out canonical rows)
    swift/           ms-swift's own output: logging.jsonl and checkpoint-N
    train.log        everything the child printed
    manifest.json    written last: versions, hardware, data sha256, wall time, final metrics
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from helpers import assets, corpus, hardware, manifest, storage
from helpers.profiles import Profile
from helpers.supervisor import cause_in, supervised
from helpers.training_set import prepare_data

PLUGIN = Path(__file__).with_name("swift_plugin.py")


class TrainingError(RuntimeError):
    """The training process failed; the message names the cause and the log."""


@dataclass(frozen=True)
class Checkpoint:
    """A point of a run: optimizer `step` and the adapter's folder; step 0 is the base model, without adapter."""

    step: int
    path: Path | None


@dataclass(frozen=True)
class Run:
    """A run folder; `checkpoints` starts with step 0."""

    path: Path

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Step 0 and every checkpoint that was saved whole, by step: its last file is trainer_state.json."""
        saved = {int(path.parent.name.split("-")[1]): path.parent
                 for path in self.path.glob("swift/checkpoint-*/trainer_state.json")}
        return [Checkpoint(0, None), *(Checkpoint(step, saved[step]) for step in sorted(saved))]

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return (self.path / "manifest.json").exists()

    @property
    def cases(self) -> list[dict]:
        """The held-out canonical rows that belong to this run's split."""
        return storage.read_jsonl(self.path / "data" / "cases.jsonl")

    def log(self) -> list[dict]:
        """ms-swift's log records so far, one per logging or evaluation step."""
        path = self.path / "swift" / "logging.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in records if "global_step/max_steps" in record]


def recipe_of(profile: Profile) -> dict:
    """The ms-swift settings of a profile, without the paths of a run: what the learner sees and may change."""
    shape = corpus.SHAPES[profile.shape]
    cpu = {"use_cpu": True, "dataloader_num_workers": 0} if profile.device == "cpu" else {}
    return {"model_type": profile.model_type, "template": profile.template, "torch_dtype": hardware.dtype_of(profile),
            "agent_template": shape.agent_template, "loss_scale": shape.loss_scale, **profile.recipe, **cpu,
            "eval_on_start": True, "seed": profile.seed, "data_seed": profile.seed, "report_to": "none"}


def finetune(profile: Profile, watch: Callable[[list[dict]], None] | None = None, root: str | Path = "runs") -> Run:
    """Train the profile's recipe, or find it trained: the same request reuses its finished run, or resumes it.

    Args:
        watch: called with all log records about once a second while training (a live curve, say).
        root: folder of all runs, relative to the repository.

    Raises:
        assets.AssetError: model, data or GPU cannot be had.
        TrainingError: ms-swift failed; the log is named.
    """
    data, recipe = prepare_data(profile), recipe_of(profile)
    run = _run_of(profile, recipe, data, root)
    if run.finished:
        print(f"Reusing the finished run {os.path.relpath(run.path, assets.repo_root())} "
              f"({len(run.checkpoints) - 1} checkpoints).")
        return run
    hardware.check_device(profile)
    model = assets.model_dir(profile.model)
    with _alone(run):
        _finetune(run, profile, recipe, data, model, watch)
    return run


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Hold the run folder's lock: two trainings in one folder would spoil each other."""
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.path / ".lock", timeout=0):
            yield
    except Timeout:
        raise TrainingError(f"{run.path} is being trained by another process: wait for it, or stop it.") from None


def _finetune(run: Run, profile: Profile, recipe: dict, data: dict, model: Path, watch: Callable | None) -> None:
    started = time.time()
    files = {name: run.path / "data" / f"{name}.jsonl" for name in data}
    for name, path in files.items():
        storage.write_jsonl(path, data[name])
    last = run.checkpoints[-1]
    print(f"{'Resuming' if last.path else 'Training'} {os.path.relpath(run.path, assets.repo_root())}"
          + (f" from step {last.step}." if last.path else "."))
    _write_recipe(run, {"model": str(model), "dataset": [str(files["train"])], "val_dataset": [str(files["eval"])],
                        "external_plugins": [str(PLUGIN)], "output_dir": str(run.path / "swift"),
                        "add_version": False, "load_from_cache_file": False, "split_dataset_ratio": 0, **recipe,
                        **({"resume_from_checkpoint": str(last.path)} if last.path else {})})
    _train(run, watch)
    manifest.write(run.path, profile=asdict(profile), recipe=recipe, wall_seconds=round(time.time() - started),
                   resumed_from=last.step, data_sha256={name: assets.sha256_of(path) for name, path in files.items()},
                   metrics=run.log()[-3:])


def find(profile: Profile, root: str | Path = "runs") -> Run:
    """The run folder that `finetune` would use, finished or not."""
    return _run_of(profile, recipe_of(profile), prepare_data(profile), root)


def sign_of_life(name: str, root: str | Path = "runs") -> str:
    """What is going on in the run folders of a profile's name: the training step and the time to go, or the newest
    score; "" if nothing changed in the last 90 seconds."""
    folder = assets.repo_root() / root / name
    files = [*folder.glob("*/swift/logging.jsonl"), *folder.glob("*/scores/*.json")]
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None or time.time() - newest.stat().st_mtime > 90:
        return ""
    if newest.suffix == ".json":
        return f"scored {newest.stem}"
    log = Run(newest.parent.parent).log()
    return f"training {log[-1].get('global_step/max_steps')}, {log[-1].get('remaining_time')} to go" if log else ""


def _run_of(profile: Profile, recipe: dict, data: dict, root: str | Path) -> Run:
    text = json.dumps([profile.model, recipe, data], sort_keys=True, ensure_ascii=False)
    fingerprint = hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
    return Run(assets.repo_root() / root / profile.name / f"{profile.shape}-{fingerprint}")


def _write_recipe(run: Run, settings: dict) -> None:
    (run.path / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), "utf-8")


def _train(run: Run, watch: Callable | None) -> None:
    """Run `swift sft` on the run's recipe; the child's end frees its memory, and its interruption loses nothing."""
    command = [sys.executable, "-m", "swift.cli.main", "sft", str(run.path / "recipe.yaml")]
    log = run.path / "train.log"
    with supervised(command, log, child_environment(), append=True) as child:
        try:
            while child.poll() is None:
                time.sleep(1)
                if watch:
                    watch(run.log())
        except KeyboardInterrupt:
            print(f"Interrupted after step {run.checkpoints[-1].step}; run this again to resume from there.")
            raise
    if child.returncode:
        raise TrainingError(f"training stopped with exit code {child.returncode}: {cause_in(log)}\n"
                            f"Whole log: {log}. Running the same again resumes.") from None


def child_environment() -> dict:
    """The environment for ms-swift's processes: local models are never looked up on a hub, so no waiting offline; and
    threads that wait for others sleep, which halves the time where another program wants a core."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "HF_HUB_OFFLINE": "1", "MODELSCOPE_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
