"""A weighted sum of losses, and the registry that configuration names are looked up in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.a_triplet import ATriplet
from skillmatch_ray.losses.base import Loss
from skillmatch_ray.losses.dual_a_triplet import DualATriplet
from skillmatch_ray.losses.infonce import InfoNCE
from skillmatch_ray.losses.triplet import Triplet

LOSSES: Final[Mapping[str, type[Loss]]] = {
    "infonce": InfoNCE,
    "triplet": Triplet,
    "a_triplet": ATriplet,
    "dual_a_triplet": DualATriplet,
}


class WeightedSum(Loss):
    """Optimises the sum of other losses, each times its weight.

    Args:
        parts: name -> (weight > 0, loss).

    Inputs: those of its parts. Requirements: at least one part.
    Relations: one part of weight 1 equals that part.

    Raises:
        ConfigError: if there is no part or a weight is not positive.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError(f"training.loss names no loss: give one of {', '.join(LOSSES)}")
        for name, (weight, _) in parts.items():
            if weight <= 0:
                raise ConfigError(f"training.loss.{name}.weight ({weight}) must be above 0")
        self.weights = {name: weight for name, (weight, _) in parts.items()}
        self.parts = nn.ModuleDict({name: loss for name, (_, loss) in parts.items()})

    def from_embeddings(self, projects: Tensor, freelancers: Tensor, signs: Tensor, weak: Tensor) -> Tensor:
        """() weighted sum."""
        losses = [
            weight * self._part(name).from_embeddings(projects, freelancers, signs, weak)
            for name, weight in self.weights.items()
        ]
        return torch.stack(losses).sum()

    def _part(self, name: str) -> Loss:
        part = self.parts[name]
        if not isinstance(part, Loss):
            raise TypeError(f"{name} is a {type(part).__name__}, not a Loss")
        return part

    def config_dict(self) -> dict[str, Any]:
        """The `training.loss` mapping that would build this sum again."""
        return {name: {"weight": weight, **self._part(name).config_dict()} for name, weight in self.weights.items()}


def build_loss(config: Mapping[str, Mapping[str, Any]]) -> WeightedSum:
    """The loss that the `training.loss` setting describes: name -> arguments, `weight` among them.

    Raises:
        ConfigError: for an unknown loss (names the nearest) or an argument that it does not take.

    Example:
        >>> build_loss({"infonce": {"temperature": 0.05, "weight": 2.0}}).weights
        {'infonce': 2.0}
    """
    return WeightedSum({name: _build(name, dict(arguments or {})) for name, arguments in config.items()})


def _build(name: str, arguments: dict[str, Any]) -> tuple[float, Loss]:
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown loss {name!r} in training.loss: did you mean {near!r}?")
    weight = float(arguments.pop("weight", 1.0))
    try:
        return weight, LOSSES[name](**arguments)
    except TypeError as e:
        raise ConfigError(f"training.loss.{name}: {e}") from e
