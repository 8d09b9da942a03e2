"""Make the study's runs: train an arm with a seed, score its checkpoints, keep a record.

A record, `<arm>-<seed>.json.gz`, holds all that the run's numbers follow from. A run with a record
is not made again, so the same command goes on where it was stopped or killed.
"""

import gzip
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

from helpers import evaluate, plots, profiles, train
from helpers.assets import ROOT, processes, whole_file, write_jsonl
from helpers.split import prepare_data
from helpers.study import tables
from helpers.study.arms import ARMS, BASE, Study, profile_of, rows_of, settings_of
from helpers.study.scorers import SCORERS


def folder_of(name: str, committed: bool = False) -> Path:
    """Where the records of a study are: made here, or committed with the kit."""
    return ROOT / (f"data/runs/study-{name}" if committed else f"runs/study-{name}/records")


def run_study(
    study: Study, records: Path, arms: tuple = (), seeds: tuple = (), root: str | Path = "runs"
) -> None:
    """Make every run that has no record yet: seed by seed, so that all arms can be compared early.
    Raises KitError as `train.finetune` does; what was made is kept."""
    profiles.check_device(study.profile)
    jobs = [(arm, seed) for seed in seeds or study.seeds for arm in arms or study.arms]
    missing = [job for job in jobs if not is_recorded(study, *job, records)]
    done = len(jobs) - len(missing)
    print(f"{done} of {len(jobs)} runs have a record, {len(missing)} to make.", flush=True)
    if not is_recorded(study, BASE, 0, records):
        run_base(study, records)
    # Leaving the block ends the workers, and a training ends with its worker.
    with multiprocessing.get_context("spawn").Pool(study.workers, _start, [study.workers]) as pool:
        made = pool.imap_unordered(_run_job, [(study, *job, records, root) for job in missing])
        for path in tqdm(made, total=len(missing), unit="run", disable=not missing):
            print(f"{path.name} recorded", flush=True)


def _start(workers: int) -> None:
    """In a worker: its share of the cores, no bars; Ctrl-C is for the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    sys.stderr = open(os.devnull, "w")


def _run_job(job: tuple) -> Path:
    return run_arm(*job)


def run_base(study: Study, records: Path) -> Path:
    """Score the untrained base model on the cases that every arm answers; keep both."""
    cases = prepare_data(study.profile)["cases"]
    write_jsonl(records / "cases.jsonl", cases)
    with TemporaryDirectory() as folder:
        run = train.Run(Path(folder))
        write_jsonl(run.path / "data" / "cases.jsonl", cases)
        write_jsonl(run.path / "data" / "dev.jsonl", [])  # the study chooses no checkpoint
        return _scored(study, BASE, 0, run, records)


def run_arm(study: Study, arm: str, seed: int, records: Path, root: str | Path = "runs") -> Path:
    """Train one arm in `<root>/<study's profile>/<arm>-<seed>/`, score it, keep its record.
    Raises KitError: as `train.finetune`, or the source has too few rows."""
    profile, data = profile_of(study, arm, seed), rows_of(study, arm, seed)
    run = train.finetune(profile, f"{profile.name}/{arm}-{seed}", data=data, root=root)
    base = tables.read_record(records / f"{BASE}-0.json.gz")
    for kind in ARMS[arm].scorers:  # step 0 is the base model, asked the same
        with whole_file(run.path / "scores" / f"step-000000.{kind}.json") as part:
            part.write_text(json.dumps(base["scores"][0][kind], ensure_ascii=False), "utf-8")
    return _scored(study, arm, seed, run, records, workers=1)


def _scored(study: Study, arm: str, seed: int, run: train.Run, records: Path, workers=None) -> Path:
    profile = profile_of(study, arm, seed)
    scorers = {name: SCORERS[name] for name in ARMS[arm].scorers}
    scores = evaluate.score_run(run, profile, scorers, workers)
    facts = {"number_format": profiles.dtype_of(profile), **processes.environment()}
    log = plots.training_frame(run.log()).reset_index().to_json(orient="columns")
    record = {"arm": arm, "seed": seed, **settings_of(study, arm, seed)}
    record |= {"manifest": run.manifest() if run.finished else facts, "log": json.loads(log)}
    record["scores"] = [score for score in scores if score["step"] or arm == BASE]
    text = json.dumps(record, ensure_ascii=False).replace(f"{ROOT}/", "")  # no path of this machine
    with whole_file(records / f"{arm}-{seed}.json.gz") as part:
        part.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))  # nor the time
    return records / part.name


def is_recorded(study: Study, arm: str, seed: int, records: Path) -> bool:
    """Whether that run has a record, made at the study's present size and settings."""
    path, settings = records / f"{arm}-{seed}.json.gz", settings_of(study, arm, seed)
    return path.exists() and settings.items() <= tables.read_record(path).items()
