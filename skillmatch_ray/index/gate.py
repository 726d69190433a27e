"""The gate that a new index must pass before it may answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.index.backend import Backend, Hit, IndexType
from skillmatch_ray.index.plan import parameters

Vectors = NDArray[np.float32]

K: Final = 10
_TIE = 1e-5
_BLEND = 0.2


@dataclass(frozen=True)
class GoldenQuery:
    """A query whose answer is known.

    Attributes:
        name: for the message when it fails.
        vector: (D,) of the release's space.
        freelancer_id: who must be found.
        within: among how many.
    """

    name: str
    vector: Vectors
    freelancer_id: str
    within: int = K


@dataclass
class ExactTop:
    """Running exact top-k of Q queries over rows that stream by.

    Args:
        queries: (Q, D).
        k: rows kept of each query.
    """

    queries: Vectors
    k: int = K
    _scores: Vectors = field(init=False)

    def __post_init__(self) -> None:
        self._scores = np.full((len(self.queries), self.k), -np.inf, dtype=np.float32)

    def add(self, vectors: Vectors) -> None:
        """See (n, D) more rows."""
        scores = np.concatenate([self._scores, self.queries @ vectors.T], axis=1)
        self._scores = (-np.sort(-scores, axis=1)[:, : self.k]).astype(np.float32)

    def recall(self, found: Sequence[Sequence[float]]) -> float:
        """Share of the exact top-k that scores returned for each query reach; rows with equal scores are equal."""
        hits = total = 0
        for exact, got in zip(self._scores, found, strict=True):
            real = exact[np.isfinite(exact)]
            total += len(real)
            if len(real):
                hits += min(len(real), int((np.asarray(got, dtype=np.float32) >= real[-1] - _TIE).sum()))
        return hits / total if total else 1.0


@dataclass
class QueryDraw:
    """Draws query vectors from rows that stream by: rows moved towards others, so that none is just its own answer.

    Args:
        count: queries wanted.
        seed: of the draw.
    """

    count: int
    seed: int
    _kept: list[Vectors] = field(default_factory=list)
    _seen: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, vectors: Vectors) -> None:
        """See (n, D) more rows (reservoir sampling)."""
        for vector in vectors:
            self._seen += 1
            if len(self._kept) < 2 * self.count:
                self._kept.append(vector.copy())
            elif (place := int(self._random.integers(self._seen))) < 2 * self.count:
                self._kept[place] = vector.copy()

    def queries(self) -> Vectors:
        """(Q, D) unit vectors, Q <= count."""
        pool = np.stack(self._kept)[self._random.permutation(len(self._kept))]
        even = len(pool) // 2 * 2
        pairs = (1 - _BLEND) * pool[:even:2] + _BLEND * pool[1:even:2] if even else pool
        lengths = np.linalg.norm(pairs, axis=1, keepdims=True)
        result: Vectors = (pairs / np.where(lengths == 0, 1, lengths)).astype(np.float32)
        return result


@dataclass(frozen=True)
class Verdict:
    """What the gate measured, and why it stays shut if it does.

    Attributes:
        measured: figures for the manifest.
        failures: empty = open.
    """

    measured: dict[str, Any]
    failures: tuple[str, ...]


def judge(
    backend: Backend,
    collection: str,
    expected_rows: int,
    exact: ExactTop,
    golden: Sequence[GoldenQuery],
    needed_recall: float,
) -> Verdict:
    """Check a new collection: row count (duplicate keys would raise it), recall, golden queries."""
    rows = backend.count(collection)
    index_type = backend.index_type(expected_rows)
    found = _search(backend, collection, index_type, exact.queries, K)
    recall = exact.recall([[hit.score for hit in hits] for hits in found])
    missed = [query.name for query in golden if not _finds(backend, collection, index_type, query)]
    measured = {
        "rows": rows,
        "recall_at_10": round(recall, 4),
        "queries": len(exact.queries),
        "golden": len(golden),
        "golden_missed": missed,
    }
    failures = [
        f"it holds {rows} rows instead of {expected_rows}" if rows != expected_rows else "",
        f"recall@10 is {recall:.3f}, below {needed_recall}" if recall < needed_recall else "",
        f"golden queries without their answer: {', '.join(missed)}" if missed else "",
    ]
    return Verdict(measured, tuple(filter(None, failures)))


def _finds(backend: Backend, collection: str, index_type: IndexType, query: GoldenQuery) -> bool:
    (hits,) = _search(backend, collection, index_type, query.vector[None], query.within)
    return query.freelancer_id in {hit.id for hit in hits}


def _search(backend: Backend, collection: str, index_type: IndexType, queries: Vectors, k: int) -> list[list[Hit]]:
    wanted = parameters(index_type, k, backend.settings.ef, filtered=False)
    found: list[list[Hit]] = []
    for start in range(0, len(queries), 16):
        some = queries[start : start + 16]
        # Servers may overlook what was inserted in the last seconds, unless asked not to.
        found += backend.search(collection, some, "", k, wanted, [], consistency_level="Strong")
    return found


def exact_top(queries: Vectors, parts: Iterable[Vectors]) -> ExactTop:
    """Exact answers of (Q, D) queries over all parts."""
    top = ExactTop(queries)
    for part in parts:
        top.add(part)
    return top
