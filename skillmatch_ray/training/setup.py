"""Everything that a training worker needs, built from configuration and files; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from skillmatch_ray.backbone.encoder import token_space_fingerprint
from skillmatch_ray.backbone.resolve import resolve_backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.evaluation.ranking import Judged, dense_scorer, rank_judged
from skillmatch_ray.files import read_json
from skillmatch_ray.losses.weighted_sum import build_loss
from skillmatch_ray.model.matcher import Towers
from skillmatch_ray.relations import Relations
from skillmatch_ray.split import Split, split_projects
from skillmatch_ray.training.loop import Loop, TrainingModel
from skillmatch_ray.training.sampler import RelationSampler
from skillmatch_ray.training.source import StateSource, from_store


@dataclass(frozen=True)
class History:
    """The documents and relations that training reads.

    Attributes:
        split: which projects are for what.
        relations: of all projects.
        projects: id -> project, held-out ones left out.
        freelancers: id -> freelancer, those with a relation to one of `projects`.
    """

    split: Split
    relations: Relations
    projects: dict[str, Project]
    freelancers: dict[str, Freelancer]


def read_history(dataset: Dataset, config: Config) -> History:
    """Read interactions and just the documents that they touch; held-out projects are never read into it.

    Raises:
        DatasetError: if a table is missing.
    """
    projects = {project.id: project for project in dataset.projects()}
    split = split_projects(dataset, projects.values(), config.training.validation_share)
    for project_id in split.test:
        projects.pop(project_id, None)
    interactions = [i for i in dataset.interactions() if i.project_id in projects]
    relations = Relations.from_interactions(interactions)
    wanted = {freelancer for known in relations.signs.values() for freelancer in known}
    freelancers = {f.id: f for f in dataset.read(FREELANCERS) if f.id in wanted}
    present = {p: {f: s for f, s in known.items() if f in freelancers} for p, known in relations.signs.items()}
    return History(split, Relations(present), projects, freelancers)


def open_store(config: Config, directory: Path) -> TokenStateStore:
    """The token-state store of the configured backbone, without loading the backbone.

    Raises:
        FingerprintError: if the store belongs to another backbone.
    """
    checkpoint = resolve_backbone(config.backbone.name)
    dim = int(read_json(checkpoint / "config.json")["hidden_size"])
    return TokenStateStore(directory, token_space_fingerprint(checkpoint, config.backbone), dim)


def build_model(config: Config, dim: int) -> TrainingModel:
    """Untrained towers and the configured loss, seeded.

    Raises:
        ConfigError: if model or loss settings do not fit.
    """
    torch.manual_seed(config.seed)
    return TrainingModel(Towers(config.model, dim), build_loss(config.training.loss))


def build_sampler(config: Config, history: History) -> RelationSampler:
    """Batches of the training projects only."""
    return RelationSampler(
        history.relations,
        {p: history.projects[p].job_category for p in sorted(history.split.train) if p in history.projects},
        {f.id: f.job_category for f in history.freelancers.values()},
        config.training,
        config.seed,
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


def state_source(config: Config, store_dir: Path) -> tuple[StateSource, int]:
    """Token states from the store, and their dimension."""
    store = open_store(config, store_dir)
    return from_store(store, config.backbone, config.model), store.dim


VALIDATION_POOL = 400
"""Freelancers that the validation projects are ranked against, at most."""


def validation_map(towers: Towers, history: History, source: StateSource) -> float | None:
    """MAP of the validation projects over a pool of freelancers of the history; None without such projects.

    The pool holds every freelancer with a relation to a validation project, filled up with others in
    the order of their ids.
    """
    relations = history.relations
    queries = [p for p in sorted(history.split.validation) if relations.positives(p)]
    if not queries:
        return None
    related = dict.fromkeys(f for p in queries for f in relations.signs[p])
    pool = list(dict.fromkeys([*related, *sorted(history.freelancers)]))[: max(VALIDATION_POOL, len(related))]
    projects = towers.encode("project", source([history.projects[p] for p in queries]))
    freelancers = towers.encode("freelancer", source([history.freelancers[f] for f in pool]))
    relevant = relations.matrix(queries, pool) > 0
    judged = [Judged(row.nonzero()[0], np.ones(row.sum(), dtype=np.int64)) for row in relevant]
    ranks = rank_judged(dense_scorer(projects, freelancers), judged, np.zeros(len(pool), dtype=np.int64))
    return float(np.mean([average_precision(found.overall) for found in ranks]))
