"""`skillmatch quickstart`: from nothing to a match, through the same stages that the other verbs run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from skillmatch_ray.config import Config
from skillmatch_ray.console import console, progress_bar
from skillmatch_ray.dataset import INTERACTIONS, QRELS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.files import hash_json, owner_lock, read_json, write_json
from skillmatch_ray.losses.weighted_sum import build_loss
from skillmatch_ray.matching import open_engine
from skillmatch_ray.relations import Relations
from skillmatch_ray.sample.generator import write_sample
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.split import SAMPLE_FILE
from skillmatch_ray.stages import cache_states, encode_vectors, evaluate_model, index_vectors, train_model
from skillmatch_ray.validate import validate_dataset
from skillmatch_ray.workspace import Workspace, provenance, versions

LEAST_TRAINING_PROJECTS: Final = 30
"""Fewer projects with a positive than this teach nothing; the sample then does the teaching."""

QUICKSTART_BASE: Final = {"model": {"layers": 0}}
"""What differs from the general defaults: on the sample's validation projects the learned section weights, type
embeddings and linear map do as well alone as below a transformer layer, which takes a hundred times as long."""

EXAMPLE_BRIEFS: Final = (
    Project(
        project_id="example-en",
        title="Help for our shop's front end",
        description=(
            "Our online shop is slow on phones. You rebuild the product pages as reusable React components, "
            "write tests and look after accessibility. Two months, remote."
        ),
        skills=("React", "accessibility audit"),
        language="en",
    ),
    Project(
        project_id="example-fr",
        title="Renfort pour la clôture annuelle",
        description=(
            "PME industrielle, nous cherchons une personne pour préparer le bilan, rapprocher les comptes et "
            "mettre en place un suivi de trésorerie. Mission de trois mois."
        ),
        skills=("clôture annuelle", "prévision de trésorerie"),
        language="fr",
    ),
    Project(
        project_id="example-de",
        title="Freelancer für Energieprojekt gesucht",
        description=(
            "Für mehrere Gewerbedächer planen wir Photovoltaikanlagen. Gesucht wird Erfahrung mit Auslegung, "
            "Ertragsprognose und Netzanschluss. Beginn nächsten Monat."
        ),
        skills=("Auslegung von Photovoltaikanlagen", "Ertragsprognose"),
        language="de",
    ),
)


@dataclass
class _Stages:
    """Times and announces the stages of one run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        console().rule(f"{len(self.seconds) + 1}. {title}", align="left")
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        console().print(f"[dim]{name}: {self.seconds[name]} s[/dim]")


def run_quickstart(config: Config, dataset_dir: Path | None = None) -> dict[str, Any]:
    """Run every stage in the workspace, answer three example briefs, and return the report.

    Finished stages are reused and a stage that was cut off goes on where it stood, so the same
    command may be repeated after any interruption.

    Args:
        config: settings; `config.workspace` holds everything that is written.
        dataset_dir: the user's own dataset; None makes the sample. Where its history is too small to
            train on, the head learns from the sample and the user's freelancers are indexed.

    Raises:
        SkillmatchError: with the stage's own message.
    """
    workspace = Workspace(config.workspace)
    build_loss(config.training.loss)  # a wrong loss must not be found after the encoding
    with owner_lock(workspace.root / "quickstart.lock", "skillmatch quickstart"):
        report = _run(config, workspace, dataset_dir)
    write_json(workspace.root / "report.json", report)
    console().print(f"report: {workspace.root / 'report.json'}")
    return report


def _run(config: Config, workspace: Workspace, dataset_dir: Path | None) -> dict[str, Any]:
    run = _Stages()
    with run.stage("sample", "Dataset"):
        dataset = Dataset(dataset_dir) if dataset_dir else make_sample(config, workspace)
        teacher = dataset if dataset_dir is None or can_teach(dataset) else make_sample(config, workspace)
    with run.stage("validate", "Validation"):
        with progress_bar("validation") as advance:
            validation = validate_dataset(dataset, workspace.quarantine, config.dataset, progress=advance)
        console().print(validation.render())
    with run.stage("token_states", "Token states: sections through the multilingual E5, with Ray Data"):
        for data in {d.root: d for d in (teacher, dataset)}.values() if not config.training.live else ():
            cache_states(config, data)
    with run.stage("train", "Training of the head, with Ray Train"):
        model_dir = model_directory(config, workspace)
        trained = train_model(config, teacher, model_dir)
        console().print(f"model {model_dir}: {trained.steps} steps, validation MAP {trained.validation_map}")
    with run.stage("evaluate", "Evaluation on projects that training never saw"):
        judged = dataset if dataset.has(QRELS) or can_teach(dataset) else teacher
        evaluation = evaluate_model(config, judged, model_dir)
        console().print(evaluation.render())
    with run.stage("encode", "Freelancers to vectors, with Ray Data"):
        encoded = encode_vectors(config, dataset, model_dir)
        console().print(encoded.summary())
    with run.stage("index", "Index in Milvus, validated and activated"):
        index = index_vectors(config, dataset, model_dir)
    with run.stage("match", "Three briefs in three languages"):
        _answer_examples(config)
    _say_what_next(workspace)
    return {
        "dataset": validation.as_dict(),
        "evaluation": evaluation.as_dict(),
        "index": {**index, "recall_at_10_vs_exact": index["validation"]["recall_at_10"]},
        "seconds": run.seconds,
        "versions": versions(),
    }


def make_sample(config: Config, workspace: Workspace) -> Dataset:
    """The built-in sample in the workspace; reused where it was made with the same settings."""
    key = hash_json([config.sample.model_dump(mode="json"), config.seed])
    marker = workspace.dataset / "provenance.json"
    if not (marker.is_file() and read_json(marker)["key"] == key and (workspace.dataset / SAMPLE_FILE).is_file()):
        counts = write_sample(workspace.dataset, config.sample, config.seed)
        write_json(marker, {"key": key, **provenance(config)})
        console().print(f"wrote {workspace.dataset}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    else:
        console().print(f"reusing {workspace.dataset}")
    return Dataset(workspace.dataset)


def can_teach(dataset: Dataset) -> bool:
    """Whether the dataset's history is large enough to train on."""
    if not dataset.has(INTERACTIONS):
        return False
    trainable = Relations.from_interactions(dataset.read(INTERACTIONS)).trainable_projects()
    return len(trainable) >= LEAST_TRAINING_PROJECTS


def model_directory(config: Config, workspace: Workspace) -> Path:
    """One directory for each set of model and training settings."""
    settings = config.model_dump(mode="json", include={"seed", "backbone", "model", "training"})
    if config.glossary:
        settings["glossary"] = read_glossary(config.glossary).fingerprint
    return workspace.models / f"head-{hash_json(settings)[:12]}"


def _answer_examples(config: Config) -> None:
    with open_engine(config) as engine:
        for project in EXAMPLE_BRIEFS:
            console().print(engine.match(project, top_k=5, explain=True).render())


def _say_what_next(workspace: Workspace) -> None:
    root = workspace.root
    console().rule("What next", align="left")
    console().print(
        f"serve:     skillmatch serve --workspace {root}\n"
        f'ask:       skillmatch match --workspace {root} --text "your brief, in any language"\n'
        f"your data: skillmatch quickstart --workspace other --dataset DIR   (tables: README, Dataset format)",
        soft_wrap=True,
    )
