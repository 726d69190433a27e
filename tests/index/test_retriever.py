"""The retriever: exact answers under filters, online changes, and what it refuses."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from index_helpers import FINGERPRINT, World, clustered, random_rows
from waiting import wait_for

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import FingerprintError, ReleaseError
from skillmatch_ray.index import retriever as retriever_module
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Retriever

QUERIES = clustered(12, seed=7)


@pytest.mark.parametrize(
    "asked",
    [
        Filters(),
        Filters(countries=("FR",)),
        Filters(remote=True, spoken_languages=("en",)),
        Filters(latitude=10, longitude=179, radius_km=3000),
        Filters(latitude=40, longitude=3, include_unknown=True),
        Filters(spoken_languages=("eo", "pt")),
        Filters(max_daily_rate_eur=101),
    ],
)
def test_the_best_are_found_in_order(asked: Filters, read_only: tuple[World, Retriever]) -> None:
    world, retriever = read_only
    for query in QUERIES:
        exact = world.exact(query, asked, 10)
        found = retriever.search(query, asked, 10, fingerprint=FINGERPRINT)
        assert found.exhausted == (len(exact) < 10)
        assert [c.freelancer_id for c in found.candidates] == [freelancer for freelancer, _ in exact]
        np.testing.assert_allclose([c.score for c in found.candidates], [score for _, score in exact], atol=1e-5)


def test_the_payload_shows_the_profile(read_only: tuple[World, Retriever]) -> None:
    world, retriever = read_only
    (first,) = retriever.search(world.vectors[5], top_k=1, fingerprint=FINGERPRINT).candidates
    row = world.rows[5]
    assert first.freelancer_id == row.id
    assert first.payload["headline"] == row.headline
    assert first.payload.get("country") == row.country


def test_paging_goes_on_until_enough_pass(read_only: tuple[World, Retriever], monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages far too small for the check on distance, the answer is the same."""
    world, retriever = read_only
    asked = Filters(latitude=10, longitude=10, radius_km=15_000)
    monkeypatch.setattr(retriever_module, "_PAGE_GROWTH", 1)
    for wanted, page in ((20, 3), (10_000, 100)):
        monkeypatch.setattr("skillmatch_ray.index.plan.first_limit", lambda *_, page=page: page)
        found = retriever.search(QUERIES[0], asked, wanted, fingerprint=FINGERPRINT, plan=True)
        assert found.plan is not None
        assert found.plan.pages > 5
        exact = world.exact(QUERIES[0], asked, wanted)
        assert [c.freelancer_id for c in found.candidates] == [freelancer for freelancer, _ in exact]
        assert found.exhausted == (wanted == 10_000)


def test_the_plan_is_told_when_asked_for(read_only: tuple[World, Retriever]) -> None:
    world, retriever = read_only
    assert retriever.search(QUERIES[0], fingerprint=FINGERPRINT).plan is None
    asked = Filters(countries=("FR", "DE"))
    plan = retriever.search(QUERIES[0], asked, fingerprint=FINGERPRINT, plan=True).plan
    assert plan is not None
    true_share = sum(row.country in ("FR", "DE") for row in world.rows) / len(world.rows)
    assert plan.share == pytest.approx(true_share, abs=0.01)
    assert plan.rows == len(world.rows)
    assert plan.expression == 'country in ["FR", "DE"]'


def test_vectors_of_another_space_or_shape_are_refused(read_only: tuple[World, Retriever]) -> None:
    _, retriever = read_only
    with pytest.raises(FingerprintError, match="bbbbbbbbbbbb"):
        retriever.search(QUERIES[0], fingerprint="b" * 64)
    with pytest.raises(ReleaseError, match="32 finite numbers"):
        retriever.search(QUERIES[0][:5], fingerprint=FINGERPRINT)
    with pytest.raises(ReleaseError, match="finite"):
        retriever.search(QUERIES[0] * np.nan, fingerprint=FINGERPRINT)
    with pytest.raises(ReleaseError, match="top_k"):
        retriever.search(QUERIES[0], top_k=0, fingerprint=FINGERPRINT)


def test_similar_freelancers_are_others(read_only: tuple[World, Retriever]) -> None:
    world, retriever = read_only
    found = retriever.similar("f000003", top_k=5)
    assert found is not None
    expected = world.exact(world.vectors[3], Filters(exclude_ids=("f000003",)), 5)
    assert [c.freelancer_id for c in found.candidates] == [freelancer for freelancer, _ in expected]
    assert retriever.similar("nobody") is None


def test_online_changes_are_found_at_once_and_survive(world: World) -> None:
    world.release()
    rows = random_rows(4, seed=9)
    newcomers = [Freelancer.model_validate({**row, "freelancer_id": f'new "{i}" \\'}) for i, row in enumerate(rows)]
    vectors = clustered(4, seed=9)
    with Retriever(world.config) as retriever:
        for newcomer, vector in zip(newcomers, vectors, strict=True):
            retriever.upsert(newcomer, vector, fingerprint=FINGERPRINT)
            # Servers show a write within their staleness bound; Milvus Lite at once.
            wait_for(lambda v=vector, n=newcomer: best(retriever, v) == n.id, "the newcomer's appearance")
        retriever.delete(newcomers[0].id)
        retriever.delete("f000007")
        wait_for(lambda: best(retriever, vectors[0]) != newcomers[0].id, "the deletion")
        assert retriever.get("f000007") is None
        changed = newcomers[1].model_copy(update={"country": "PT", "daily_rate_eur": 1.0})
        retriever.upsert(changed, vectors[1], fingerprint=FINGERPRINT)
        cheap = Filters(countries=("PT",), max_daily_rate_eur=1)
        wait_for(lambda: retriever.search(vectors[1], cheap, fingerprint=FINGERPRINT).candidates, "the new rate")
        with pytest.raises(ReleaseError, match="length"):
            retriever.upsert(changed, vectors[1] * 3, fingerprint=FINGERPRINT)
    with Retriever(world.config) as retriever:
        assert best(retriever, vectors[2]) == newcomers[2].id
        assert retriever.get(newcomers[0].id) is None


def best(retriever: Retriever, vector: np.ndarray) -> str:
    return retriever.search(vector, top_k=1, fingerprint=FINGERPRINT).candidates[0].freelancer_id


def test_changes_journalled_by_others_are_applied(world: World) -> None:
    """As when the command line deletes while a server holds the index."""
    from skillmatch_ray.index.release import ReleaseStore

    world.release()
    with Retriever(world.config) as retriever:
        assert retriever.get("f000004") is not None
        ReleaseStore(world.workspace).journal.delete("f000004")
        assert retriever.get("f000004") is None


def test_a_search_does_not_wait_for_a_long_update(read_only: tuple[World, Retriever]) -> None:
    from skillmatch_ray.index.release import ReleaseStore

    world, retriever = read_only
    ReleaseStore(world.workspace).journal.delete("nobody")
    held, go = threading.Event(), threading.Event()

    def update() -> None:
        with retriever._writing:
            held.set()
            go.wait(60)

    writer = threading.Thread(target=update)
    writer.start()
    assert held.wait(60)
    found = retriever.search(QUERIES[0], top_k=3, fingerprint=FINGERPRINT)
    assert writer.is_alive()
    go.set()
    writer.join(60)
    assert [c.freelancer_id for c in found.candidates] == [key for key, _ in world.exact(QUERIES[0], Filters(), 3)]
