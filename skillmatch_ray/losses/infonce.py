"""InfoNCE over the relation matrix, with several positives and known positives out of the negatives."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.base import Loss, masked_mean

Direction = Literal["both", "project", "freelancer"]

_LOG_OF_NOTHING = -1e4


class InfoNCE(Loss):
    r"""Cross-entropy of each known positive against the negatives of its anchor.

    Optimises, for an anchor project :math:`p`, one of its positives :math:`f^+` and the negatives
    :math:`N_p` = all freelancers of the batch that are not a known positive of :math:`p`:

    .. math:: -\log \frac{e^{s(p, f^+)/\tau}}{e^{s(p, f^+)/\tau} + \sum_{f \in N_p} w_{pf}\, e^{s(p, f)/\tau}}

    averaged over all (project, positive) pairs, where :math:`s` is the cosine; the other direction swaps
    the roles. Other positives of the same anchor are in neither numerator nor denominator, so they
    are not pushed away (false negatives).

    Args:
        temperature: :math:`\tau` > 0; its starting value where it is learned. Vectors that start centred
            (`training.start`) use the whole range of cosines; those that do not (E5 as it is) want 0.02.
        learn_temperature: whether :math:`\tau` is trained (as log, kept within 0.005 and 1).
        direction: "project" ranks freelancers for a project, "freelancer" the reverse, "both" their mean.
        weak_weight: :math:`w` of a weak negative (differing job categories, nothing known); >= 0.
        unknown_weight: :math:`w` of other pairs of which nothing is known; 0 uses stated negatives only.

    Inputs:
        | projects (P, D) | freelancers (F, D) | signs (P, F) int8 | weak (P, F) bool |

    Requirements: vectors are L2-normalised; freelancers are unique within the batch.
    Recommendations: batches drawn from few job categories, so that unknown pairs are hard.
    Relations: `ATriplet` uses the same relations with a margin.
    Reference: van den Oord et al. 2018, arXiv 1807.03748; masking by the adjacency matrix is our
        reconstruction of arXiv 2409.12097.

    Raises:
        ConfigError: if the temperature or a weight is out of range.

    Example:
        >>> loss = InfoNCE(temperature=0.5, direction="project")
        >>> p, f = torch.eye(2), torch.eye(2)
        >>> signs = torch.tensor([[1, 0], [0, 1]], dtype=torch.int8)
        >>> round(loss.from_embeddings(p, f, signs, signs == 9).item(), 4)  # log(1 + e**-2)
        0.1269
    """

    citation = "arXiv:1807.03748"

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        direction: Direction = "both",
        weak_weight: float = 1.0,
        unknown_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"infonce.temperature ({temperature}) must be above 0")
        if min(weak_weight, unknown_weight) < 0:
            raise ConfigError(
                f"infonce.weak_weight ({weak_weight}) and unknown_weight ({unknown_weight}) must not be negative"
            )
        if direction not in ("both", "project", "freelancer"):
            raise ConfigError(f"infonce.direction ({direction!r}) must be both, project or freelancer")
        self.direction = direction
        self.weak_weight = weak_weight
        self.unknown_weight = unknown_weight
        self.learn_temperature = learn_temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn_temperature)

    @property
    def temperature(self) -> Tensor:
        """() the temperature now."""
        return self.log_temperature.exp().clamp(0.005, 1.0) if self.learn_temperature else self.log_temperature.exp()

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:
        """() loss; see the class."""
        logits = projects @ freelancers.T / self.temperature  # (P, F)
        log_weights = self._log_weights(signs, weak)
        parts = []
        if self.direction != "freelancer":
            parts.append(_one_direction(logits, signs, log_weights))
        if self.direction != "project":
            parts.append(_one_direction(logits.T, signs.T, log_weights.T))
        return torch.stack(parts).mean()

    def _log_weights(self, signs: Tensor, weak: Tensor) -> Tensor:
        """(P, F) log of each pair's weight as a negative; weight 0 becomes a finite "nothing".

        Minus infinity would do in the forward pass, but the gradient of a row without negatives is NaN.
        """
        weights = torch.full(signs.shape, self.unknown_weight, device=signs.device)
        weights = torch.where(weak, self.weak_weight, weights)
        weights = torch.where(signs < 0, 1.0, weights)
        return torch.where(signs > 0, 0.0, weights).log().clamp_min(_LOG_OF_NOTHING)

    def config_dict(self) -> dict[str, Any]:
        """The arguments that would build this loss again."""
        return {
            "temperature": float(self.temperature.detach()),
            "learn_temperature": self.learn_temperature,
            "direction": self.direction,
            "weak_weight": self.weak_weight,
            "unknown_weight": self.unknown_weight,
        }


def _one_direction(logits: Tensor, signs: Tensor, log_weights: Tensor) -> Tensor:
    """Mean over (anchor, positive) pairs of log(1 + sum of negatives / positive)."""
    negatives = torch.logsumexp(logits + log_weights, dim=1, keepdim=True)  # (A, 1)
    pairs = torch.nn.functional.softplus(negatives - logits)  # (A, B)
    return masked_mean(pairs, signs > 0)
