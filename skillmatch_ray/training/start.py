"""Where training starts: token states centred by section type, without the directions that tell languages apart.

The tokens of E5 share a large common part, and much of what is left of it names the language. A head would
first have to unlearn both, with a learning rate that suits its blocks and not this. Removing the language
directions follows Yang et al. 2021, arXiv 2109.04727; damping the strongest directions follows the whitening of
Su et al. 2021, arXiv 2103.15316. Both read training documents only.

Shapes: B documents, L languages, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Towers
from skillmatch_ray.model.tower import Tower
from skillmatch_ray.training.loop import TrainingModel
from skillmatch_ray.training.setup import History
from skillmatch_ray.training.source import StateSource

MOST_DOCUMENTS: Final = 2048
"""Of each kind that are read for the start."""
LEAST_OF_A_LANGUAGE: Final = 8
"""Documents without which the mean of a language says nothing."""
DAMPED_FROM: Final = 10.0
"""Directions whose variance is far above so many times the mean one are damped to about that."""


@torch.no_grad()
def set_start(model: TrainingModel, history: History, source: StateSource) -> None:
    """Set section-type embeddings and projection of an untrained model from training documents.

    Args:
        model: changed in place; its blocks must still be at zero.
        history: of its training projects and of the freelancers, the first `MOST_DOCUMENTS` are read.
        source: their token states.
    """
    towers = model.towers
    projects = [history.projects[p] for p in sorted(history.split.train) if p in history.projects]
    documents: dict[DocumentKind, list[Document]] = {
        "project": [*projects[:MOST_DOCUMENTS]],
        "freelancer": [history.freelancers[f] for f in sorted(history.freelancers)[:MOST_DOCUMENTS]],
    }
    encoded = {kind: model.states(source(found)) for kind, found in documents.items()}
    for tower in _towers(towers):
        centre_types(tower, [d for kind, found in encoded.items() if towers.tower(kind) is tower for d in found])
    if not towers.settings.projection:
        return
    bare = _without_blocks(towers)
    vectors = torch.cat([torch.from_numpy(bare.encode(kind, found)) for kind, found in encoded.items()])
    languages = [document.language or "" for found in documents.values() for document in found]
    weight = start_projection(vectors, languages)
    for tower in _towers(towers):
        if tower.projection is not None:
            tower.projection.weight.copy_(weight)


@torch.no_grad()
def centre_types(tower: Tower, documents: Sequence[EncodedDocument]) -> None:
    """Let each section type subtract the mean of its sections; types that no document has, that of all."""
    sums = torch.zeros_like(tower.type_embedding.weight)
    counts = torch.zeros(len(sums), 1, device=sums.device)
    for document in documents:
        for section_type, states in zip(document.types, document.states, strict=True):
            if len(states):
                sums[section_type] += states.float().mean(0).to(sums.device)
                counts[section_type] += 1
    everything = sums.sum(0) / counts.sum().clamp_min(1)
    tower.type_embedding.weight.copy_(-torch.where(counts > 0, sums / counts.clamp_min(1), everything))


def start_projection(vectors: Tensor, languages: Sequence[str]) -> Tensor:
    """(D, D) symmetric-times-projection map: no language directions, the strongest of the others damped.

    Args:
        vectors: (B, D) of centred documents.
        languages: of each, "" where unknown.
    """
    centred = (vectors - vectors.mean(0)).double()
    kept = without_languages(centred, np.array(languages))
    variances, directions = torch.linalg.eigh(kept @ (centred.T @ centred) @ kept)
    mean = variances.clamp_min(0).mean().clamp_min(1e-12)
    scale = (1 + variances.clamp_min(0) / (DAMPED_FROM * mean)).rsqrt()
    weight: Tensor = directions @ torch.diag(scale) @ directions.T @ kept
    return weight.float()


def without_languages(centred: Tensor, languages: NDArray[np.str_]) -> Tensor:
    """(D, D) projection that takes out the span of the language means; identity where there is one language."""
    names, counts = np.unique(languages, return_counts=True)
    known = [n for n, count in zip(names.tolist(), counts.tolist(), strict=True) if n and count >= LEAST_OF_A_LANGUAGE]
    identity: Tensor = torch.eye(centred.shape[1], dtype=centred.dtype)
    if len(known) < 2:
        return identity
    means = torch.stack([centred[torch.from_numpy(languages == name)].mean(0) for name in known])  # (L, D)
    basis: Tensor = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[: len(known) - 1]
    span: Tensor = basis.T @ basis
    return identity - span


def _without_blocks(towers: Towers) -> Towers:
    """The same towers without their blocks, which add nothing yet but take time."""
    bare = Towers(towers.settings.model_copy(update={"layers": 0}), towers.dim)
    state = {name: value for name, value in towers.state_dict().items() if ".blocks." not in name}
    bare.load_state_dict(state)
    return bare.eval()


def _towers(towers: Towers) -> list[Tower]:
    """Both, or the one that both kinds share."""
    return [towers.project] if towers.settings.shared_towers else [towers.project, towers.freelancer]
