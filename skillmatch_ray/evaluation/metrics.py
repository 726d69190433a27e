"""Ranking metrics of one query, from the 1-based ranks of its relevant (or graded) freelancers, in any order.

A ranking of millions is never held: these ranks say all that the metrics need, and the few best places what the
overlaps need. Shapes: Q queries, R freelancers, k places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RankArray = NDArray[np.int64]
Values = NDArray[np.float64]


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


def mean_at(places: Values, k: int) -> float:
    """Mean of what the k best places are worth, fewer where the pool is smaller; NaN where there are none.

    With 1 for a freelancer of the project's category and 0 for others this is category overlap@k; with the share of
    the project's skills that each freelancer lists it is skill overlap@k.
    """
    return float(places[:k].mean()) if len(places) else float("nan")


def ranking_metrics(ranks: RankArray, grades: NDArray[np.int64], relevant_grade: int) -> dict[str, float]:
    """Every ranking metric of one query.

    Args:
        ranks: (R,) of all freelancers with a grade above 0.
        grades: (R,) theirs.
        relevant_grade: least grade that counts as relevant where a metric knows no grades.
    """
    relevant = ranks[grades >= relevant_grade]
    return {
        "map": average_precision(relevant),
        "ndcg@10": ndcg_at(ranks, grades, 10),
        "recall@10": recall_at(relevant, 10),
        "recall@100": recall_at(relevant, 100),
        "mrr": reciprocal_rank(relevant),
        "precision@5": precision_at(relevant, 5),
        "precision@10": precision_at(relevant, 10),
        "r_precision@5": r_precision_at(relevant, 5),
        "r_precision@10": r_precision_at(relevant, 10),
    }


def recall_curve(relevant_ranks: Sequence[RankArray], ks: Sequence[int]) -> Values:
    """(len(ks),) mean over queries of recall@k, from the ranks of each query's relevant freelancers."""
    return np.array([np.mean([recall_at(ranks, k) for ranks in relevant_ranks]) for k in ks])


def column_table(rows: Sequence[dict[str, float]]) -> dict[str, Values]:
    """Metric -> (Q,) values, from one row a query."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
