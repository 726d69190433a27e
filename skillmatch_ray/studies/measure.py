"""One run: train a small head on cached token states (or take a model), and rank the pool for every judged project.

Shapes: Q projects, N freelancers, D dimensions.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import BackboneSettings, Config, ModelSettings, changed
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.errors import ModelError
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.evaluation.ranking import QueryRanks, dense_scorer, rank_judged
from skillmatch_ray.evaluation.summary import query_values
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Vectors, load_towers, section_prefix
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.studies.material import Material, read_material
from skillmatch_ray.studies.study import METRICS, Places, Run, Study, Variant
from skillmatch_ray.training.loop import TrainingModel
from skillmatch_ray.training.setup import build_loop, build_model, open_store, state_source
from skillmatch_ray.training.source import StateSource, from_store
from skillmatch_ray.training.start import set_start

BLOCK_DOCUMENTS = 256
"""Documents whose token states are held at once."""


class States:
    """Documents to token states: from the store, into which whatever it lacks is computed first.

    Args:
        store: of the backbone.
        backbone: its settings.
        model: whose section types are read.
    """

    def __init__(self, store: TokenStateStore, backbone: BackboneSettings, model: ModelSettings) -> None:
        self.store = store
        self.settings = backbone
        self.types = frozenset(model.section_types)
        self._read = from_store(store, backbone, model)

    def __call__(self, documents: Sequence[Document]) -> list[EncodedDocument]:
        """The documents in order."""
        texts = dict.fromkeys(text for document in documents for text in self._texts(document))
        missing = [text for text in texts if text not in self.store]
        if missing:
            self.store.add(missing, self._backbone.encode(missing))
        return self._read(documents)

    def _texts(self, document: Document) -> list[str]:
        prefix = section_prefix(document.kind, self.settings)
        return [prefix + section.text for section in document.sections() if section.type in self.types]

    @cached_property
    def _backbone(self) -> Backbone:
        return Backbone.load(self.settings)


@dataclass(frozen=True)
class Ranked:
    """What a run is summed up from.

    Attributes:
        material: what was read.
        ranks: of each judged project.
        figures: of training.
        seconds: of all of it.
    """

    material: Material
    ranks: list[QueryRanks]
    figures: dict[str, float]
    seconds: float

    def run(self, variant: Variant, seed: int) -> Run:
        """The result of the usual measure."""
        return Run(
            variant=variant.name,
            seed=seed,
            projects=[project.id for project in self.material.projects],
            values=values_of(self.material, self.ranks),
            pairs=pairs_of(self.material, self.ranks),
            subsets={name: sorted(ids) for name, ids in self.material.subsets.items()},
            figures=self.figures,
            seconds=round(self.seconds, 2),
        )


def train_and_rank(study: Study, variant: Variant, config: Config, seed: int, places: Places) -> Run:
    """The usual measure: what a variant's towers make of the judged projects."""
    del study
    return ranked(variant, config, seed, places).run(variant, seed)


def ranked(variant: Variant, config: Config, seed: int, places: Places, top: int = 0) -> Ranked:
    """Get the variant's encoder, and rank everybody for every judged project.

    Raises:
        ModelError: if a model is needed and there is none.
        DatasetError: if the history is too small to train on.
    """
    started = time.perf_counter()
    material = material_of(variant, config, seed, places)
    encoder = encoder_of(variant, config, material, places)
    as_it_is = material.freelancers is _read(places.dataset, _reading(config)).freelancers
    if variant.towers == "model" and as_it_is:
        pool = _pool_of_model(places, config.model_dump_json())
    else:
        pool = encoder("freelancer", material.freelancers)
    ranks = rank(encoder("project", material.projects), pool, material, top)
    return Ranked(material, ranks, encoder.figures, time.perf_counter() - started)


def material_of(variant: Variant, config: Config, seed: int, places: Places) -> Material:
    """What the variant reads; concepts are looked for in what its change has made of the documents."""
    material, glossary = _read(places.dataset, _reading(config)), read_glossary(config.glossary)
    changed_material = variant.change(material, seed) if variant.change else material
    return changed_material.with_all(glossary.read, glossary.read) if glossary else changed_material


def _reading(config: Config) -> str:
    """The settings that decide what is read, as JSON."""
    read = config.training.model_dump(mode="json", include={"validation_share", "mined_negatives"})
    return json.dumps({"training": read})


@lru_cache(maxsize=2)
def _read(dataset: Path, reading: str) -> Material:
    """A worker does many runs on one dataset."""
    return read_material(Dataset(dataset), changed(Config(), json.loads(reading)))


class Vectoriser(Protocol):
    """What turns encoded documents into vectors: towers, or a training model with its own backbone."""

    def encode(self, kind: DocumentKind, documents: Sequence[EncodedDocument]) -> Vectors:
        """(B, D) float32 vectors."""


@dataclass(frozen=True)
class Encoder:
    """Documents to vectors.

    Attributes:
        towers: the second half.
        source: the first half.
        figures: of training.
    """

    towers: Vectoriser
    source: StateSource
    figures: dict[str, float] = field(default_factory=dict)

    def __call__(self, kind: DocumentKind, documents: Sequence[Document]) -> Vectors:
        """(n, D) vectors of documents, block by block."""
        blocks = [documents[i : i + BLOCK_DOCUMENTS] for i in range(0, len(documents), BLOCK_DOCUMENTS)]
        return np.concatenate([self.towers.encode(kind, self.source(block)) for block in blocks])


def encoder_of(variant: Variant, config: Config, material: Material, places: Places) -> Encoder:
    """The variant's encoder, trained where it says so.

    Raises:
        ModelError: if a model is needed and there is none.
        DatasetError: if the history is too small to train on.
    """
    store = open_store(config, places.store)
    if variant.towers == "model":
        if places.model is None:
            raise ModelError(f"variant {variant.name!r} looks at a finished model, and none was given")
        towers = load_towers(places.model, store.fingerprint)
        return Encoder(towers.eval(), States(store, config.backbone, towers.settings))
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    cached = States(store, config.backbone, config.model)
    source: StateSource = cached
    if config.training.live:
        source, _ = state_source(config, places.store, str(device))
    model = build_model(config, store.dim)
    if variant.towers == "untrained":
        return Encoder(model.eval(), source)
    if config.training.aligned_start:
        # Before its first step a trained backbone gives what the store holds, and reading costs nothing.
        set_start(TrainingModel(model.towers, model.loss), material.history, cached)
    loop = build_loop(config, material.history, model.to(device), source, device)
    losses: list[float] = []
    loop.run(config.training.steps, lambda report: losses.append(report.loss))
    figures = {"first_loss": float(np.mean(losses[:5])), "last_loss": float(np.mean(losses[-5:]))}
    return Encoder(loop.core.cpu().eval(), source, figures)


@lru_cache(maxsize=1)
def _pool_of_model(places: Places, config: str) -> Vectors:
    """(N, D) vectors of the pool as it is: a worker looks at many changes of projects with one model."""
    settings, variant = Config.model_validate_json(config), Variant("pool", "pool", towers="model")
    material = material_of(variant, settings, 0, places)
    return encoder_of(variant, settings, material, places)("freelancer", material.freelancers)


def rank(projects: Vectors, pool: Vectors, material: Material, top: int = 0) -> list[QueryRanks]:
    """Exact ranks in the whole pool and within each language of it, from (Q, D) and (N, D) vectors."""
    languages = [freelancer.language or "?" for freelancer in material.freelancers]
    groups = np.unique(languages, return_inverse=True)[1]
    return rank_judged(dense_scorer(projects, pool), material.judged, groups, top)


def values_of(material: Material, ranks: Sequence[QueryRanks]) -> dict[str, list[float | None]]:
    """Metric -> Q figures; among them MAP of pools cut to one language, the brief's own and the others."""
    found: dict[str, Any] = query_values(material.judged, ranks)
    values: dict[str, list[float | None]] = {name: [round(float(v), 6) for v in found[name]] for name in METRICS}
    by_pair = [_language_maps(material, q, one) for q, one in enumerate(ranks)]
    own = [project.language or "?" for project in material.projects]
    values["map same language"] = [maps.get(language) for maps, language in zip(by_pair, own, strict=True)]
    values["map other languages"] = [
        _mean([v for name, v in maps.items() if name != language]) for maps, language in zip(by_pair, own, strict=True)
    ]
    return values


def pairs_of(material: Material, ranks: Sequence[QueryRanks]) -> dict[str, dict[str, float]]:
    """Language pair -> project id -> MAP in the pool of that language."""
    pairs: dict[str, dict[str, float]] = defaultdict(dict)
    for q, (project, one) in enumerate(zip(material.projects, ranks, strict=True)):
        for language, value in _language_maps(material, q, one).items():
            pairs[f"{project.language or '?'}-{language}"][project.id] = value
    return dict(sorted(pairs.items()))


def _language_maps(material: Material, q: int, ranks: QueryRanks) -> dict[str, float]:
    """Language of the pool -> average precision of its relevant freelancers among their own."""
    query = material.judged[q]
    relevant = query.grades >= RELEVANT_GRADE
    spoken = np.array([material.freelancers[place].language or "?" for place in query.places])
    return {
        str(language): round(average_precision(ranks.in_group[relevant & (spoken == language)]), 6)
        for language in np.unique(spoken[relevant])
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
