"""Ranking metrics of one query, from the 1-based ranks of its relevant (or graded) freelancers, in any order.

A ranking of millions is never held: these ranks say all that the metrics need. Shapes: R freelancers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RankArray = NDArray[np.int64]


def average_precision(ranks: RankArray) -> float:
    """Mean over relevant freelancers of the precision at their rank; 0 without any.

    Ranks 2 and 3: (1/2 + 2/3) / 2 = 7/12.
    """
    if not len(ranks):
        return 0.0
    return float((np.arange(1, len(ranks) + 1) / np.sort(ranks)).mean())


def recall_at(ranks: RankArray, k: int) -> float:
    """Share of the relevant freelancers that stand at rank k or better; 0 without any."""
    return float((ranks <= k).mean()) if len(ranks) else 0.0


def precision_at(ranks: RankArray, k: int) -> float:
    """Share of the k best places taken by relevant freelancers."""
    return int((ranks <= k).sum()) / k


def r_precision_at(ranks: RankArray, k: int) -> float:
    """Relevant freelancers within the k best / min(k, R), so that 1 can always be reached; 0 without any."""
    return int((ranks <= k).sum()) / min(k, len(ranks)) if len(ranks) else 0.0


def reciprocal_rank(ranks: RankArray) -> float:
    """1 / rank of the best relevant freelancer; 0 without any."""
    return 1.0 / int(ranks.min()) if len(ranks) else 0.0


def ndcg_at(ranks: RankArray, grades: NDArray[np.int64], k: int) -> float:
    """Graded nDCG: linear gain grade / log2(rank + 1) of the k best places / that of the best possible ranking.

    Args:
        ranks: (R,) of all freelancers with a grade above 0.
        grades: (R,) theirs.
        k: places counted.
    """
    inside = ranks <= k
    gain = float((grades[inside] / np.log2(ranks[inside] + 1.0)).sum())
    best = np.sort(grades)[::-1][:k]
    ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
    return gain / ideal if ideal else 0.0
