"""Whether a system prefers freelancers who write in the brief's language.

Of equally relevant freelancers those in the brief's language should not stand higher. Their share among the best
places is compared with their share in the pool; it may be above it without any bias where more of them are relevant,
so that the share among the relevant ones is told too. Shapes: Q queries, R relevant freelancers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.evaluation.metrics import Values
from skillmatch_ray.evaluation.ranking import QueryRanks
from skillmatch_ray.evaluation.task import Task
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE

BIAS_FIGURES = (
    "rank_gap",
    "log2_rank_gap",
    "same_language_share@10",
    "same_language_share_of_relevant",
    "same_language_share_of_pool",
)


def rank_gap(ranks: Values, grades: NDArray[np.int64], same: NDArray[np.bool_]) -> float:
    """Mean rank of those in other languages - mean rank of those in the brief's, grade by grade, then averaged.

    Ranks 1, 4 (same language, grade 3) and 6 (other, grade 3): 6 - 2.5 = 3.5 places. NaN where no grade has both.

    Args:
        ranks: (R,) of relevant freelancers, or a function of them.
        grades: (R,) theirs.
        same: (R,) whether they write in the brief's language.
    """
    gaps = [
        ranks[(grades == grade) & ~same].mean() - ranks[(grades == grade) & same].mean()
        for grade in np.unique(grades)
        if len(set(same[grades == grade].tolist())) == 2
    ]
    return float(np.mean(gaps)) if gaps else float("nan")


def language_bias(task: Task, ranking: Sequence[QueryRanks]) -> dict[str, Values]:
    """The figures of one system -> (Q,) values, NaN for projects of unknown language.

    `rank_gap` is in places, positive where other languages stand lower; `log2_rank_gap` in doublings of the rank.
    """
    rows = []
    languages = task.pool.languages
    shares = np.bincount(languages.codes, minlength=len(languages.names)) / len(languages.codes)
    for project, query, ranks in zip(task.projects, task.judged, ranking, strict=True):
        own = languages.code(project.language)
        relevant = query.grades >= RELEVANT_GRADE
        same = languages.codes[query.places[relevant]] == own
        found, grades = ranks.overall[relevant].astype(np.float64), query.grades[relevant]
        row = [
            rank_gap(found, grades, same),
            rank_gap(np.log2(found), grades, same),
            (languages.codes[ranks.top[:10]] == own).mean(),
            same.mean(),
            shares[own] if own >= 0 else 0.0,
        ]
        rows.append(row if project.language else [np.nan] * len(row))
    return dict(zip(BIAS_FIGURES, np.array(rows).T, strict=True))
