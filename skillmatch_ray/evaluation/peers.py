"""Other models, measured on the same projects and pool: named sentence-transformers and our own model directories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import BackboneSettings
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.errors import ConfigError, ModelError
from skillmatch_ray.evaluation.baselines import FLOORS
from skillmatch_ray.evaluation.encoders import Encoder, TowerEncoder
from skillmatch_ray.files import read_json
from skillmatch_ray.model.matcher import Vectors, load_matcher, read_model_config

_E5_PROMPTS: Final = {"project": "query: ", "freelancer": "passage: "}
"""E5 was trained with them, but its checkpoints do not say so."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence-transformers model: one text a document, its sections line by line, cut where the model cuts.

    Attributes:
        name: hub name or local path.
        model: the SentenceTransformer.
    """

    name: str
    model: Any

    @property
    def names(self) -> Sequence[str]:
        """Its own."""
        return [self.name]

    def encode(self, kind: DocumentKind, documents: Sequence[Document]) -> dict[str, Vectors]:
        """L2-normalised vectors, with the model's own prompts where it has some."""
        texts = ["\n".join(section.text for section in document.sections()) for document in documents]
        encode = self.model.encode_query if kind == "project" else self.model.encode_document
        vectors = encode(
            texts, prompt=self._prompt(kind), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return {self.name: np.ascontiguousarray(vectors, dtype=np.float32)}

    def _prompt(self, kind: DocumentKind) -> str | None:
        silent = not any(self.model.prompts.values())
        return _E5_PROMPTS[kind] if silent and "e5" in Path(self.name).name.lower() else None


def with_peers(main: TowerEncoder, peers: Iterable[str]) -> list[Encoder]:
    """The main encoder, with the peers that share its backbone and glossary, then an encoder for each of the others.

    Args:
        main: the model and the floors.
        peers: model directories of ours, hub names, or paths of sentence-transformers models.

    Raises:
        ConfigError: if a name is taken already.
        ModelError: if a peer is no model.
    """
    others: list[Encoder] = []
    for name in peers:
        taken = {*main.names, *FLOORS, *(known for other in others for known in other.names)}
        if name in taken:
            raise ConfigError(f"--peer {name}: this name is taken by another system; name each peer once")
        if _is_ours(Path(name)):
            own = _tower_encoder(name, main)
            if own.backbone is main.backbone and own.glossary == main.glossary:
                main = replace(main, towers={**main.towers, **own.towers})
            else:
                others.append(own)
        else:
            others.append(_sentence_encoder(name))
    return [main, *others]


def _is_ours(path: Path) -> bool:
    config = path / "config.json"
    return config.is_file() and "backbone_fingerprint" in read_json(config)


def _tower_encoder(name: str, main: TowerEncoder) -> TowerEncoder:
    config = read_model_config(Path(name))
    settings = BackboneSettings(**config["backbone"])
    shared = config["backbone_fingerprint"] == main.backbone.fingerprint and _same_prefixes(
        settings, main.backbone.settings
    )
    backbone = main.backbone if shared else Backbone.load(settings)
    matcher = load_matcher(name, backbone=backbone)
    return TowerEncoder(matcher.backbone, {name: matcher.towers}, main.store if shared else None, matcher.glossary)


def _same_prefixes(one: BackboneSettings, other: BackboneSettings) -> bool:
    return (one.project_prefix, one.freelancer_prefix) == (other.project_prefix, other.freelancer_prefix)


def _sentence_encoder(name: str) -> SentenceEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as e:
        raise ModelError(
            f"peer {name}: sentence-transformers is not installed; pip install 'skillmatch-ray[benchmark]'"
        ) from e
    try:
        return SentenceEncoder(name, SentenceTransformer(name))
    except (OSError, ValueError) as e:
        raise ModelError(
            f"peer {name} is neither a model directory of ours nor a model that sentence-transformers can load: {e}"
        ) from e
