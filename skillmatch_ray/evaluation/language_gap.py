"""What a foreign language costs: one pool, written in each language in turn, ranked for the same projects.

Pools that are cut from a dataset by language hold other people each, and few of them suit a project, so that their
difference tells about luck as well. Here all pools hold the same people with the same skills: nothing but the language
differs, and the difference is taken project by project.

Shapes: P projects, N freelancers, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from skillmatch_ray.config import SampleSettings
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.evaluation.bootstrap import Values, interval
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.evaluation.ranking import Judged, dense_scorer, rank_judged
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.model.matcher import Vectors
from skillmatch_ray.sample.generator import Recipe
from skillmatch_ray.sample.taxonomy import LANGUAGES
from skillmatch_ray.sample.texts import freelancer_row, project_row


@dataclass(frozen=True)
class TranslatedPool:
    """The same freelancers in each language, and projects, each in a language of its own.

    Attributes:
        freelancers: language -> N freelancers; those at one place are the same person.
        projects: P of them, each with a freelancer who has its must-haves.
        relevant: (P, N) whether a freelancer has all must-haves of a project.
    """

    freelancers: Mapping[str, list[Freelancer]]
    projects: list[Project]
    relevant: NDArray[np.bool_]


@dataclass(frozen=True)
class LanguageGap:
    """MAP of the same projects in the pool of their own language, and in those of other languages.

    Attributes:
        own: mean over projects.
        other: mean over projects of the mean over the other languages.
        gap: own - other.
        interval: (low, high) of the gap, 95 % bootstrap over projects.
        pairs: "en-fr" -> MAP of English projects in the French pool; of languages that a project is written in.
    """

    own: float
    other: float
    gap: float
    interval: tuple[float, float]
    pairs: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "interval": list(self.interval)}


def translated_pool(freelancers: int, projects: int, seed: int, taxonomy: Path | None = None) -> TranslatedPool:
    """Write the people of one sample in every language.

    Raises:
        TaxonomyError: if the taxonomy cannot be used.
    """
    world = Recipe(SampleSettings(freelancers=freelancers, projects=projects, taxonomy=taxonomy), seed).world
    people = [world.person(i) for i in range(freelancers)]
    briefs = [world.brief(i) for i in range(projects)]
    return TranslatedPool(
        {
            language: [
                Freelancer.model_validate(freelancer_row(world, replace(one, language=language))) for one in people
            ]
            for language in LANGUAGES
        },
        [Project.model_validate(project_row(world, brief)) for brief in briefs],
        np.array([[world.grade(brief, one) >= RELEVANT_GRADE for one in people] for brief in briefs]),
    )


def language_gap(
    projects: Vectors, freelancers: Mapping[str, Vectors], languages: list[str], relevant: NDArray[np.bool_], seed: int
) -> LanguageGap:
    """Compare the pools for every project.

    Args:
        projects: (P, D).
        freelancers: language -> (N, D); row i of all of them is one person.
        languages: P languages of the projects.
        relevant: (P, N).
        seed: of resampling.
    """
    found = {language: _average_precisions(projects, pool, relevant) for language, pool in freelancers.items()}
    written = np.array(languages)
    own, other = np.zeros(len(written)), np.zeros(len(written))
    for language, values in found.items():
        own = np.where(written == language, values, own)
        other += np.where(written == language, 0.0, values) / (len(found) - 1)
    pairs = {
        f"{one}-{another}": round(float(values[written == one].mean()), 4)
        for one in sorted(set(languages))
        for another, values in sorted(found.items())
    }
    gap, (low, high) = float((own - other).mean()), interval(own - other, seed)
    means = round(float(own.mean()), 4), round(float(other.mean()), 4), round(gap, 4)
    return LanguageGap(*means, (round(low, 4), round(high, 4)), pairs)


def gap_table(gaps: Mapping[str, LanguageGap], title: str) -> Table:
    """A row for each system."""
    table = Table(title=title, title_justify="left")
    for name in ("", "own language", "others", "gap"):
        table.add_column(name, justify="right" if name else "left")
    for system, found in gaps.items():
        low, high = found.interval
        table.add_row(system, f"{found.own:.3f}", f"{found.other:.3f}", f"{found.gap:.3f} [{low:.3f}, {high:.3f}]")
    return table


def _average_precisions(projects: Vectors, pool: Vectors, relevant: NDArray[np.bool_]) -> Values:
    """(P,) over the whole pool."""
    places = [np.flatnonzero(row) for row in relevant]
    judged = [Judged(own, np.full(len(own), RELEVANT_GRADE)) for own in places]
    one_group = np.zeros(len(pool), dtype=np.int64)
    ranks = rank_judged(dense_scorer(projects, pool), judged, one_group)
    return np.array([average_precision(found.overall) for found in ranks])
