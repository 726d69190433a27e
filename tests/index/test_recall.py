"""Recall against exact search, for filters from everybody to one in a thousand, on both backends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SLOW_SERVERS, settings_of
from index_helpers import FINGERPRINT, World, clustered, make_world, overlapping, random_rows

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.index.retriever import Retriever

SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)
DIM = 384
QUERIES = 10


def people(count: int) -> list[dict[str, object]]:
    """Rates spread evenly, so that a limit on the rate passes a known share."""
    rates = np.random.default_rng(0).permutation(count)
    return [
        {"freelancer_id": f"freelancer-{i:07d}", "headline": "h", "daily_rate_eur": float(rate)}
        for i, rate in enumerate(rates)
    ]


def indexed(root: Path, milvus: MilvusSettings, vectors: np.ndarray) -> World:
    world = make_world(
        root, people(len(vectors)), vectors, milvus.model_copy(update={"alias": f"recall_{root.parent.name}"})
    )
    world.release()
    return world


def check_recall(world: World, queries: np.ndarray) -> None:
    count = len(world.rows)
    with Retriever(world.config) as retriever:
        for share in SHARES:
            asked = Filters() if share == 1 else Filters(max_daily_rate_eur=share * count - 0.5)
            for k in (10, 100):
                assert (recall := mean_recall(world, retriever, queries, asked, k)) >= 0.95, (share, k, recall)


def mean_recall(world: World, retriever: Retriever, queries: np.ndarray, asked: Filters, k: int) -> float:
    passing = [i for i, row in enumerate(world.rows) if asked.max_daily_rate_eur is None or _cheap(row, asked)]
    hits = total = 0
    for query in queries:
        scores = world.vectors[passing] @ query
        exact = {world.rows[passing[i]].id for i in np.argsort(-scores)[:k]}
        result = retriever.search(query, asked, k, fingerprint=FINGERPRINT)
        assert len(result.candidates) == min(k, len(passing))
        assert result.exhausted == (len(passing) < k)
        hits += len(exact & {candidate.freelancer_id for candidate in result.candidates})
        total += len(exact)
    return hits / total


def _cheap(row: object, asked: Filters) -> bool:
    return row.daily_rate_eur <= asked.max_daily_rate_eur  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(params=["lite", *SLOW_SERVERS])
def backend(request: pytest.FixtureRequest) -> MilvusSettings:
    return settings_of(request)


def test_recall_at_10_000_rows(backend: MilvusSettings, tmp_path: Path) -> None:
    rows = 10_000
    check_recall(indexed(tmp_path / "w", backend, clustered(rows, DIM)), clustered(QUERIES, DIM, seed=17))


@pytest.mark.slow
def test_recall_of_a_graph(server_uri: str, tmp_path: Path) -> None:
    """The index that servers get above `exact_below_rows`, on vectors whose clusters are no islands."""
    milvus = MilvusSettings(uri=server_uri, exact_below_rows=0, timeout_s=30)
    world = indexed(tmp_path / "w", milvus, overlapping(10_000, DIM))
    assert active_release(world.workspace).index_type == "HNSW"
    check_recall(world, overlapping(QUERIES, DIM, seed=17))


@pytest.mark.slow
def test_a_graph_that_falls_apart_still_gives_enough(server_uri: str, tmp_path: Path) -> None:
    """Islands of a hundred rows: the graph alone gives too few, which is noticed."""
    milvus = MilvusSettings(uri=server_uri, exact_below_rows=0, timeout_s=30, m=4)
    world = indexed(tmp_path / "w", milvus, clustered(6000, DIM, clusters=60))
    asked, k = Filters(max_daily_rate_eur=0.4 * 6000 - 0.5), 100
    with Retriever(world.config) as retriever:
        for query in clustered(QUERIES, DIM, seed=17, clusters=60):
            assert len(retriever.search(query, asked, k, fingerprint=FINGERPRINT).candidates) == k


@pytest.mark.slow
def test_a_graph_is_paged_deeper_than_its_first_ef(
    server_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    milvus = MilvusSettings(uri=server_uri, exact_below_rows=0, timeout_s=30, alias="deep", ef=16)
    world = make_world(tmp_path / "w", random_rows(6000), overlapping(6000, DIM), milvus)
    world.release()
    asked, k = Filters(latitude=0, longitude=0, radius_km=15_000), 1500
    monkeypatch.setattr("skillmatch_ray.index.plan.first_limit", lambda *_: 10)
    (query,) = overlapping(1, DIM, seed=17)
    with Retriever(world.config) as retriever:
        found = retriever.search(query, asked, k, fingerprint=FINGERPRINT, plan=True)
    assert found.plan is not None
    assert found.plan.mode == "approximate"
    assert found.plan.pages > 3
    assert max(found.plan.parameters.values()) < k == len(found.candidates)
    exact = {key for key, _ in world.exact(query, asked, k)}
    assert len(exact & {candidate.freelancer_id for candidate in found.candidates}) >= 0.95 * k


@pytest.mark.slow
def test_recall_at_100_000_rows(backend: MilvusSettings, tmp_path: Path) -> None:
    rows = 100_000
    world = indexed(tmp_path / "w", backend, clustered(rows, DIM, clusters=1000))
    check_recall(world, clustered(QUERIES, DIM, seed=17, clusters=1000))
