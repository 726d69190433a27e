"""The last stage: an existing ranking system, in the process or over HTTP, with the search's order as the fallback."""

from __future__ import annotations

import asyncio
import time

import pytest
from ranking_helpers import ranking_server

from skillmatch_ray.config import RankerSettings
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.index.retriever import Candidate
from skillmatch_ray.serving.ranking import OrSearchOrder, RankerService, Ranking
from skillmatch_ray.serving.schemas import MatchRequest

PROJECT = Project(project_id="p1", title="React developer")
CANDIDATES = [Candidate(f"f{i}", 0.9 - i / 10, {"headline": f"number {i}"}) for i in range(4)]
PATIENT_S = 30.0


def ranked(settings, candidates=CANDIDATES):
    async def run():
        return await OrSearchOrder(RankerService(settings).rank, settings.timeout_s).rank(PROJECT, candidates)

    return asyncio.run(run())


def of_class(name, **options):
    return RankerSettings(kind="class", target=f"ranking_helpers:{name}", **{"timeout_s": PATIENT_S, **options})


def test_a_class_gives_the_scores():
    found = ranked(of_class("Reverse", arguments={"factor": 2.0}))
    assert found == Ranking((3, 2, 1, 0), (0.0, 2.0, 4.0, 6.0))
    assert ranked(of_class("Reverse"), []) == Ranking(())


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [("Broken", {}, "RuntimeError"), ("NotANumber", {}, "ValueError"), ("Late", {"timeout_s": 0.05}, "timeout")],
)
def test_the_order_of_the_search_stands_where_the_ranker_fails(name, options, reason):
    started = time.monotonic()
    assert ranked(of_class(name, **options)) == Ranking((0, 1, 2, 3), fallback=reason)
    assert time.monotonic() - started < PATIENT_S


@pytest.mark.parametrize("target", ["ranking_helpers:Unknown", "no_such_module:Ranker", "ranking_helpers:NoRanker"])
def test_a_class_that_is_no_ranker_is_refused_at_the_start(target):
    with pytest.raises(ConfigError, match=target):
        RankerService(RankerSettings(kind="class", target=target))
    with pytest.raises(ConfigError, match="arguments"):
        RankerService(of_class("Broken", arguments={"factor": 2}))


def test_an_endpoint_gets_project_and_candidates_and_gives_scores(monkeypatch):
    monkeypatch.setenv("SKILLMATCH_RANKER_TOKEN", "a-token")
    with ranking_server(lambda _: (200, {"scores": [1, 3, 2, 0]})) as (url, seen):
        found = ranked(RankerSettings(kind="http", url=url, timeout_s=PATIENT_S))
    assert found == Ranking((1, 2, 0, 3), (1.0, 3.0, 2.0, 0.0))
    ((body, headers),) = seen
    assert headers["Authorization"] == "Bearer a-token"
    assert body["project"]["title"] == "React developer"
    assert body["candidates"][1] == {"freelancer_id": "f1", "score": 0.8, "profile": {"headline": "number 1"}}


@pytest.mark.parametrize(
    ("status", "value", "reason"),
    [
        (500, {}, "HTTPStatusError"),
        (200, {"scores": [1, 2]}, "ValueError"),
        (200, {"scores": ["a", "b", "c", "d"]}, "ValueError"),
        (200, {"points": [1, 2, 3, 4]}, "KeyError"),
        (200, [], "TypeError"),
    ],
)
def test_answers_of_an_endpoint_that_are_no_scores(status, value, reason):
    with ranking_server(lambda _: (status, value)) as (url, _):
        assert ranked(RankerSettings(kind="http", url=url, timeout_s=PATIENT_S)).fallback == reason


def test_an_endpoint_that_is_late_or_gone():
    with ranking_server(lambda _: (time.sleep(1), (200, {"scores": [1, 2, 3, 4]}))[1]) as (url, _):
        assert ranked(RankerSettings(kind="http", url=url, timeout_s=0.1)).fallback in ("timeout", "ReadTimeout")
    assert ranked(RankerSettings(kind="http", url=url, timeout_s=PATIENT_S)).fallback == "ConnectError"


def test_agreement_is_the_share_of_the_searchs_best_that_stay():
    # The search's best three are 0, 1, 2; the ranker's are 4, 0, 2.
    assert Ranking((4, 0, 2, 1, 3)).agreement(3) == pytest.approx(2 / 3)
    assert Ranking((1, 0)).agreement(10) == 1.0
    assert Ranking(()).agreement(5) == 1.0


@pytest.mark.e2e
def test_a_match_is_ranked_before_it_is_cut(local):
    request = MatchRequest.model_validate({"project": {"title": "React developer"}, "top_k": 3})

    def answer(**options):
        local.told.clear()
        return asyncio.run(local.flow(**options).answer(request))

    plain = answer()
    settings = of_class("Reverse")
    stage = OrSearchOrder(RankerService(settings).rank, PATIENT_S)
    found = answer(ranker=stage, ranked=10)
    wide = asyncio.run(local.flow().answer(request.model_copy(update={"top_k": 10})))
    assert [c.freelancer_id for c in found.candidates] == [c.freelancer_id for c in wide.candidates[:-4:-1]]
    assert [c.ranker_score for c in found.candidates] == [9, 8, 7]
    assert found.ranking == "ranker"
    assert "rank" in found.milliseconds
    assert ("ranker_agreement", 0.0, {}) in local.told
    broken = answer(ranker=OrSearchOrder(RankerService(of_class("Broken")).rank, PATIENT_S), ranked=10)
    assert [c.freelancer_id for c in broken.candidates] == [c.freelancer_id for c in plain.candidates]
    assert broken.ranking == "search (RuntimeError)"
    assert ("ranker_fallbacks", 1, {"reason": "RuntimeError"}) in local.told
