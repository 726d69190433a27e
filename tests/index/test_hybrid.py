"""BM25 beside the vectors: fused as the formula says, under the same filters, refused where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from index_helpers import FINGERPRINT, World, clustered, make_world, random_rows

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import MilvusError, ReleaseError
from skillmatch_ray.index.backend import RRF_K
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.index.schema import BM25

ROWS = 150  # fewer than are fused of each ranking, so that nothing is cut off
WORDS = ("welding", "Schweißen", "comptabilité", "react", "piano", "sql")
BRIEF = Project(project_id="p", title="Schweißen, comptabilité", skills=("react",), language="de")
QUERY = clustered(1, seed=5)[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    rng = np.random.default_rng(0)
    rows = random_rows(ROWS)
    for row in rows:
        row["skills"] = [str(word) for word in rng.choice(WORDS, size=2, replace=False)]
    milvus = MilvusSettings(bm25=True, hybrid={"de": "rrf", "fr": "weighted"})
    world = make_world(tmp_path_factory.mktemp("hybrid") / "w", rows, clustered(ROWS), milvus)
    world.release()
    return world


@pytest.fixture(scope="module")
def retriever(world: World) -> Iterator[Retriever]:
    with Retriever(world.config) as opened:
        yield opened


def places_by_words(retriever: Retriever, expression: str) -> dict[str, int]:
    """Rank of everybody who shares a word, from the BM25 column alone."""
    (hits,) = retriever.backend.client.search(
        retriever.release.collection,
        data=["Schweißen, comptabilité\nreact"],
        anns_field=BM25,
        filter=expression,
        limit=ROWS,
        search_params={"metric_type": "BM25"},
    )
    return {hit["freelancer_id"]: place for place, hit in enumerate(hits, start=1)}


@pytest.mark.parametrize("asked", [Filters(), Filters(countries=("FR", "DE"))])
def test_reciprocal_ranks_are_added_up_under_the_filters(world: World, retriever: Retriever, asked: Filters) -> None:
    found = retriever.search(QUERY, asked, ROWS + 1, fingerprint=FINGERPRINT, plan=True, brief=BRIEF)
    assert found.plan is not None
    assert found.plan.fusion == "rrf"
    assert found.exhausted
    dense = world.exact(QUERY, asked, ROWS)
    by_words = places_by_words(retriever, found.plan.expression)
    assert 0 < len(by_words) < len(dense)
    fused = {
        key: 1 / (RRF_K + place) + (1 / (RRF_K + by_words[key]) if key in by_words else 0)
        for place, (key, _) in enumerate(dense, start=1)
    }
    ours = [fused[candidate.freelancer_id] for candidate in found.candidates]
    assert ours == pytest.approx(sorted(fused.values(), reverse=True), abs=1e-6)
    cosines = dict(dense)
    assert [c.score for c in found.candidates] == pytest.approx(
        [cosines[c.freelancer_id] for c in found.candidates], abs=1e-5
    )


def test_checks_after_the_search_page_on(world: World, retriever: Retriever) -> None:
    asked = Filters(latitude=10, longitude=10, radius_km=6000)
    found = retriever.search(QUERY, asked, ROWS, fingerprint=FINGERPRINT, brief=BRIEF)
    assert {c.freelancer_id for c in found.candidates} == {key for key, _ in world.exact(QUERY, asked, ROWS)}
    assert found.exhausted


def test_weighted_scores_lift_those_who_share_words(world: World, retriever: Retriever) -> None:
    brief = BRIEF.model_copy(update={"language": "fr"})
    found = retriever.search(QUERY, top_k=20, fingerprint=FINGERPRINT, plan=True, brief=brief)
    assert found.plan is not None
    assert found.plan.fusion == "weighted"
    by_words = places_by_words(retriever, "")
    dense = [key for key, _ in world.exact(QUERY, Filters(), 20)]
    assert sum(c.freelancer_id in by_words for c in found.candidates) > sum(key in by_words for key in dense)


@pytest.mark.parametrize(
    "brief", [None, BRIEF.model_copy(update={"language": "es"}), BRIEF.model_copy(update={"language": None})]
)
def test_other_languages_are_searched_by_vector_alone(
    world: World, retriever: Retriever, brief: Project | None
) -> None:
    found = retriever.search(QUERY, top_k=10, fingerprint=FINGERPRINT, plan=True, brief=brief)
    assert found.plan is not None
    assert found.plan.fusion is None
    assert [c.freelancer_id for c in found.candidates] == [key for key, _ in world.exact(QUERY, Filters(), 10)]


def test_words_of_online_changes_count(retriever: Retriever) -> None:
    newcomer = Freelancer(freelancer_id="new", headline="Glasbläserei")
    retriever.upsert(newcomer, -QUERY, fingerprint=FINGERPRINT)
    brief = Project(project_id="p", title="glasbläserei", language="de")
    found = retriever.search(QUERY, top_k=3, fingerprint=FINGERPRINT, brief=brief)
    retriever.delete("new")
    assert "new" in [c.freelancer_id for c in found.candidates]


def test_an_index_without_words_is_refused(tmp_path: Path) -> None:
    plain = make_world(tmp_path / "w", random_rows(20), clustered(20))
    plain.release()
    asking = plain.config.model_copy(update={"milvus": MilvusSettings(hybrid={"fr": "rrf"})})
    with pytest.raises(ReleaseError, match=r"built without BM25.*milvus\.bm25=true"):
        Retriever(asking)


def test_a_server_without_bm25_says_so(server_uri: str, tmp_path: Path) -> None:
    milvus = MilvusSettings(uri=server_uri, bm25=True, alias="words", timeout_s=30)
    world = make_world(tmp_path / "w", random_rows(20), clustered(20), milvus)
    with pytest.raises(MilvusError, match=r"version v2\.3\.5.*has no BM25"):
        world.build()
