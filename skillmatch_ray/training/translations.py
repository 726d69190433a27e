"""Concepts named in several languages, and pairs of texts drawn from them that say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from skillmatch_ray.config import AdaptationSettings
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.sample.parquet_taxonomy import read_taxonomy
from skillmatch_ray.sample.taxonomy import Labels, Taxonomy, builtin_taxonomy

MOST_IN_LIST: Final = 3
"""Concepts of one text: a phrase stands alone, or among a few as in a list of skills."""

_LINE: Final = TypeAdapter(dict[str, tuple[str, ...]])


def read_concepts(source: Path | None) -> tuple[Labels, ...]:
    """Labels of each concept that is named in two languages or more.

    Args:
        source: a directory with a taxonomy in Parquet, a JSON Lines file of `{"en": ["invoice"], "fr": ["facture"]}`,
            or None: the built-in taxonomy.

    Raises:
        TaxonomyError: if a taxonomy cannot be used.
        ConfigError: if a line of the file is of another form, or too few concepts remain.
    """
    if source is None:
        found = _concepts_of(builtin_taxonomy())
    elif source.is_dir():
        found = _concepts_of(read_taxonomy(source))
    else:
        found = list(_concepts_in(source))
    known = tuple(labels for labels in found if sum(map(bool, labels.values())) > 1)
    if len(known) < 2:
        raise ConfigError(f"{source}: {len(known)} concepts with names in two languages; at least 2 are needed")
    return known


def _concepts_of(taxonomy: Taxonomy) -> list[Labels]:
    return [*taxonomy.skills.values(), *(occupation.titles for occupation in taxonomy.occupations)]


def _concepts_in(file: Path) -> Iterator[Labels]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as e:
        raise ConfigError(f"{file} cannot be read ({e.strerror}): name a file of JSON Lines, or a directory") from e
    for number, line in enumerate(lines, 1):
        try:
            yield _LINE.validate_json(line)
        except ValidationError as e:
            raise ConfigError(
                f"{file}, line {number}: {e.errors()[0]['msg']}; wanted is "
                '{"en": ["invoice", "bill"], "fr": ["facture"]}'
            ) from e


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
    return sorted(set.intersection(*({language for language, names in labels.items() if names} for labels in group)))


def _text(group: Sequence[Labels], language: str, rng: np.random.Generator) -> str:
    return ", ".join(str(rng.choice(labels[language])) for labels in group)
