"""Exact ranks of judged freelancers and the best places, counted while the corpus streams by in blocks.

No Q x N matrix is ever held. Shapes: Q queries, N freelancers, B freelancers of a block, J judged, k places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        top_in_group: group number -> (k,) positions of the best of that group; of the groups that judged ones are of.
    """

    overall: NDArray[np.int64]
    in_group: NDArray[np.int64]
    top: Places = field(default_factory=lambda: _NOWHERE)
    top_in_group: Mapping[int, Places] = field(default_factory=dict)


def rank_judged(
    scorer: Scorer, judged: Sequence[Judged], groups: NDArray[np.integer], top: int = 0
) -> list[QueryRanks]:
    """Exact ranks; of equal scores the one that stands earlier in the corpus comes first.

    Args:
        scorer: scores of one system.
        judged: for each query.
        groups: (N,) group number of each freelancer.
        top: k, how many of the best to remember, overall and in each group.
    """
    counts = [
        _Count(query, own, groups, top) for query, own in zip(judged, _own_scores(scorer, judged, groups), strict=True)
    ]
    for start, end in _blocks(len(judged), len(groups)):
        members = _members(groups[start:end]) if top else {}
        for count, scores in zip(counts, scorer(start, end), strict=True):
            count.add(start, scores, members)
    return [count.ranks() for count in counts]


def _members(groups: NDArray[np.integer]) -> dict[int, Places]:
    """Group number -> positions of its freelancers in a block."""
    return {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}


class _Best:
    """The k best of those seen so far."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores = np.zeros(0, dtype=np.float32)
        self.places = _NOWHERE

    def add(self, places: Places, scores: Scores) -> None:
        """See some more, whose positions come after all before."""
        full = len(self.scores) == self.k
        # A later one must be better to come in: of equal scores the earlier stays.
        new = np.flatnonzero(scores > self.scores[-1]) if full else np.arange(len(scores))
        if len(new) > self.k:
            bar = np.partition(scores[new], -self.k)[-self.k]
            new = new[scores[new] >= bar]
        if len(new):
            every = np.concatenate([self.scores, scores[new]])
            order = np.argsort(-every, kind="stable")[: self.k]
            self.scores = every[order]
            self.places = np.concatenate([self.places, places[new]])[order]


class _Count:
    """What is known about one query so far."""

    def __init__(self, query: Judged, own: Scores, groups: NDArray[np.integer], top: int) -> None:
        self.query = query
        self.own = own
        self.groups = groups
        self.overall = np.ones(len(own), dtype=np.int64)
        self.in_group = np.ones(len(own), dtype=np.int64)
        self.worst = own.min() if len(own) else np.float32(np.inf)
        self.best = _Best(top)
        self.best_in_group = {group: _Best(top) for group in np.unique(groups[query.places]).tolist()}

    def add(self, start: int, scores: Scores, members: Mapping[int, Places]) -> None:
        """See (B,) scores of the freelancers from `start` on, and who of them are of which group; {} = keep no best."""
        # Whoever scores below the worst judged one is ahead of nobody.
        near = np.flatnonzero(scores >= self.worst)
        if len(near):
            self._count_ahead(start + near, scores[near])
        if members:
            self.best.add(np.arange(start, start + len(scores)), scores)
            for group in self.best_in_group.keys() & members.keys():
                self.best_in_group[group].add(start + members[group], scores[members[group]])

    def _count_ahead(self, places: Places, scores: Scores) -> None:
        ahead = scores[None, :] > self.own[:, None]  # (J, B)
        ahead |= (scores[None, :] == self.own[:, None]) & (places[None, :] < self.query.places[:, None])
        same = self.groups[places][None, :] == self.groups[self.query.places][:, None]
        self.overall += ahead.sum(axis=1)
        self.in_group += (ahead & same).sum(axis=1)

    def ranks(self) -> QueryRanks:
        best = {group: found.places for group, found in self.best_in_group.items()}
        return QueryRanks(self.overall, self.in_group, self.best.places, best)


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
