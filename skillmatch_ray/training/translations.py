"""Pairs of texts that say the same, drawn from concepts that are named in several languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import AdaptationSettings
from skillmatch_ray.glossary import Labels

MOST_IN_LIST: Final = 3
"""Concepts of one text: a phrase stands alone, or among a few as in a list of skills."""


@dataclass(frozen=True)
class Drawn:
    """The texts of one step; row i of both says the same.

    Attributes:
        left: N texts.
        right: N texts, most of them in another language than their partner.
    """

    left: list[str]
    right: list[str]

    def signs(self) -> NDArray[np.int8]:
        """(N, N) 1 where two texts are known to say the same, else 0."""
        left, right = np.array(self.left), np.array(self.right)
        same: NDArray[np.bool_] = (left[:, None] == left) | (right[:, None] == right)
        return same.astype(np.int8)


class TranslationPairs:
    """Draws the texts of a step, each time others; a pure function of seed and step, so that there is nothing to save.

    Args:
        concepts: what is drawn from.
        settings: how many, and how often both texts are in one language.
        seed: of all draws.
    """

    def __init__(self, concepts: Sequence[Labels], settings: AdaptationSettings, seed: int) -> None:
        self.concepts = concepts
        self.settings = settings
        self.seed = seed

    def draw(self, step: int) -> Drawn:
        """At most `pairs_per_step` pairs; no concept is in two of them."""
        rng = np.random.default_rng([self.seed, step])
        order = [self.concepts[i] for i in rng.permutation(len(self.concepts))]
        # Half of the texts hold one phrase: what is learned has to hold for each.
        sizes = rng.choice([1, 1, 1, 2, MOST_IN_LIST], self.settings.pairs_per_step)
        ends = np.cumsum(sizes)
        groups = [order[end - size : end] for end, size in zip(ends, sizes, strict=True) if end <= len(order)]
        pairs = [self._pair(group, rng) for group in groups]
        return Drawn([left for left, _ in pairs], [right for _, right in pairs])

    def _pair(self, group: Sequence[Labels], rng: np.random.Generator) -> tuple[str, str]:
        shared = _languages(group)
        if len(shared) < 2:
            group, shared = group[:1], _languages(group[:1])
        one, other = rng.choice(shared, 2, replace=False)
        if rng.random() < self.settings.same_language_share:
            other = one
        # The other order, so that places in a list give nothing away.
        return _text(group, one, rng), _text(group[::-1], other, rng)


def _languages(group: Sequence[Labels]) -> list[str]:
    return sorted(set.intersection(*map(set, group)))


def _text(group: Sequence[Labels], language: str, rng: np.random.Generator) -> str:
    return ", ".join(str(rng.choice(labels[language])) for labels in group)
