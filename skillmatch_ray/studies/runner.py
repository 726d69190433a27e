"""Run a study: one Ray task for each variant and seed, one file for each result; what is there already is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from skillmatch_ray.config import Config, changed, merged
from skillmatch_ray.dataset import TABLES, Dataset
from skillmatch_ray.files import hash_files, hash_json, owner_lock, read_json, write_json
from skillmatch_ray.pipeline.session import ensure_ray, threads_for
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.studies.measure import train_and_rank
from skillmatch_ray.studies.study import FULL, SMALL, Places, Run, Study, Variant

Advance = Callable[[float, float, str], None]

FORMAT = 2
"""Of a result; raised where its fields or their meaning change, so that older results are run again."""
CPUS_PER_RUN = 2
"""Logical CPUs of one run: a local Ray counts every core twice, so that runs fill the cores with one thread each."""


@dataclass(frozen=True)
class Job:
    """One run that is wanted.

    Attributes:
        study: it belongs to.
        variant: of the study.
        seed: of the run.
        config: resolved, seed and overrides of the variant included.
        places: of files.
        key: names everything that decides the result.
    """

    study: Study
    variant: Variant
    seed: int
    config: Config
    places: Places
    key: str

    @property
    def path(self) -> Path:
        """Where the result lies."""
        return self.places.out / "runs" / f"{self.variant.name}-{self.seed}.json"

    def finished(self) -> Run | None:
        """The result, if it is there and of this very job."""
        if not self.path.is_file():
            return None
        content = read_json(self.path)
        return Run(**content["run"]) if content["key"] == self.key else None

    def execute(self) -> Run:
        """Do it and write the result."""
        import torch

        every_core = threads_for(1, None) if self.study.alone else 1
        torch.set_num_threads(self.config.training.threads_per_worker or every_core)
        measure = self.study.measure or train_and_rank
        run = measure(self.study, self.variant, self.config, self.seed, self.places)
        write_json(self.path, {"key": self.key, "run": asdict(run)})
        return run


def study_base(study: Study, *, full: bool) -> dict[str, Any]:
    """The settings that a study starts from, below those that the user gives."""
    return merged(FULL if full else SMALL, study.base)


def plan(study: Study, config: Config, places: Places, seeds: int) -> list[Job]:
    """Every job of a study, variants in order, seeds from `config.seed` on."""
    data = hash_files([part for kind in TABLES for part in Dataset(places.dataset).parts(kind)])
    model = read_json(places.model / "config.json")["fingerprint"] if places.model else None
    jobs = []
    for variant in study.variants:
        for seed in study.seeds_of(variant, config.seed, seeds):
            own = changed(config, {**variant.overrides, "seed": seed})
            key = hash_json([FORMAT, study.name, variant.name, repr(variant.change), settings_of(own), data, model])
            jobs.append(Job(study, variant, seed, own, places, key))
    return jobs


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that can change a figure; not those of speed or place."""
    speed = {"workers", "cpus_per_worker", "threads_per_worker", "use_gpu"}
    found = config.model_dump(
        mode="json",
        include={"seed": True, "backbone": True, "model": True, "training": True},
        exclude={"training": speed, "backbone": {"token_budget"}},
    )
    return found | ({"glossary": read_glossary(config.glossary).fingerprint} if config.glossary else {})


def run_jobs(jobs: Sequence[Job], progress: Advance = lambda *_: None) -> list[Run]:
    """Results of all jobs, in their order; those that are not finished become Ray tasks.

    Raises:
        SkillmatchError: the first that a run raised; results of other runs are kept.
    """
    found = [job.finished() for job in jobs]
    missing = [i for i, run in enumerate(found) if run is None]
    progress(len(jobs) - len(missing), len(jobs), "runs found")
    done: Mapping[int, Run] = _run_with_ray([jobs[i] for i in missing], progress) if missing else {}
    fresh = {place: done[n] for n, place in enumerate(missing)}
    return [fresh[i] if run is None else run for i, run in enumerate(found)]


def _run_with_ray(jobs: Sequence[Job], progress: Advance) -> dict[int, Run]:
    import ray

    cpus = ensure_ray(jobs[0].config.ray)
    execute = ray.remote(_execute)
    pending = {}
    for n, job in enumerate(jobs):
        resources: dict[str, Any] = {"num_cpus": cpus if job.study.alone else min(CPUS_PER_RUN, cpus)}
        if job.config.training.use_gpu:
            resources["num_gpus"] = 1
        pending[execute.options(max_retries=1, **resources).remote(job)] = n
    done: dict[int, Run] = {}
    while pending:
        (ready, *_), _ = ray.wait(list(pending), num_returns=1)
        n = pending.pop(ready)
        done[n] = ray.get(ready)
        progress(len(done), len(jobs), f"{jobs[n].variant.name}, seed {jobs[n].seed}: {done[n].seconds:.0f} s")
    return done


def _execute(job: Job) -> Run:
    return job.execute()


@dataclass(frozen=True)
class Outcome:
    """A study that has been run.

    Attributes:
        study: what was asked.
        runs: all of them.
        config: the base that variants start from.
        places: of files.
        seeds: of headline variants.
        full: whether `--full` was given.
        seconds: wall clock of this call; runs found on disk cost nothing.
        fresh: runs of this call.
    """

    study: Study
    runs: list[Run]
    config: Config
    places: Places
    seeds: int
    full: bool
    seconds: float = 0.0
    fresh: int = 0


def run_study(
    study: Study, config: Config, places: Places, *, seeds: int, full: bool = False, progress: Advance = lambda *_: None
) -> Outcome:
    """Run what is missing of a study. Token states of the dataset must be cached.

    Args:
        study: what is asked.
        config: resolved from `study_base`.
        places: of files.
        seeds: of headline variants.
        full: said on the page.
        progress: called with (runs done, runs, note).

    Raises:
        LockedError: if another process is at the same study in the same place.
        SkillmatchError: the first that a run raised.
    """
    started = time.perf_counter()
    jobs = plan(study, config, places, seeds)
    with owner_lock(places.out / ".lock", f"skillmatch study {study.name}"):
        fresh = sum(job.finished() is None for job in jobs)
        runs = run_jobs(jobs, progress)
    outcome = Outcome(study, runs, config, places, seeds, full)
    return replace(outcome, seconds=time.perf_counter() - started, fresh=fresh)
