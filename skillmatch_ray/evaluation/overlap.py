"""Category and skill overlap of the best places with the project (the paper reports both by project language).

Shapes: Q queries, k places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.evaluation.metrics import Values, mean_at
from skillmatch_ray.evaluation.ranking import QueryRanks
from skillmatch_ray.evaluation.skills import Skills, listed_skills, skill_share
from skillmatch_ray.evaluation.task import Pool, Task

TOP = 10
"""Best places that are looked at."""


def skills_at(pool: Pool, rankings: Iterable[Sequence[QueryRanks]]) -> dict[int, Skills]:
    """Listed skills of everybody in one of the best places of one of the systems."""
    places = np.unique(np.concatenate([ranks.top for ranking in rankings for ranks in ranking]))
    return {place: listed_skills(freelancer) for place, freelancer in pool.at(places.tolist()).items()}


def overlaps(task: Task, ranking: Sequence[QueryRanks], skills: Mapping[int, Skills]) -> dict[str, Values]:
    """Overlap@10 of one system -> (Q,) values, NaN where the project says no category or lists no skill."""
    categories, shares = [], []
    for project, ranks in zip(task.projects, ranking, strict=True):
        same = task.pool.categories.codes[ranks.top] == task.pool.categories.code(project.job_category)
        categories.append(mean_at(_or_nan(same, known=bool(project.job_category)), TOP))
        found = np.array([skill_share(project, skills[place]) for place in ranks.top.tolist()])
        shares.append(mean_at(found, TOP))
    return {f"category_overlap@{TOP}": np.array(categories), f"skill_overlap@{TOP}": np.array(shares)}


def _or_nan(flags: NDArray[np.bool_], *, known: bool) -> Values:
    return flags.astype(np.float64) if known else np.full(len(flags), np.nan)
