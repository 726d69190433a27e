"""`skillmatch train`: the loop on N Ray Train workers, with checkpoints, resume and a finished model directory."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import Config, with_whole_paths
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import ModelError
from skillmatch_ray.files import hash_files, hash_json, locate, write_json
from skillmatch_ray.model.matcher import GLOSSARY_FILE, Matcher, Towers
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.training.card import model_card
from skillmatch_ray.training.loop import BACKBONE, Loop, StepReport, TrainingModel
from skillmatch_ray.training.metrics_log import MetricsLog
from skillmatch_ray.training.negatives import existing
from skillmatch_ray.training.setup import build_loop, build_model, read_history, state_source
from skillmatch_ray.training.start import set_start
from skillmatch_ray.training.validation import Validator, check_name

METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "state.pt"

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainReport:
    """What a training run tells.

    Attributes:
        model: the model directory.
        fingerprint: of the model.
        steps: done.
        loss: of the last step.
        validation_map: MAP of the best state on the validation projects, None without any.
        validation: all its figures there, by name (`training.validation`).
        seconds: of the whole run; 0 where a finished model was found.
        reused: whether it was.
    """

    model: Path
    fingerprint: str
    steps: int
    loss: float
    validation_map: float | None
    validation: dict[str, float]
    seconds: float
    reused: bool = False


def train(
    config: Config,
    dataset: Dataset,
    store_dir: Path,
    model_dir: Path,
    run_dir: Path,
    *,
    progress: Progress = lambda _: None,
) -> TrainReport:
    """Train the head on the dataset's interactions and write the model directory.

    A run that was cut off goes on from its last checkpoint; a finished one with the same configuration
    and data is not repeated. Ray must be running.

    Args:
        config: model and training settings, and the glossary, which the model keeps.
        dataset: with projects, freelancers and interactions.
        store_dir: token states of every section of the training documents.
        model_dir: written at the end.
        run_dir: checkpoints and metrics.jsonl.
        progress: called with each new line of metrics.

    Raises:
        DatasetError: if the history is too small, or a token state is missing.
        ConfigError: if the settings do not fit together.
    """
    check_name(config.training.stop_metric)
    key = training_key(config, dataset)
    done = _finished(model_dir, key)
    if done:
        return done
    started = time.perf_counter()
    run_dir.mkdir(parents=True, exist_ok=True)
    with _followed(run_dir / METRICS_FILE, progress):
        state = _fit(config, dataset, store_dir, run_dir, key)
    report = _write_model(config, state, model_dir, key, time.perf_counter() - started)
    write_json(run_dir / "train.json", asdict(report))
    return report


def training_key(config: Config, dataset: Dataset) -> str:
    """Names a training run: equal keys give equal models."""
    data = hash_files([part for kind in _tables() for part in dataset.parts(kind)])
    settings = config.model_dump(mode="json", include={"seed", "backbone", "model", "training"})
    mined = config.training.mined_negatives
    key = [settings, data, hash_files([existing(mined)]) if mined else None]
    return hash_json([*key, read_glossary(config.glossary).fingerprint] if config.glossary else key)


def _tables() -> tuple[Any, ...]:
    from skillmatch_ray.dataset import FREELANCERS, INTERACTIONS, PROJECTS

    return FREELANCERS, PROJECTS, INTERACTIONS


def _finished(model_dir: Path, key: str) -> TrainReport | None:
    metrics = model_dir / "metrics.json"
    if not metrics.is_file():
        return None
    found = json.loads(metrics.read_text(encoding="utf-8"))
    if found.get("training_key") != key:
        return None
    return TrainReport(
        model_dir,
        found["fingerprint"],
        found["steps"],
        found["loss"],
        found["validation_map"],
        found["validation"],
        0.0,
        reused=True,
    )


def _fit(config: Config, dataset: Dataset, store_dir: Path, run_dir: Path, key: str) -> dict[str, Any]:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = config.training
    payload = {
        "config": _for_workers(config, run_dir).model_dump(mode="json"),
        "dataset": str(dataset.root.resolve()),
        "store": str(store_dir.resolve()),
        "metrics": str((run_dir / METRICS_FILE).resolve()),
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=payload,
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.use_gpu,
            resources_per_worker={"CPU": settings.cpus_per_worker},
        ),
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        run_config=RunConfig(
            name=f"head-{key[:12]}",
            storage_path=str((run_dir / "ray").resolve()),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise ModelError(f"training in {run_dir} ended without a checkpoint: see the Ray logs")
    with result.checkpoint.as_directory() as directory:
        state: dict[str, Any] = torch.load(Path(directory) / CHECKPOINT_FILE, weights_only=True)
    return state


def _for_workers(config: Config, run_dir: Path) -> Config:
    """The configuration with files named so that workers find them; the glossary is one beside the run."""
    if config.training.mined_negatives:
        existing(config.training.mined_negatives)
    file = run_dir.resolve() / GLOSSARY_FILE
    if config.glossary:
        read_glossary(config.glossary).save(file)
    return with_whole_paths(config).model_copy(update={"glossary": (str(file),) if config.glossary else ()})


def train_worker(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import ray.train.torch

    config = Config.model_validate(payload["config"])
    settings = config.training
    device = ray.train.torch.get_device() if settings.use_gpu else torch.device("cpu")
    context = ray.train.get_context()
    torch.set_num_threads(threads_for(context.get_world_size(), settings.threads_per_worker))
    history = read_history(Dataset(locate(payload["dataset"])), config)
    source, dim = state_source(config, Path(payload["store"]), str(device))
    validator = Validator(history, source)
    validator.check(settings.stop_metric)
    core, checkpoint = build_model(config, dim), ray.train.get_checkpoint()
    if settings.aligned_start and checkpoint is None:
        set_start(core, history, source)
    model = ray.train.torch.prepare_model(core.to(device), move_to_device=False)
    run = _Run(build_loop(config, history, model, source, device), validator)
    _restore(run, checkpoint)
    is_first = context.get_world_rank() == 0
    with MetricsLog(Path(payload["metrics"]), run.loop.step) if is_first else nullcontext() as log:
        while not run.finished:
            run.advance(on_step=lambda step: log.step(step) if log else None)
            if log and run.validated_now:
                log.validation(run.loop.step, run.last)
            _report(run, is_first=is_first)


class _Run:
    """A loop cut into stretches that end in a validation or a checkpoint, with the best state kept.

    Args:
        loop: what trains.
        validate: validation figures of a model by name, higher is better; none where nothing can be judged.
    """

    def __init__(self, loop: Loop, validate: Callable[[TrainingModel], dict[str, float]]) -> None:
        self.loop = loop
        self.validate = validate
        self.best: dict[str, float] = {}
        self.best_state: dict[str, Any] | None = None
        self.last: dict[str, float] = {}
        self.stale = 0
        self.loss = float("nan")
        self.validated_now = False

    @property
    def finished(self) -> bool:
        """All steps done, or no gain for `patience` validations."""
        settings = self.loop.settings
        return self.loop.step >= settings.steps or (settings.patience is not None and self.stale >= settings.patience)

    def advance(self, on_step: Callable[[StepReport], None]) -> None:
        """Train to the next validation or checkpoint."""
        settings, step = self.loop.settings, self.loop.step
        marks = [every * (step // every + 1) for every in (settings.validate_every, settings.checkpoint_every)]

        def follow(report: StepReport) -> None:
            self.loss = report.loss
            on_step(report)

        self.loop.run(min([settings.steps, *marks]), follow)
        self.validated_now = self.loop.step % settings.validate_every == 0 or self.loop.step >= settings.steps
        if self.validated_now:
            self._validate()

    def _validate(self) -> None:
        core, name = self.loop.core, self.loop.settings.stop_metric
        core.eval()
        self.last = self.validate(core)
        core.train()
        if not self.last or not self.best or self.last[name] > self.best[name]:
            self.best, self.stale = self.last, 0
            self.best_state = {name: value.cpu().clone() for name, value in core.trained_state().items()}
        else:
            self.stale += 1

    def state(self) -> dict[str, Any]:
        """All that a resume needs."""
        own = {"best": self.best, "best_state": self.best_state, "stale": self.stale, "loss": self.loss}
        return {"loop": self.loop.state(), **own}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.loop.load_state(state["loop"])
        self.best, self.best_state = state["best"], state["best_state"]
        self.stale, self.loss = state["stale"], state["loss"]


def _restore(run: _Run, checkpoint: Any) -> None:
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            run.load_state(torch.load(Path(directory) / CHECKPOINT_FILE, weights_only=True, map_location="cpu"))


def _report(run: _Run, *, is_first: bool) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as directory:
        checkpoint = None
        if is_first:
            torch.save(run.state(), Path(directory) / CHECKPOINT_FILE)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"step": run.loop.step, "loss": run.loss}, checkpoint=checkpoint)


@contextmanager
def _followed(path: Path, progress: Progress) -> Iterator[None]:
    """Hand each new line of a growing JSON Lines file to `progress`."""
    path.touch()
    done = threading.Event()

    def follow() -> None:
        with path.open(encoding="utf-8") as lines:
            lines.seek(0, 2)
            while True:
                ending = done.is_set()
                for line in lines:
                    progress(json.loads(line))
                if ending:
                    return
                done.wait(0.5)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _write_model(config: Config, state: dict[str, Any], model_dir: Path, key: str, seconds: float) -> TrainReport:
    backbone = Backbone.load(config.backbone, "cpu")
    best: dict[str, torch.Tensor] = state["best_state"]
    towers = Towers(config.model, backbone.dim)
    towers.load_state_dict({n.removeprefix("towers."): v for n, v in best.items() if n.startswith("towers.")})
    tuned = {n.removeprefix(BACKBONE): v for n, v in best.items() if n.startswith(BACKBONE)}
    glossary = read_glossary(config.glossary)
    matcher = Matcher(backbone.with_tuned(tuned) if tuned else backbone, towers, glossary=glossary)
    figures: dict[str, float] = state["best"]
    metrics = {
        "training_key": key,
        "fingerprint": matcher.fingerprint,
        "steps": int(state["loop"]["step"]),
        "loss": state["loss"],
        "validation_map": figures.get("map"),
        "validation": figures,
        "seconds": round(seconds, 1),
    }
    matcher.save(model_dir, {"metrics.json": metrics, "README.md": model_card(config, metrics)})
    return TrainReport(
        model_dir, matcher.fingerprint, metrics["steps"], state["loss"], figures.get("map"), figures, metrics["seconds"]
    )
