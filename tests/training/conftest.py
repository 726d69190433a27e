"""A tiny history with its token states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.model.matcher import section_prefix
from skillmatch_ray.training.loop import Loop
from skillmatch_ray.training.setup import build_loop, build_model, read_history, state_source
from skillmatch_ray.training.train import TrainReport, train


@pytest.fixture(scope="session")
def tiny_config(tiny_settings: BackboneSettings) -> Config:
    return Config.model_validate(
        {
            "backbone": tiny_settings.model_dump(),
            "model": {"layers": 1, "heads": 4, "dropout": 0.1, "max_document_tokens": 96},
            "training": {
                "steps": 12,
                "learning_rate": 3e-4,
                "projects_per_step": 6,
                "groups_per_step": 2,
                "positives_per_project": 1,
                "negatives_per_project": 1,
                "validate_every": 4,
                "checkpoint_every": 3,
                "section_dropout": 0.2,
                "dtype": "float32",
                "loss": {"infonce": {"temperature": 0.02}},
                "threads_per_worker": 1,
                "cpus_per_worker": 0.5,
            },
        }
    )


@pytest.fixture(scope="session")
def tiny_store(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone, tiny_dataset: Path, tiny_config: Config
) -> Path:
    """Token states of all documents of the tiny dataset."""
    store = TokenStateStore(tmp_path_factory.mktemp("states"), tiny_backbone.fingerprint, tiny_backbone.dim)
    dataset = Dataset(tiny_dataset)
    documents = [*dataset.projects(), *dataset.freelancers()]
    texts = {section_prefix(d.kind, tiny_config.backbone) + s.text: None for d in documents for s in d.sections()}
    store.add(list(texts), tiny_backbone.encode(list(texts)))
    return store.root


@pytest.fixture
def make_loop(tiny_config: Config, tiny_dataset: Path, tiny_store: Path) -> Callable[..., Loop]:
    """Build a loop, with settings of training and model changed as wanted."""

    def make(model: dict[str, Any] | None = None, **training: Any) -> Loop:
        torch.set_num_threads(1)
        config = tiny_config.model_copy(
            update={
                "training": tiny_config.training.model_copy(update=training),
                "model": tiny_config.model.model_copy(update=model or {}),
            }
        )
        return loop_of(config, tiny_dataset, tiny_store)

    return make


def loop_of(config: Config, dataset: Path, store: Path) -> Loop:
    """The loop that a training worker would run."""
    source, dim = state_source(config, store)
    history = read_history(Dataset(dataset), config)
    return build_loop(config, history, build_model(config, dim), source, torch.device("cpu"))


class Runs:
    """Trains in a directory, with settings of training changed as wanted."""

    def __init__(self, config: Config, dataset: Path, store: Path, directory: Path) -> None:
        self.config = config
        self.dataset = dataset
        self.store = store
        self.directory = directory

    def __call__(self, name: str, **training: Any) -> tuple[TrainReport, Path, list[dict[str, Any]]]:
        """Report, model directory and metrics of a run, whose own directory is `run-NAME`."""
        config = self.config.model_copy(update={"training": self.config.training.model_copy(update=training)})
        model, run_dir = self.directory / name, self.directory / f"run-{name}"
        report = train(config, Dataset(self.dataset), self.store, model, run_dir)
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return report, model, lines


@pytest.fixture
def run(ray_session: None, tiny_config: Config, tiny_dataset: Path, tiny_store: Path, tmp_path: Path) -> Runs:
    return Runs(tiny_config, Path(tiny_dataset), Path(tiny_store), tmp_path)


@dataclass(frozen=True)
class WholeRun:
    """One uninterrupted run of one worker, with which others are compared."""

    runs: Runs
    settings: dict[str, Any]
    report: TrainReport
    model: Path
    lines: list[dict[str, Any]]


@pytest.fixture(scope="session")
def whole(
    ray_session: None,
    tiny_config: Config,
    tiny_dataset: Path,
    tiny_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> WholeRun:
    runs = Runs(tiny_config, Path(tiny_dataset), Path(tiny_store), tmp_path_factory.mktemp("whole"))
    settings = {"steps": 8, "checkpoint_every": 2, "validate_every": 4}
    return WholeRun(runs, settings, *runs("whole", **settings))
