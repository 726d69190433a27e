"""Exact ranks of judged freelancers and the best places, counted while the corpus streams by in blocks.

No Q x N matrix is ever held. Shapes: Q queries, N freelancers, B freelancers of a block, J judged, k places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Places = NDArray[np.int64]
Scorer = Callable[[int, int], Scores]
"""(start, end) -> (Q, end - start) scores of these freelancers for every query."""

BLOCK = 8192
"""Most freelancers that are scored at once."""
BLOCK_SCORES = 1 << 24
"""Most scores that are held at once: 64 MB."""

_NOWHERE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Judged:
    """The judged freelancers of one query.

    Attributes:
        places: (J,) their positions in the corpus.
        grades: (J,) 1 to 3.
    """

    places: Places
    grades: NDArray[np.int64]


@dataclass(frozen=True)
class QueryRanks:
    """Where one system put the freelancers of one query.

    Attributes:
        overall: (J,) rank of each judged one in the whole corpus, 1 = best.
        in_group: (J,) rank of each judged one among the freelancers of their own group (their language).
        top: (k,) positions in the corpus of the best, best first.
    """

    overall: NDArray[np.int64]
    in_group: NDArray[np.int64]
    top: Places = field(default_factory=lambda: _NOWHERE)


def rank_judged(
    scorer: Scorer, judged: Sequence[Judged], groups: NDArray[np.integer], top: int = 0
) -> list[QueryRanks]:
    """Exact ranks; of equal scores the one that stands earlier in the corpus comes first.

    Args:
        scorer: scores of one system.
        judged: for each query.
        groups: (N,) group number of each freelancer.
        top: k, how many of the best to remember.
    """
    counts = [
        _Count(query, own, groups, top) for query, own in zip(judged, _own_scores(scorer, judged, groups), strict=True)
    ]
    for start, end in _blocks(len(judged), len(groups)):
        for count, scores in zip(counts, scorer(start, end), strict=True):
            count.add(start, scores)
    return [count.ranks() for count in counts]


class _Count:
    """What is known about one query so far."""

    def __init__(self, query: Judged, own: Scores, groups: NDArray[np.integer], top: int) -> None:
        self.query = query
        self.own = own
        self.groups = groups
        self.overall = np.ones(len(own), dtype=np.int64)
        self.in_group = np.ones(len(own), dtype=np.int64)
        self.worst = own.min() if len(own) else np.float32(np.inf)
        self.top = top
        self.best = np.zeros(0, dtype=np.float32)
        self.best_places = _NOWHERE

    def add(self, start: int, scores: Scores) -> None:
        """See (B,) scores of the freelancers from `start` on."""
        # Whoever scores below the worst judged one is ahead of nobody.
        near = np.flatnonzero(scores >= self.worst)
        if len(near):
            self._count_ahead(start + near, scores[near])
        if self.top:
            self._keep_best(start, scores)

    def _count_ahead(self, places: Places, scores: Scores) -> None:
        ahead = scores[None, :] > self.own[:, None]  # (J, B)
        ahead |= (scores[None, :] == self.own[:, None]) & (places[None, :] < self.query.places[:, None])
        same = self.groups[places][None, :] == self.groups[self.query.places][:, None]
        self.overall += ahead.sum(axis=1)
        self.in_group += (ahead & same).sum(axis=1)

    def _keep_best(self, start: int, scores: Scores) -> None:
        full = len(self.best) == self.top
        # A later one must be better to come in: of equal scores the earlier stays.
        new = np.flatnonzero(scores > self.best[-1]) if full else np.arange(len(scores))
        if len(new) > self.top:
            bar = np.partition(scores[new], -self.top)[-self.top]
            new = new[scores[new] >= bar]
        if len(new):
            every = np.concatenate([self.best, scores[new]])
            order = np.argsort(-every, kind="stable")[: self.top]
            self.best = every[order]
            self.best_places = np.concatenate([self.best_places, start + new])[order]

    def ranks(self) -> QueryRanks:
        return QueryRanks(self.overall, self.in_group, self.best_places)


def _own_scores(scorer: Scorer, judged: Sequence[Judged], groups: NDArray[np.integer]) -> list[Scores]:
    """(J,) scores of each query's judged freelancers, taken from the same blocks that are ranked.

    A product of other shape may differ in its last bits, and a freelancer would then be ahead of themselves.
    """
    own = [np.zeros(len(query.places), dtype=np.float32) for query in judged]
    asked = np.unique(np.concatenate([query.places for query in judged])) if judged else _NOWHERE
    for start, end in _blocks(len(judged), len(groups)):
        if np.searchsorted(asked, start) == np.searchsorted(asked, end):
            continue
        scores = scorer(start, end)
        for q, query in enumerate(judged):
            inside = (query.places >= start) & (query.places < end)
            own[q][inside] = scores[q][query.places[inside] - start]
    return own


def _blocks(queries: int, freelancers: int) -> Iterator[tuple[int, int]]:
    size = max(1, min(BLOCK, BLOCK_SCORES // max(1, queries)))
    for start in range(0, freelancers, size):
        yield start, min(start + size, freelancers)


def dense_scorer(queries: Scores, corpus: Scores) -> Scorer:
    """Dot products of (Q, D) and (N, D) vectors; those of the corpus may lie in a mapped file."""
    return lambda start, end: queries @ np.asarray(corpus[start:end]).T


def matrix_scorer(scores: Scores) -> Scorer:
    """Scores that are known already, (Q, N)."""
    return lambda start, end: scores[:, start:end]
