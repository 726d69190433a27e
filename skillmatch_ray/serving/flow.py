"""One match, hop by hop: encode, search, rank, explain; each timed, counted, and remembered where wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Candidate
from skillmatch_ray.serving.admission import request_id
from skillmatch_ray.serving.operations import Operation, Order
from skillmatch_ray.serving.ranking import Ranking
from skillmatch_ray.serving.schemas import CandidateOutput, MatchRequest, MatchResponse
from skillmatch_ray.serving.served import ServedLog, ServedMatch
from skillmatch_ray.serving.services import Found, Vector

Observe = Callable[[str, float, dict[str, str]], None]
"""Called with a metric's name, its value and its tags."""


class Encoder(Protocol):
    """Documents to vectors, wherever that runs."""

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of the model that made it."""

    async def encode_freelancer(self, freelancer: Freelancer) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of the model that made it."""

    async def explain(
        self, project: Project, freelancers: Sequence[Freelancer], fingerprint: str
    ) -> list[dict[str, Any]]:
        """Reasons for each freelancer's score by one model."""

    async def fingerprint(self) -> str:
        """Of the model that encodes new requests."""


class Searcher(Protocol):
    """The index, wherever it is open."""

    async def search(
        self, vector: Vector, filters: Filters, top_k: int, fingerprint: str, brief: Project | None = None
    ) -> Found:
        """Candidates from the index of the vector's space."""

    async def similar(self, freelancer_id: str, top_k: int) -> Found | None:
        """Freelancers like one."""

    async def profiles(self, freelancer_ids: Sequence[str], fingerprint: str) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""

    async def upsert(self, freelancer: Freelancer, vector: Vector, fingerprint: str) -> None:
        """Add or replace a freelancer."""

    async def delete(self, freelancer_id: str) -> None:
        """Remove a freelancer."""

    async def release(self, fingerprint: str | None = None) -> dict[str, Any]:
        """The open release of a space, or the active one."""

    async def ready(self, fingerprint: str) -> dict[str, Any]:
        """The release of a space, if its index answers."""

    async def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases."""

    async def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""

    async def operate(self, order: Order) -> Operation | None:
        """Begin an operation on releases, once however often it is ordered; None while another one runs."""

    async def operation(self, operation_id: str) -> Operation | None:
        """How an operation goes, or None if there was no such one lately."""


class Ranks(Protocol):
    """The last stage, wherever it runs."""

    async def rank(self, project: Project, candidates: Sequence[Candidate]) -> Ranking:
        """The candidates' order."""


class MatchFlow:
    """Answers match requests.

    Args:
        encoder: of briefs.
        searcher: of candidates.
        ranker: of candidates, where there is a last stage.
        ranked: candidates that the search hands to the ranker, at least.
        observe: where metrics go.
        served: where it is remembered who was shown.
    """

    def __init__(
        self,
        encoder: Encoder,
        searcher: Searcher,
        *,
        ranker: Ranks | None = None,
        ranked: int = 0,
        observe: Observe = lambda *_: None,
        served: ServedLog | None = None,
    ) -> None:
        self.encoder = encoder
        self.searcher = searcher
        self._ranker = ranker
        self._ranked = ranked if ranker else 0
        self._observe = observe
        self._served = served

    async def answer(self, request: MatchRequest) -> MatchResponse:
        """The best freelancers for one brief."""
        clock = _Clock()
        project = request.project
        filters = request.filters if request.filters is not None else Filters.from_project(project)
        vector, fingerprint = await self.encoder.encode(project)
        clock.lap("encode")
        found = await self.searcher.search(vector, filters, max(request.top_k, self._ranked), fingerprint, project)
        clock.lap("search")
        candidates, ranking = found.result.candidates, None
        if self._ranker:
            ranking = await self._ranker.rank(project, candidates)
            clock.lap("rank")
        order = ranking.order if ranking else range(len(candidates))
        shown = list(order)[: request.top_k]
        reasons: dict[str, dict[str, Any]] = {}
        if request.explain:
            reasons = await self._reasons(project, [candidates[at] for at in shown], fingerprint)
            clock.lap("explain")
        self._tell(clock, found, ranking, len(shown), request.top_k)
        outputs = [_output(candidates[at], at, ranking, reasons) for at in shown]
        self._remember(project, found, outputs)
        plan = found.result.plan
        return MatchResponse(
            release=found.release,
            fingerprint=fingerprint,
            exhausted=found.result.exhausted and len(candidates) <= request.top_k,
            candidates=outputs,
            ranking=_told(ranking),
            plan=asdict(plan) if request.plan and plan else None,
            milliseconds=clock.laps,
        )

    async def _reasons(
        self, project: Project, candidates: Sequence[Candidate], fingerprint: str
    ) -> dict[str, dict[str, Any]]:
        profiles = await self.searcher.profiles([c.freelancer_id for c in candidates], fingerprint)
        known = [profile for profile in profiles if profile]
        explained = await self.encoder.explain(project, known, fingerprint)
        return dict(zip((profile.id for profile in known), explained, strict=True))

    def _tell(self, clock: _Clock, found: Found, ranking: Ranking | None, returned: int, top_k: int) -> None:
        for hop, milliseconds in clock.laps.items():
            self._observe("hop_ms", milliseconds, {"hop": hop})
        plan, release = found.result.plan, {"release": found.release, "fingerprint": found.fingerprint[:16]}
        self._observe("candidates", returned, {"stage": "returned"})
        if plan:
            self._observe("candidates", plan.rows, {"stage": "before_filters"})
            self._observe("candidates", round(plan.share * plan.rows), {"stage": "after_filters"})
            self._observe("candidates", plan.looked_at, {"stage": "looked_at"})
            self._observe("release_rows", plan.rows, release)
        if not returned:
            self._observe("empty_results", 1, {})
        if ranking and ranking.fallback:
            self._observe("ranker_fallbacks", 1, {"reason": ranking.fallback})
        elif ranking:
            self._observe("ranker_agreement", ranking.agreement(top_k), {})
        self._observe("matches", 1, release)

    def _remember(self, project: Project, found: Found, outputs: Sequence[CandidateOutput]) -> None:
        if self._served is None:
            return
        self._served.record(
            ServedMatch(
                request_id=request_id.get(),
                project_id=project.project_id,
                release=found.release,
                fingerprint=found.fingerprint,
                candidates=[(one.freelancer_id, one.score) for one in outputs],
            )
        )


def _output(
    candidate: Candidate, at: int, ranking: Ranking | None, reasons: dict[str, dict[str, Any]]
) -> CandidateOutput:
    return CandidateOutput(
        freelancer_id=candidate.freelancer_id,
        score=candidate.score,
        ranker_score=ranking.scores[at] if ranking and ranking.scores else None,
        profile=candidate.payload,
        explanation=reasons.get(candidate.freelancer_id),
    )


def _told(ranking: Ranking | None) -> str | None:
    if ranking is None:
        return None
    return f"search ({ranking.fallback})" if ranking.fallback else "ranker"


class _Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(1000 * (now - self._last), 3)
        self._last = now
