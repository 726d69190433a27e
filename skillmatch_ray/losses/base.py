"""What every loss reads, and what every loss is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skillmatch_ray.relations import RelationBatch


@dataclass(frozen=True)
class Embedded:
    """A batch after the towers.

    Attributes:
        projects: (P, D) float32, L2-normalised.
        freelancers: (F, D) float32, L2-normalised, each freelancer once.
        signs: (P, F) int8 relation matrix: +1 has the skills, -1 lacks them, 0 unknown.
        weak: (P, F) bool, unknown pairs of differing job categories.
    """

    projects: Tensor
    freelancers: Tensor
    signs: Tensor
    weak: Tensor

    @classmethod
    def of(cls, projects: Tensor, freelancers: Tensor, relations: RelationBatch) -> Embedded:
        """Put the relations of a batch beside its vectors."""
        device = projects.device
        return cls(
            projects,
            freelancers,
            torch.from_numpy(relations.signs).to(device),
            torch.from_numpy(relations.weak).to(device),
        )

    @property
    def similarity(self) -> Tensor:
        """(P, F) cosines."""
        return self.projects @ self.freelancers.T


class Loss(nn.Module):
    """Base of all losses: `forward(batch)` for the loop, `from_embeddings(...)` for everybody.

    A loss must return a mean over its anchors that is 0 (and has a gradient) where a batch holds no
    anchor, so that all workers do the same collective calls whatever their batch holds.
    """

    citation: str = ""

    def forward(self, batch: Embedded) -> Tensor:
        """() float32 loss of one batch."""
        return self.from_embeddings(batch.projects, batch.freelancers, batch.signs, batch.weak)

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:
        """() float32 loss from (P, D) and (F, D) vectors, (P, F) signs and (P, F) weak negatives."""
        raise NotImplementedError

    def config_dict(self) -> dict[str, Any]:
        """The arguments that would build this loss again."""
        raise NotImplementedError


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; 0 with a gradient path where nothing is selected."""
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() / mask.sum().clamp_min(1)
