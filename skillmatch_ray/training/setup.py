"""Everything that a training worker needs, built from configuration and files; no Ray."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from skillmatch_ray.backbone.encoder import TOKEN_BUDGETS, Backbone, token_space_fingerprint
from skillmatch_ray.backbone.resolve import resolve_backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.backbone.trainable import TrainableBackbone
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Document, Freelancer, Project
from skillmatch_ray.files import read_json
from skillmatch_ray.losses.weighted_sum import build_loss
from skillmatch_ray.model.matcher import Towers
from skillmatch_ray.relations import Relations
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.split import Split, split_projects
from skillmatch_ray.training.loop import Loop, TrainingModel
from skillmatch_ray.training.negatives import read_negatives
from skillmatch_ray.training.sampler import RelationSampler
from skillmatch_ray.training.source import StateSource, from_backbone, from_store, from_tokenizer


@dataclass(frozen=True)
class History:
    """The documents and relations that training reads.

    Attributes:
        split: which projects are for what.
        relations: of all projects.
        projects: id -> project, held-out ones left out.
        freelancers: id -> freelancer, those with a relation to one of `projects`.
        last_training_moment: of the interactions with training projects, None where none has a date.
        duplicates: freelancers and training projects whose relations went to an equal one.
        mined: project id -> mined negatives, where `training.mined_negatives` names a file.
    """

    split: Split
    relations: Relations
    projects: dict[str, Project]
    freelancers: dict[str, Freelancer]
    last_training_moment: dt.datetime | None = None
    duplicates: int = 0
    mined: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_history(dataset: Dataset, config: Config) -> History:
    """Read interactions and just the documents that they touch; held-out projects are never read into it.

    Freelancers of equal content become one, and so do training projects: what is known of one is known of all of
    them, and none is told apart from its own copy.

    Raises:
        DatasetError: if a table is missing.
        ConfigError: if the glossary cannot be read.
    """
    glossary = read_glossary(config.glossary)
    projects = {project.id: glossary.read(project) for project in dataset.projects()}
    split = split_projects(dataset, projects.values(), config.training.validation_share)
    for project_id in split.test:
        projects.pop(project_id, None)
    interactions = [i for i in dataset.interactions() if i.project_id in projects]
    mined = read_negatives(config.training.mined_negatives) if config.training.mined_negatives else {}
    wanted = {interaction.freelancer_id for interaction in interactions} | {f for own in mined.values() for f in own}
    freelancers = {f.id: glossary.read(f) for f in dataset.read(FREELANCERS) if f.id in wanted}
    people, briefs = same_content(freelancers.values()), same_content(projects[p] for p in sorted(split.train))
    relations = Relations.from_interactions(
        i.model_copy(
            update={
                "project_id": briefs.get(i.project_id, i.project_id),
                "freelancer_id": people.get(i.freelancer_id, i.freelancer_id),
            }
        )
        for i in interactions
        if i.freelancer_id in freelancers
    )
    negatives = {briefs.get(p, p): _unknown(relations, briefs.get(p, p), own, people) for p, own in mined.items()}
    related = {freelancer for known in (*relations.signs.values(), *negatives.values()) for freelancer in known}
    moments = [i.happened_at for i in interactions if i.project_id in split.train]
    return History(
        split,
        relations,
        projects,
        {i: freelancer for i, freelancer in freelancers.items() if i in related},
        max((moment for moment in moments if moment), default=None),
        len(people) + len(briefs),
        negatives,
    )


def _unknown(relations: Relations, project: str, mined: Iterable[str], copies: Mapping[str, str]) -> list[str]:
    """Mined freelancers, copies as their first, of whom nothing is known: a history may have grown since."""
    known = relations.signs.get(project, {})
    return [f for f in dict.fromkeys(copies.get(m, m) for m in mined) if f not in known]


def same_content(documents: Iterable[Document]) -> dict[str, str]:
    """Id of each document that equals an earlier one in what the encoder reads -> id of that one.

    Example:
        >>> people = [Freelancer(freelancer_id=i, headline=h) for i, h in (("a", "x"), ("b", "y"), ("c", "x"))]
        >>> same_content(people)
        {'c': 'a'}
    """
    first: dict[str, str] = {}
    return {d.id: known for d in documents if (known := first.setdefault(d.content_hash(), d.id)) != d.id}


def open_store(config: Config, directory: Path) -> TokenStateStore:
    """The token-state store of the configured backbone, without loading the backbone.

    Raises:
        FingerprintError: if the store belongs to another backbone.
    """
    checkpoint = resolve_backbone(config.backbone.name)
    dim = int(read_json(checkpoint / "config.json")["hidden_size"])
    return TokenStateStore(directory, token_space_fingerprint(checkpoint, config.backbone), dim)


def build_model(config: Config, dim: int) -> TrainingModel:
    """Untrained towers and the configured loss, seeded; the backbone too where layers of it are trained.

    Raises:
        ConfigError: if model or loss settings do not fit.
    """
    torch.manual_seed(config.seed)
    towers, layers = Towers(config.model, dim), config.training.trainable_backbone_layers
    checkpoint = resolve_backbone(config.backbone.name)
    budget = config.backbone.token_budget or TOKEN_BUDGETS["cpu"]  # gradients need the room that GPUs have more of
    backbone = TrainableBackbone(checkpoint, layers, budget) if layers else None
    return TrainingModel(towers, build_loss(config.training.loss), backbone)


def build_sampler(config: Config, history: History) -> RelationSampler:
    """Batches of the training projects only."""
    return RelationSampler(
        history.relations,
        {p: history.projects[p].job_category for p in sorted(history.split.train) if p in history.projects},
        {f.id: f.job_category for f in history.freelancers.values()},
        config.training,
        config.seed,
        history.mined,
    )


def build_loop(
    config: Config, history: History, model: torch.nn.Module, source: StateSource, device: torch.device
) -> Loop:
    """The loop over `model`, which may be wrapped for data-parallel training already."""
    return Loop(
        model=model,
        sampler=build_sampler(config, history),
        documents={"project": history.projects, "freelancer": history.freelancers},
        source=source,
        settings=config.training,
        seed=config.seed,
        device=device,
    )


def state_source(config: Config, store_dir: Path, device: str = "cpu") -> tuple[StateSource, int]:
    """Where token states come from, and their dimension.

    Where layers of the backbone are trained, the source gives token ids, and the `TrainingModel` the states.
    """
    if not config.training.live:
        store = open_store(config, store_dir)
        return from_store(store, config.backbone, config.model), store.dim
    backbone = Backbone.load(config.backbone, device)
    live = from_tokenizer if config.training.trainable_backbone_layers else from_backbone
    return live(backbone, config.model), backbone.dim
