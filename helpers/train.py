"""A recipe → `swift sft` in a child process → a run folder, `<root>/<name>/`.

Written first: profile.json; no other profile can use the folder. Then data/ (train, eval, dev,
cases), recipe.yaml (`swift sft recipe.yaml` repeats it by hand), swift/ (ms-swift's own), train.log
(what it printed). Last: manifest.json: how the run was made, and that it is finished.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from filelock import FileLock, Timeout

from helpers import assets, convert
from helpers.assets import processes
from helpers.profiles import Profile, check_device, dtype_of
from helpers.split import prepare_data

PLUGIN = Path(__file__).with_name("swift_plugin.py")


class Checkpoint(NamedTuple):
    """A point of a run: its step and its adapter's folder; step 0 is the base model (path None)."""

    step: int
    path: Path | None


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Step 0, then every complete checkpoint: trainer_state.json is its last file."""
        states = self.path.glob("swift/checkpoint-*/trainer_state.json")
        saved = {int(path.parent.name.split("-")[1]): path.parent for path in states}
        return [Checkpoint(0, None), *(Checkpoint(step, saved[step]) for step in sorted(saved))]

    @property
    def finished(self) -> bool:
        """Whether the training reached its end."""
        return (self.path / "manifest.json").exists()

    @property
    def cases(self) -> list[dict]:
        """The held-out canonical rows that this run reports on."""
        return assets.read_jsonl(self.path / "data" / "cases.jsonl")

    @property
    def dev(self) -> list[dict]:
        """Other held-out rows: what is chosen is chosen by them."""
        return assets.read_jsonl(self.path / "data" / "dev.jsonl")

    def manifest(self) -> dict:
        """How a finished run was made."""
        return json.loads((self.path / "manifest.json").read_text("utf-8"))

    def log(self) -> list[dict]:
        """ms-swift's log records so far, one for each logging or evaluation step."""
        path = self.path / "swift" / "logging.jsonl"
        text = path.read_text("utf-8") if path.exists() else ""
        records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [record for record in records if "global_step/max_steps" in record]


def recipe_of(profile: Profile) -> dict:
    """The profile's settings for ms-swift, without the paths of a run."""
    form = convert.FORMATS[profile.format]
    names = {"model_type": profile.model_type, "template": profile.template}
    names |= {"agent_template": form.agent_template, "loss_scale": form.loss_scale}
    names["torch_dtype"] = dtype_of(profile)
    names |= {"attn_impl": "shared_prefix"} if profile.pack else {}  # see swift_plugin
    cpu = {"use_cpu": True, "dataloader_num_workers": 0}
    # LoRA's matrices in the model's number format, without autocast: casting to and fro takes a
    # fifth of a step
    cpu |= {"lora_dtype": names["torch_dtype"], "bf16": False}
    cpu = cpu if profile.device == "cpu" else {}
    seeds = {"seed": profile.seed, "data_seed": profile.seed}
    # check_model asks ModelScope's hub about the folder, which has been checked by sha256
    always = {"eval_on_start": True, "check_model": False, "report_to": "none"}
    return {
        **names,
        **profile.recipe,
        **(cpu if profile.device == "cpu" else {}),
        **seeds,
        **always,
    }


def open_run(profile: Profile, name: str | None = None, root: str | Path = "runs") -> Run:
    """The run `<root>/<name or profile.name>`: finished, begun, or not begun yet.
    Raises KitError where it was begun with another profile or in another number format.
    """
    run = Run(assets.ROOT / root / (name or profile.name))
    path, asked = run.path / "profile.json", _stored(profile)
    stored = path.read_text("utf-8") if path.exists() else asked
    facts = [json.loads(text) for text in (stored, asked)]
    old, new = ({**fact, **fact["recipe"], "recipe": None, "torch_dtype": None} for fact in facts)
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    if changed:
        lines = [f"{key}: there {old.get(key)!r}, here {new.get(key)!r}" for key in changed]
        if "number_format" in changed:  # torch_dtype is not compared: "auto" may stand for the same
            setting = f'profiles.get("{profile.name}", torch_dtype="{old["number_format"]}")'
            lines.append(f"(to go on in that number format: {setting})")
        told = "\n  ".join([f"{run.path} holds a run of another profile:", *lines])
        raise assets.KitError(f'{told}\nGive this run a name (name="…"), or delete that folder.')
    return run


def _stored(profile: Profile) -> str:
    return json.dumps({**asdict(profile), "number_format": dtype_of(profile)}, indent=1)


def finetune(profile: Profile, name=None, *, data=None, watch=None, root="runs") -> Run:
    """Train the profile's recipe in the folder `<root>/<name or profile.name>` of the repository.
    A finished run is only opened; an interrupted one goes on from its last checkpoint.

    data: {"train", "eval", "cases"}, perhaps "dev": rows; None takes those of `split.prepare_data`.
    watch: called about once a second with all log records, to draw a live curve for example.
    Raises KitError: the folder holds another run, or is in use; model, data or GPU cannot be had;
    ms-swift failed (the message names the log).
    """
    run = open_run(profile, name, root)
    if run.finished:
        if data:
            _data_files(run, profile, data)
        last = run.checkpoints[-1].step
        print(f"Reusing the finished run {run.path.name!r}, trained to step {last}.")
        return run
    check_device(profile)
    model, recipe, started = assets.model_dir(profile.model), recipe_of(profile), time.time()
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run.path / ".lock").acquire(timeout=0)
    except Timeout:
        what = f"{run.path} is being trained by another process: wait for it, or stop it."
        raise assets.KitError(what) from None
    with lock:
        if open_run(profile, name, root).finished:  # another process was quicker
            return finetune(profile, name, data=data, root=root)
        last = run.checkpoints[-1]
        with assets.whole_file(run.path / "profile.json") as part:
            part.write_text(_stored(profile), "utf-8")
        files = _data_files(run, profile, data)
        settings = {"model": str(model), "external_plugins": [str(PLUGIN)], **recipe}
        settings |= {"dataset": [str(files["train"])], "val_dataset": [str(files["eval"])]}
        settings |= {"output_dir": str(run.path / "swift"), "add_version": False}
        settings |= {"load_from_cache_file": False, "split_dataset_ratio": 0}
        settings |= {"resume_from_checkpoint": str(last.path)} if last.path else {}
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (run.path / "recipe.yaml").write_text(text, "utf-8")
        print(f"Training {run.path.name!r} from step {last.step}.")
        _train(run, watch)
        facts = {"name": run.path.name, "profile": asdict(profile), "recipe": recipe}
        facts |= {"number_format": recipe["torch_dtype"], "model": profile.model}
        facts |= {"wall_seconds": round(time.time() - started), "resumed_from": last.step}
        sums = {name: assets.sha256_of(path) for name, path in files.items()}
        facts |= {"data_sha256": sums, "log_end": run.log()[-3:], **processes.environment()}
        with assets.whole_file(run.path / "manifest.json") as part:
            part.write_text(json.dumps(facts, indent=1, ensure_ascii=False), "utf-8")
    return run


def _data_files(run: Run, profile: Profile, data: dict | None) -> dict[str, Path]:
    """The run's data files; written once, so that a resumed run goes on with the same rows."""
    names = ("train", "eval", "dev", "cases")
    files = {name: run.path / "data" / f"{name}.jsonl" for name in names}
    if not all(path.exists() for path in files.values()):
        data = data or prepare_data(profile)
        for name, path in files.items():
            assets.write_jsonl(path, data.get(name, []))
    if data and any(assets.read_jsonl(path) != data.get(name, []) for name, path in files.items()):
        raise assets.KitError(f"{run.path} was begun with other data: give this run another name.")
    return files


def _train(run: Run, watch) -> None:
    """`swift sft recipe.yaml` as a child: its end frees its memory, stopping it loses nothing."""
    command = [sys.executable, "-m", "swift.cli.main", "sft", run.path / "recipe.yaml"]
    log = run.path / "train.log"
    with processes.running(command, log, processes.child_environment(), append=True) as child:
        try:
            while child.poll() is None:
                time.sleep(1)
                if watch:
                    watch(run.log())
        except KeyboardInterrupt:
            step = run.checkpoints[-1].step
            print(f"Interrupted after step {step}; run this again to resume from there.")
            raise
    if child.returncode:
        cause = f"training stopped with exit code {child.returncode}: {processes.last_error(log)}"
        raise assets.KitError(f"{cause}\nWhole log: {log}. Running the same again resumes.")
