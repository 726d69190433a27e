"""A-triplet: the triplet loss over the whole relation matrix of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.base import Loss
from skillmatch_ray.losses.triplet import hinge_over_pairs


class ATriplet(Loss):
    r"""Every positive of the adjacency matrix against every negative of its row and of its column.

    Optimises, with weights :math:`w` (1 for a stated negative, `weak_weight` for a weak one,
    `unknown_weight` for other unknown pairs, 0 for known positives),

    .. math:: \frac{\sum_{(p,f^+)} \sum_{f} w_{pf} [m - s(p, f^+) + s(p, f)]_+}{\sum_{(p,f^+)} \sum_f w_{pf}}

    and the same with the roles of projects and freelancers swapped; the loss is the mean of both.

    Args:
        margin: :math:`m` > 0, in cosine.
        weak_weight: weight of weak negatives, >= 0.
        unknown_weight: weight of pairs of which nothing is known, >= 0.

    Inputs:
        | projects (P, D) | freelancers (F, D) | signs (P, F) int8 | weak (P, F) bool |

    Requirements: as `InfoNCE`.
    Recommendations: a larger margin (0.2 to 0.4) for batches of few categories.
    Relations: `DualATriplet` adds freelancer-freelancer relations.
    Reference: arXiv 2409.12097 names the loss; this formula is our reconstruction.

    Raises:
        ConfigError: if the margin or a weight is out of range.
    """

    citation = "arXiv:2409.12097"

    def __init__(self, margin: float = 0.2, *, weak_weight: float = 1.0, unknown_weight: float = 1.0) -> None:
        super().__init__()
        if margin <= 0:
            raise ConfigError(f"a_triplet.margin ({margin}) must be above 0")
        if min(weak_weight, unknown_weight) < 0:
            raise ConfigError(
                f"a_triplet.weak_weight ({weak_weight}) and unknown_weight ({unknown_weight}) must not be negative"
            )
        self.margin = margin
        self.weak_weight = weak_weight
        self.unknown_weight = unknown_weight

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:
        """() loss; see the class."""
        similarity = projects @ freelancers.T
        weights = negative_weights(signs, weak, self.weak_weight, self.unknown_weight)
        rows = hinge_over_pairs(similarity, signs > 0, weights, self.margin)
        columns = hinge_over_pairs(similarity.T, (signs > 0).T, weights.T, self.margin)
        return (rows + columns) / 2

    def config_dict(self) -> dict[str, Any]:
        """The arguments that would build this loss again."""
        return {"margin": self.margin, "weak_weight": self.weak_weight, "unknown_weight": self.unknown_weight}


def negative_weights(signs: Tensor, weak: Tensor, weak_weight: float, unknown_weight: float) -> Tensor:
    """(P, F) float32 weight of each pair as a negative; known positives have 0."""
    weights = torch.full(signs.shape, unknown_weight, device=signs.device)
    weights = torch.where(weak, weak_weight, weights)
    weights = torch.where(signs < 0, 1.0, weights)
    return torch.where(signs > 0, 0.0, weights)
