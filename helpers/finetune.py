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
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import psutil
import yaml

from helpers import assets, canonical, corpus, hardware, manifest, sources, splits
from helpers.profiles import Profile

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
        """Step 0 and every saved checkpoint, by step."""
        saved = sorted(self.path.glob("swift/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        return [Checkpoint(0, None), *(Checkpoint(int(path.name.split("-")[1]), path) for path in saved)]

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return (self.path / "manifest.json").exists()

    @property
    def cases(self) -> list[dict]:
        """The held-out canonical rows that belong to this run's split."""
        return corpus.read_jsonl(self.path / "data" / "cases.jsonl")

    def log(self) -> list[dict]:
        """ms-swift's log records so far, one per logging or evaluation step."""
        path = self.path / "swift" / "logging.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in records if "global_step/max_steps" in record]


def prepare_data(profile: Profile) -> dict[str, list[dict]]:
    """Training rows, evaluation rows and held-out cases of a profile, drawn with its seed.

    Returns {"train", "eval"}: training rows in the profile's shape; {"cases"}: canonical held-out rows, one user
    turn each. No tool of "eval" or "cases" occurs in a prompt of "train".
    """
    rows, _ = sources.split_rejected(sources.read_rows(assets.dataset_file(profile.source)))
    split = splits.by_tool(rows)
    train, heldout = (_drawn(part, profile) for part in (split.train, split.heldout))
    single = [row for row in heldout if len(corpus.turns_of(row)) == 1]
    calling = [row for row in single if canonical.calls_of(row["messages"])]
    silent = [row for row in single if not canonical.calls_of(row["messages"])]
    few = profile.visits // 5  # one case in five needs no tool
    return {"train": list(islice(corpus.render_rows(train, profile.shape), profile.train_rows)),
            "eval": list(islice(corpus.render_rows(single[::-1], profile.shape), profile.eval_rows)),
            "cases": calling[:profile.visits - few] + silent[:few]}


def _drawn(rows: list[dict], profile: Profile) -> list[dict]:
    """Rows the profile can use, shuffled: its languages, and prompts that are short enough."""
    usable = [row for row in rows if canonical.row_language(row) in profile.languages
              and len(row["tools"]) <= profile.max_tools
              and len(json.dumps(row, ensure_ascii=False)) <= profile.max_chars]
    random.Random(profile.seed).shuffle(usable)
    return usable


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
        assets.AssetError: model or data cannot be had.
        TrainingError: ms-swift failed; the log is named.
    """
    data, recipe = prepare_data(profile), recipe_of(profile)
    run = _run_of(profile, recipe, data, root)
    shown = os.path.relpath(run.path, assets.repo_root())
    if run.finished:
        print(f"Reusing the finished run {shown} ({len(run.checkpoints) - 1} checkpoints).")
        return run
    started = time.time()
    model = assets.model_dir(profile.model)
    files = {name: run.path / "data" / f"{name}.jsonl" for name in data}
    for name, path in files.items():
        corpus.write_jsonl(path, data[name])
    last = run.checkpoints[-1]
    print(f"{'Resuming' if last.path else 'Training'} {shown}" + (f" from step {last.step}." if last.path else "."))
    _write_recipe(run, {"model": str(model), "dataset": [str(files["train"])], "val_dataset": [str(files["eval"])],
                        "external_plugins": [str(PLUGIN)], "output_dir": str(run.path / "swift"),
                        "add_version": False, "load_from_cache_file": False, "split_dataset_ratio": 0, **recipe,
                        **({"resume_from_checkpoint": str(last.path)} if last.path else {})})
    _train(run, watch)
    manifest.write(run.path, profile=asdict(profile), recipe=recipe, wall_seconds=round(time.time() - started),
                   resumed_from=last.step, data_sha256={name: assets.sha256_of(path) for name, path in files.items()},
                   metrics=run.log()[-3:])
    return run


def find(profile: Profile, root: str | Path = "runs") -> Run:
    """The run folder that `finetune` would use, finished or not."""
    return _run_of(profile, recipe_of(profile), prepare_data(profile), root)


def _run_of(profile: Profile, recipe: dict, data: dict, root: str | Path) -> Run:
    text = json.dumps([profile.model, recipe, data], sort_keys=True, ensure_ascii=False)
    fingerprint = hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
    return Run(assets.repo_root() / root / profile.name / f"{profile.shape}-{fingerprint}")


def _write_recipe(run: Run, settings: dict) -> None:
    (run.path / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), "utf-8")


def _train(run: Run, watch: Callable | None) -> None:
    """Run `swift sft` on the run's recipe; the child's end frees its memory, and its interruption loses nothing."""
    command = [sys.executable, "-m", "swift.cli.main", "sft", str(run.path / "recipe.yaml")]
    with open(run.path / "train.log", "a", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=child_environment())
        try:
            while child.poll() is None:
                time.sleep(1)
                if watch:
                    watch(run.log())
        except KeyboardInterrupt:
            print(f"Interrupted after step {run.checkpoints[-1].step}; run this again to resume from there.")
            raise
        finally:
            _stop(child)
    if child.returncode:
        raise TrainingError(f"training stopped with exit code {child.returncode}: {_cause(run.path / 'train.log')}\n"
                            f"Whole log: {run.path / 'train.log'}. Running the same again resumes.") from None


def _stop(child: subprocess.Popen) -> None:
    """End the child and its children: ms-swift's command line starts the trainer as a process of its own."""
    if child.poll() is None:
        processes = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        for process in processes:
            process.terminate()
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()
        child.wait()


def child_environment() -> dict:
    """The environment for ms-swift's processes: local models are never looked up on a hub, so no waiting offline; and
    threads that wait for others sleep, which halves the time where another program wants a core."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "HF_HUB_OFFLINE": "1", "MODELSCOPE_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def _cause(log: Path) -> str:
    """The last line of a log that names an error."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no output")
