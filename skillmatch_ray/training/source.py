"""Where training takes token states from: the store, or the backbone itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import BackboneSettings, ModelSettings
from skillmatch_ray.documents import Document
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import section_prefix

StateSource = Callable[[Sequence[Document]], list[EncodedDocument]]
"""Documents to their token states, in order."""


def from_store(store: TokenStateStore, backbone: BackboneSettings, model: ModelSettings) -> StateSource:
    """States that were computed before.

    Raises:
        DatasetError: (when called) if a section is missing; the message says how to add it.
    """
    place = {name: i for i, name in enumerate(model.section_types)}

    def states(document: Document) -> EncodedDocument:
        kept = [section for section in document.sections() if section.type in place]
        prefix = section_prefix(document.kind, backbone)
        try:
            found = tuple(store.get(prefix + section.text) for section in kept)
        except KeyError as e:
            raise DatasetError(
                f"{document.kind} {document.id!r} has a section that {store.root} lacks: "
                "run `skillmatch encode --token-states` on this dataset"
            ) from e
        return EncodedDocument(tuple(place[section.type] for section in kept), found)

    return lambda documents: [states(document) for document in documents]


def hide_sections(document: EncodedDocument, share: float, rng: np.random.Generator) -> EncodedDocument:
    """Drop each section with probability `share`, but never all: what the model must cope with."""
    if share == 0 or len(document.types) < 2:
        return document
    kept = rng.random(len(document.types)) >= share
    if not kept.any():
        kept[rng.integers(len(kept))] = True
    pairs = [pair for pair, keep in zip(zip(document.types, document.states, strict=True), kept, strict=True) if keep]
    return EncodedDocument(tuple(t for t, _ in pairs), tuple(s for _, s in pairs))
