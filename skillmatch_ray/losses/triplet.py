"""The classic triplet loss on stated relations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.base import Loss


class Triplet(Loss):
    r"""A project's positive must beat each of its stated negatives by a margin.

    Optimises the mean of :math:`\max(0, m - s(p, f^+) + s(p, f^-))` over all triplets
    (project, positive, stated negative) of the batch, :math:`s` the cosine. Unknown pairs are never
    used, so only what a company or a freelancer said counts.

    Args:
        margin: :math:`m` > 0, in cosine.

    Inputs:
        | projects (P, D) | freelancers (F, D) | signs (P, F) int8 | weak (P, F) bool, not read |

    Requirements: projects with both a positive and a stated negative in the batch; others add nothing.
    Recommendations: few such projects? Use `ATriplet`, which also reads unknown and weak pairs.
    Relations: `ATriplet` with unknown_weight = weak_weight = 0 and hinge per pair equals this loss.
    Reference: Schroff et al. 2015, arXiv 1503.03832.

    Raises:
        ConfigError: if the margin is not positive.

    Example:
        >>> p, f = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> signs = torch.tensor([[1, -1]], dtype=torch.int8)
        >>> round(Triplet(margin=0.5).from_embeddings(p, f, signs, signs == 9).item(), 4)  # 0.5 - 1 + 0.6
        0.1
    """

    citation = "arXiv:1503.03832"

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if margin <= 0:
            raise ConfigError(f"triplet.margin ({margin}) must be above 0")
        self.margin = margin

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:  # noqa: ARG002
        """() loss; see the class."""
        return hinge_over_pairs(projects @ freelancers.T, signs > 0, (signs < 0).float(), self.margin)

    def config_dict(self) -> dict[str, Any]:
        """The arguments that would build this loss again."""
        return {"margin": self.margin}


def hinge_over_pairs(similarity: Tensor, positive: Tensor, negative_weight: Tensor, margin: float) -> Tensor:
    """Weighted mean over rows' (positive, negative) pairs of max(0, margin - s(+) + s(-)).

    Args:
        similarity: (A, B) cosines of anchors with candidates.
        positive: (A, B) bool.
        negative_weight: (A, B) float, 0 where the pair is no negative.
        margin: in cosine.
    """
    anchors, candidates = positive.nonzero(as_tuple=True)  # K positives
    gaps = margin - similarity[anchors, candidates][:, None] + similarity[anchors]  # (K, B)
    weights = negative_weight[anchors]  # (K, B)
    total: Tensor = (torch.relu(gaps) * weights).sum() / weights.sum().clamp_min(1e-12)
    return total
