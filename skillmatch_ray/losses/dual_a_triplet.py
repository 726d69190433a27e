"""Dual A-triplet: A-triplet plus freelancer-freelancer relations by transitivity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.a_triplet import ATriplet
from skillmatch_ray.losses.base import Loss
from skillmatch_ray.losses.triplet import hinge_over_pairs
from skillmatch_ray.relations import freelancer_relations


class DualATriplet(Loss):
    r"""Freelancers who suit the same project must be closer than one who suits it and one who does not.

    Optimises :math:`L_A + \lambda L_F`, where :math:`L_A` is `ATriplet` and :math:`L_F` the same hinge
    on freelancer-freelancer cosines: +1 for two positives of one project, -1 for a positive and a
    stated negative of one project (`relations.freelancer_relations`).

    Args:
        margin: of both parts, > 0, in cosine.
        dual_weight: :math:`\lambda` >= 0.
        weak_weight: see `ATriplet`.
        unknown_weight: see `ATriplet`.

    Inputs:
        | projects (P, D) | freelancers (F, D) | signs (P, F) int8 | weak (P, F) bool |

    Requirements: projects with two or more positives in the batch, or the second part is 0.
    Recommendations: positives_per_project >= 2 in the batch sampler.
    Relations: dual_weight=0 equals `ATriplet`.
    Reference: arXiv 2409.12097 names the loss; this formula is our reconstruction.

    Raises:
        ConfigError: if the margin or a weight is out of range.
    """

    citation = "arXiv:2409.12097"

    def __init__(
        self,
        margin: float = 0.2,
        *,
        dual_weight: float = 0.5,
        weak_weight: float = 1.0,
        unknown_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if dual_weight < 0:
            raise ConfigError(f"dual_a_triplet.dual_weight ({dual_weight}) must not be negative")
        self.base = ATriplet(margin, weak_weight=weak_weight, unknown_weight=unknown_weight)
        self.dual_weight = dual_weight

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:
        """() loss; see the class."""
        relations = torch.from_numpy(freelancer_relations(signs.cpu().numpy())).to(signs.device)
        dual = hinge_over_pairs(freelancers @ freelancers.T, relations > 0, (relations < 0).float(), self.base.margin)
        return self.base.from_embeddings(projects, freelancers, signs, weak) + self.dual_weight * dual

    def config_dict(self) -> dict[str, Any]:
        """The arguments that would build this loss again."""
        return {**self.base.config_dict(), "dual_weight": self.dual_weight}
