"""Category and skill overlap of the best places with the project (the paper reports both by project language).

Shapes: Q queries, k places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.documents import Project
from skillmatch_ray.evaluation.metrics import Values, column_table, mean_at
from skillmatch_ray.evaluation.ranking import Places, QueryRanks
from skillmatch_ray.evaluation.skills import Skills, listed_skills, skill_share
from skillmatch_ray.evaluation.task import Pool, Task

TOP = 10
"""Best places that are looked at."""


def skills_at(pool: Pool, rankings: Iterable[Sequence[QueryRanks]]) -> dict[int, Skills]:
    """Listed skills of everybody in one of the best places of one of the systems, overall or within a language."""
    ranks = [one for ranking in rankings for one in ranking]
    places = np.unique(np.concatenate([best for one in ranks for best in (one.top, *one.top_in_group.values())]))
    return {place: listed_skills(freelancer) for place, freelancer in pool.at(places.tolist()).items()}


def overlaps(task: Task, ranking: Sequence[QueryRanks], skills: Mapping[int, Skills]) -> dict[str, Values]:
    """Overlap@10 of one system -> (Q,) values, NaN where the project says no category or lists no skill."""
    pairs = zip(task.projects, ranking, strict=True)
    return column_table([overlap_of(task.pool, project, ranks.top, skills) for project, ranks in pairs])


def overlap_of(pool: Pool, project: Project, best: Places, skills: Mapping[int, Skills]) -> dict[str, float]:
    """Overlap@10 of one project with the best places of some pool; NaN where it says no category or lists no skill."""
    same = pool.categories.codes[best] == pool.categories.code(project.job_category)
    shares = np.array([skill_share(project, skills[place]) for place in best.tolist()])
    return {
        f"category_overlap@{TOP}": mean_at(_or_nan(same, known=bool(project.job_category)), TOP),
        f"skill_overlap@{TOP}": mean_at(shares, TOP),
    }


def _or_nan(flags: NDArray[np.bool_], *, known: bool) -> Values:
    return flags.astype(np.float64) if known else np.full(len(flags), np.nan)
