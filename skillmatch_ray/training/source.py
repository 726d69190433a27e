"""Where training takes token states from: the store, the frozen backbone, or a backbone that is trained too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore, section_states
from skillmatch_ray.config import BackboneSettings, ModelSettings
from skillmatch_ray.documents import Document
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import assemble, model_sections

StateSource = Callable[[Sequence[Document]], list[EncodedDocument]]
"""Documents to their token states, in order."""


def from_store(store: TokenStateStore, backbone: BackboneSettings, model: ModelSettings) -> StateSource:
    """States that were computed before.

    Raises:
        DatasetError: (when called) if a section is missing; the message says how to add it.
    """

    def states(document: Document) -> EncodedDocument:
        (types,), texts = model_sections([document], backbone, model)
        try:
            found = tuple(store.get(text) for text in texts)
        except KeyError as e:
            raise DatasetError(
                f"{document.kind} {document.id!r} has a section that {store.root} lacks: run `skillmatch train` on "
                "this dataset, which caches what is missing, or set training.live_states"
            ) from e
        return EncodedDocument(tuple(types), found)

    return lambda documents: [states(document) for document in documents]


def from_backbone(backbone: Backbone, model: ModelSettings) -> StateSource:
    """States that are computed when they are asked for, in the half precision of the store: the loss is the same."""

    def states(documents: Sequence[Document]) -> list[EncodedDocument]:
        types, texts = model_sections(documents, backbone.settings, model)
        return assemble(types, [state.to(torch.float16) for state in section_states(backbone, texts)])

    return states


def from_tokenizer(backbone: Backbone, model: ModelSettings) -> StateSource:
    """Documents whose "states" are (tokens,) ids: a model with a trained backbone makes the states itself."""

    def ids(documents: Sequence[Document]) -> list[EncodedDocument]:
        types, texts = model_sections(documents, backbone.settings, model)
        return assemble(types, [torch.from_numpy(tokens) for tokens in backbone.tokenize(texts)])

    return ids


def hide_sections(document: EncodedDocument, share: float, rng: np.random.Generator) -> EncodedDocument:
    """Drop each section with probability `share`, but never all: what the model must cope with."""
    if share == 0 or len(document.types) < 2:
        return document
    kept = rng.random(len(document.types)) >= share
    if not kept.any():
        kept[rng.integers(len(kept))] = True
    pairs = [pair for pair, keep in zip(zip(document.types, document.states, strict=True), kept, strict=True) if keep]
    return EncodedDocument(tuple(t for t, _ in pairs), tuple(s for _, s in pairs))
