"""The study: what the seed recipes claim, measured; and what mends it. `python -m helpers.study` (`make study`).

Every arm trains the same base model for the same optimizer steps, on rows drawn from the same dialogues, and differs
from the others in one thing. Every checkpoint answers the same held-out cases. One run is one arm with one seed; what
its numbers follow from is kept in one file, `<arm>-<seed>.json.gz`, and a run with such a file is not made again: the
same command goes on where it was stopped, or killed. `helpers.study_tables` and `study_figures` read these files.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from tqdm.auto import tqdm

from helpers import (
    assets,
    contrasts,
    curves,
    evaluate,
    finetune,
    hardware,
    manifest,
    storage,
    study_figures,
    study_tables,
)
from helpers.profiles import Profile
from helpers.study_arms import ARMS, BASE, STUDIES, Study, profile_of


def run_arm(study: Study, arm: str, seed: int, records: Path, root: str | Path = "runs") -> Path:
    """Train one arm with one seed, score its checkpoints, keep its record; whatever is there already is not made again.

    Raises:
        assets.AssetError, finetune.TrainingError: as `finetune.finetune`.
        ValueError: the source has too few rows, so that this arm would take fewer optimizer steps than others.
    """
    profile = profile_of(study, arm, seed)
    rows = len(finetune.prepare_data(profile)["train"])
    if rows < profile.train_rows:
        raise ValueError(f"{arm}: {profile.source} gives {rows} training rows of {profile.train_rows}, and every arm "
                         "has to take the same optimizer steps. Take a larger source, or fewer rows.")
    base = base_run(study, root)
    run = base if arm == BASE else finetune.finetune(profile, root=root)
    if run is not base:  # step 0 is the same model, asked the same: take over what the base run scored
        (run.path / "scores").mkdir(exist_ok=True)
        for kind in profile.measures:
            shutil.copy(base.path / "scores" / f"step-000000.{kind}.json", run.path / "scores")
    scores = evaluate.score_run(run, profile)
    facts = manifest.read(run.path) if run.finished else manifest.environment()
    log = json.loads(curves.training_frame(run.log()).reset_index().to_json(orient="columns"))  # null where nothing is
    return _write(records / f"{arm}-{seed}.json.gz", {
        "arm": arm, "seed": seed, "profile": _size(profile), "manifest": facts, "log": log,
        "scores": scores if run is base else scores[1:]})


def base_run(study: Study, root: str | Path = "runs") -> finetune.Run:
    """The run folder of the untrained base model, with the cases that every arm answers."""
    size = hashlib.sha256(json.dumps(_size(profile_of(study, BASE, 0))).encode("utf-8")).hexdigest()[:8]
    run = finetune.Run(assets.repo_root() / root / study.profile.name / f"{BASE}-{size}")
    if not (run.path / "data" / "cases.jsonl").exists():
        storage.write_jsonl(run.path / "data" / "cases.jsonl", finetune.prepare_data(study.profile)["cases"])
    return run


def _size(profile: Profile) -> dict:
    """What of a profile a run's numbers depend on, as JSON gives it back."""
    return json.loads(json.dumps({key: value for key, value in asdict(profile).items() if key != "scorers"}))


def is_recorded(study: Study, arm: str, seed: int, records: Path) -> bool:
    """Whether there is a record of that arm and seed, made at the study's present size and settings."""
    path = records / f"{arm}-{seed}.json.gz"
    return path.exists() and study_tables.read_record(path)["profile"] == _size(profile_of(study, arm, seed))


def _write(path: Path, record: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False).replace(f"{assets.repo_root()}/", "")
    partial = path.with_suffix(".partial")
    partial.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))  # no time in it: equal records, equal bytes
    os.replace(partial, path)
    return path


def run_study(study: Study, records: Path, arms: tuple = (), seeds: tuple = (), root: str | Path = "runs") -> None:
    """Make every run of a study that has no record yet: seed by seed, so that all arms can be compared early.

    Raises:
        assets.AssetError, finetune.TrainingError: as `finetune.finetune`; what was made is kept.
    """
    hardware.check_device(study.profile)
    jobs = [(arm, seed) for seed in seeds or study.seeds for arm in arms or study.arms]
    missing = [job for job in jobs if not is_recorded(study, *job, records)]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs have a record, {len(missing)} to make.", flush=True)
    if not is_recorded(study, BASE, 0, records):
        storage.write_jsonl(records / "cases.jsonl", base_run(study, root).cases)
        run_arm(replace(study, profile=replace(study.profile, scorers=study.workers)), BASE, 0, records, root)
    with (tqdm(total=len(missing), unit="run", disable=not missing) as bar,
          multiprocessing.get_context("spawn").Pool(study.workers, _start_worker, (study.workers,)) as pool):
        made = pool.imap_unordered(_run, [(study, *job, records, root) for job in missing])
        while bar.n < len(missing):
            try:
                path = made.next(timeout=5)
            except multiprocessing.TimeoutError:
                bar.set_postfix_str(finetune.sign_of_life(study.profile.name, root))
                continue
            bar.update()
            bar.write(f"{path.name} recorded")


def _run(arguments: tuple) -> Path:
    return run_arm(*arguments)


def _start_worker(workers: int) -> None:
    """A worker computes with its share of the cores, prints no bars, and ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the starter too, which ends its workers
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    sys.stderr = open(os.devnull, "w")  # bars and chatter: errors come back as exceptions

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def folder_of(name: str, committed: bool = False) -> Path:
    """Where the records of a study of that name are: made here, or committed with the kit."""
    place = f"data/runs/study-{name}" if committed else f"runs/study-{name}/records"
    return assets.repo_root() / place


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with a message where a run failed, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default=os.environ.get("KIT_PROFILE", "laptop"), help=", ".join(STUDIES))
    parser.add_argument("--arms", nargs="+", default=(), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", default=(), type=int)
    parser.add_argument("--keep", action="store_true", help="maintainers: commit to data/runs and figures")
    options = parser.parse_args(arguments)
    if options.study not in STUDIES:
        parser.error(f"no study {options.study!r}; choose one of {', '.join(STUDIES)}")
    study, records = STUDIES[options.study], folder_of(options.study)
    started = time.time()
    try:
        run_study(study, records, tuple(options.arms), tuple(options.seeds))
    except (assets.AssetError, finetune.TrainingError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    if options.keep:
        shutil.copytree(records, folder_of(options.study, committed=True), dirs_exist_ok=True)
    report(options.study, records, assets.repo_root() / "figures" if options.keep else records.parent / "figures")
    print(f"{(time.time() - started) / 60:.1f} minutes.")
    return 0


def report(name: str, records: Path, figures: Path) -> None:
    """Print a study's tables, say whether its numbers are those committed with the kit, and draw its figures."""
    kept = study_tables.read(records)
    print(study_tables.final(kept).to_string(), "\n")
    print(contrasts.table(kept).to_string(index=False), "\n")
    committed = folder_of(name, committed=True)
    if committed.exists() and committed != records:
        same, both = study_tables.same_numbers(kept, study_tables.read(committed))
        print(f"{same} of {both} runs have the same numbers as the committed ones.")
    for path in study_figures.draw_all(kept, figures, name):
        print(os.path.relpath(path, assets.repo_root()))


if __name__ == "__main__":
    sys.exit(main())
