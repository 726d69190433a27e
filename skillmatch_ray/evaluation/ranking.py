"""Exact ranks of judged freelancers, counted in one pass over the corpus in blocks.

Shapes: Q queries, N freelancers, B freelancers of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Scorer = Callable[[int, int], Scores]
"""(start, end) -> (Q, end - start) scores of these freelancers for every query."""

BLOCK = 8192


@dataclass(frozen=True)
class Judged:
    """The judged freelancers of one query.

    Attributes:
        places: (J,) their positions in the corpus.
        grades: (J,) 1 to 3.
    """

    places: NDArray[np.int64]
    grades: NDArray[np.int64]


@dataclass(frozen=True)
class QueryRanks:
    """Where one system put the judged freelancers of one query.

    Attributes:
        overall: (J,) rank in the whole corpus, 1 = best.
        in_group: (J,) rank among the freelancers of their own group (their language).
    """

    overall: NDArray[np.int64]
    in_group: NDArray[np.int64]


def rank_judged(scorer: Scorer, judged: Sequence[Judged], groups: NDArray[np.int64]) -> list[QueryRanks]:
    """Exact ranks; of equal scores the one that stands earlier in the corpus comes first.

    Args:
        scorer: scores of one system.
        judged: for each query.
        groups: (N,) group number of each freelancer.
    """
    own = _own_scores(scorer, judged, len(groups))
    overall = [np.ones(len(j.places), dtype=np.int64) for j in judged]
    in_group = [np.ones(len(j.places), dtype=np.int64) for j in judged]
    for start in range(0, len(groups), BLOCK):
        end = min(start + BLOCK, len(groups))
        scores = scorer(start, end)
        places = np.arange(start, end)
        for q, query in enumerate(judged):
            ahead = scores[q][None, :] > own[q][:, None]
            ahead |= (scores[q][None, :] == own[q][:, None]) & (places[None, :] < query.places[:, None])
            same = groups[start:end][None, :] == groups[query.places][:, None]
            overall[q] += ahead.sum(axis=1)
            in_group[q] += (ahead & same).sum(axis=1)
    return [QueryRanks(a, b) for a, b in zip(overall, in_group, strict=True)]


def _own_scores(scorer: Scorer, judged: Sequence[Judged], count: int) -> list[Scores]:
    """(J,) scores of each query's judged freelancers, taken from the same blocks that are ranked."""
    own = [np.zeros(len(query.places), dtype=np.float32) for query in judged]
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        scores = scorer(start, end)
        for q, query in enumerate(judged):
            inside = (query.places >= start) & (query.places < end)
            own[q][inside] = scores[q][query.places[inside] - start]
    return own


def dense_scorer(queries: Scores, corpus: Scores) -> Scorer:
    """Dot products of (Q, D) and (N, D) vectors."""
    return lambda start, end: queries @ corpus[start:end].T


def matrix_scorer(scores: Scores) -> Scorer:
    """Scores that are known already, (Q, N)."""
    return lambda start, end: scores[:, start:end]
