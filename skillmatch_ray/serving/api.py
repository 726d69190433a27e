"""The HTTP API over any encoder and retriever: what is the same with and without Serve."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import FingerprintError, SkillmatchError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import SearchResult
from skillmatch_ray.serving.admission import request_id
from skillmatch_ray.serving.operations import Operation, Order, add_operations
from skillmatch_ray.serving.page import add_page
from skillmatch_ray.serving.schemas import (
    IN_PATH,
    MAX_RESULTS,
    BatchRequest,
    BatchResponse,
    CandidateOutput,
    ExplainedFreelancer,
    ExplainRequest,
    ExplainResponse,
    FreelancerInput,
    MatchRequest,
    MatchResponse,
    Problem,
    ReleaseResponse,
    SimilarResponse,
    WrittenResponse,
)
from skillmatch_ray.serving.services import Found, Vector

logger = logging.getLogger(__name__)

API_KEYS_VARIABLE = "SKILLMATCH_API_KEYS"
"""Environment variable with the accepted keys, separated by commas; unset: no key is asked for."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for status, text in (
        (401, "no valid API key"),
        (413, "the body is too large"),
        (415, "the body is not application/json"),
        (422, "a value is wrong; `field` names it"),
        (500, "a defect of the service"),
        (503, "busy or not ready: try again after Retry-After seconds"),
        (504, "no answer within the deadline"),
    )
}

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "content": {"application/problem+json": {}}, "description": "no such freelancer"}
}


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

    async def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases."""

    async def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""

    async def operate(self, order: Order) -> Operation | None:
        """Begin an operation on releases; None while another one runs."""

    async def operation(self, operation_id: str) -> Operation | None:
        """How an operation goes, or None if there was no such one lately."""


Observe = Callable[[str, float, dict[str, str]], None]
"""Called with a metric's name, its value and its tags."""

FreelancerId = Annotated[str, Path(min_length=1, max_length=256)]


def build_api(encoder: Encoder, searcher: Searcher, observe: Observe = lambda *_: None) -> FastAPI:
    """The API as an ASGI application."""
    # FastAPI's own pages of documentation load scripts from elsewhere.
    api = FastAPI(title="skillmatch", version="1", responses=_PROBLEMS, docs_url=None, redoc_url=None)
    _add_error_handlers(api)
    _add_health(api, encoder, searcher)
    router = APIRouter(prefix="/v1", dependencies=[Depends(require_key), Depends(require_json)])
    _add_matching(router, encoder, searcher, observe)
    _add_freelancers(router, encoder, searcher)
    add_operations(router, searcher)
    api.include_router(router)
    add_page(api)
    return api


def _add_health(api: FastAPI, encoder: Encoder, searcher: Searcher) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Model and index are loaded and belong together."""
        fingerprint = await encoder.fingerprint()
        found = await searcher.release(fingerprint)
        return {"status": "ready", "release": found["name"], "fingerprint": fingerprint}


def _add_matching(router: APIRouter, encoder: Encoder, searcher: Searcher, observe: Observe) -> None:
    @router.post("/match")
    async def match(request: MatchRequest) -> MatchResponse:
        """Find the freelancers for one project."""
        return await answer_match(request, encoder, searcher, observe)

    @router.post("/match:batch")
    async def match_batch(request: BatchRequest) -> BatchResponse:
        """Find the freelancers for several projects."""
        answers = (answer_match(one, encoder, searcher, observe) for one in request.requests)
        return BatchResponse(responses=await asyncio.gather(*answers))

    @router.post("/explain", responses=_NOT_FOUND)
    async def explain(request: ExplainRequest) -> ExplainResponse:
        """Tell the share of each section and skill in the scores of some freelancers."""
        fingerprint = await encoder.fingerprint()
        profiles = await searcher.profiles(request.freelancer_ids, fingerprint)
        missing = [one for one, found in zip(request.freelancer_ids, profiles, strict=True) if found is None]
        if missing:
            raise HTTPException(404, f"freelancer_ids: there is no freelancer {missing[0]!r}")
        known = [profile for profile in profiles if profile]
        reasons = await encoder.explain(request.project, known, fingerprint)
        explained = zip(request.freelancer_ids, reasons, strict=True)
        return ExplainResponse(
            fingerprint=fingerprint,
            explanations=[ExplainedFreelancer(freelancer_id=who, explanation=why) for who, why in explained],
        )

    @router.get("/release")
    async def release() -> ReleaseResponse:
        """Which release answers."""
        return ReleaseResponse(**await searcher.release())


def _add_freelancers(router: APIRouter, encoder: Encoder, searcher: Searcher) -> None:
    @router.get("/freelancers/{freelancer_id}/similar", responses=_NOT_FOUND)
    async def similar(
        freelancer_id: FreelancerId, top_k: Annotated[int, Query(ge=1, le=MAX_RESULTS)] = 10
    ) -> SimilarResponse:
        """Find freelancers like one freelancer."""
        found = await searcher.similar(freelancer_id, top_k)
        if found is None:
            raise HTTPException(404, f"there is no freelancer {freelancer_id!r}")
        return SimilarResponse(
            release=found.release,
            fingerprint=found.fingerprint,
            exhausted=found.result.exhausted,
            candidates=_outputs(found.result, {}),
        )

    @router.put("/freelancers/{freelancer_id}")
    async def put(freelancer_id: FreelancerId, profile: FreelancerInput) -> WrittenResponse:
        """Add or replace a freelancer; found at once, kept by later releases."""
        if profile.freelancer_id not in (IN_PATH, freelancer_id):
            raise HTTPException(422, f"freelancer_id: the body says {profile.freelancer_id!r}, the path another id")
        fields = {**profile.model_dump(exclude_unset=True), "freelancer_id": freelancer_id}
        try:
            freelancer = Freelancer.model_validate(fields)
        except ValidationError as e:
            raise HTTPException(422, f"freelancer_id: {e.errors()[0]['msg']}") from e
        vector, fingerprint = await encoder.encode_freelancer(freelancer)
        await searcher.upsert(freelancer, vector, fingerprint)
        return WrittenResponse(freelancer_id=freelancer.id, fingerprint=fingerprint)

    @router.delete("/freelancers/{freelancer_id}", status_code=204)
    async def delete(freelancer_id: FreelancerId) -> None:
        """Remove a freelancer for good; an unknown id is no error."""
        await searcher.delete(freelancer_id)


async def answer_match(
    request: MatchRequest, encoder: Encoder, searcher: Searcher, observe: Observe = lambda *_: None
) -> MatchResponse:
    """Encode, search, explain; each hop timed."""
    clock = _Clock()
    filters = request.filters if request.filters is not None else Filters.from_project(request.project)
    vector, fingerprint = await encoder.encode(request.project)
    clock.lap("encode")
    found = await searcher.search(vector, filters, request.top_k, fingerprint, request.project)
    clock.lap("search")
    reasons: dict[str, dict[str, Any]] = {}
    if request.explain:
        reasons = await _reasons(request.project, found, encoder, searcher)
        clock.lap("explain")
    _observe_match(observe, clock, found)
    plan = found.result.plan
    return MatchResponse(
        release=found.release,
        fingerprint=fingerprint,
        exhausted=found.result.exhausted,
        candidates=_outputs(found.result, reasons),
        plan=asdict(plan) if request.plan and plan else None,
        milliseconds=clock.laps,
    )


def _outputs(result: SearchResult, reasons: dict[str, dict[str, Any]]) -> list[CandidateOutput]:
    return [
        CandidateOutput(
            freelancer_id=c.freelancer_id,
            score=c.score,
            profile=c.payload,
            explanation=reasons.get(c.freelancer_id),
        )
        for c in result.candidates
    ]


async def _reasons(project: Project, found: Found, encoder: Encoder, searcher: Searcher) -> dict[str, dict[str, Any]]:
    profiles = await searcher.profiles([c.freelancer_id for c in found.result.candidates], found.fingerprint)
    known = [profile for profile in profiles if profile]
    explained = await encoder.explain(project, known, found.fingerprint)
    return dict(zip((p.id for p in known), explained, strict=True))


def _observe_match(observe: Observe, clock: _Clock, found: Found) -> None:
    for hop, milliseconds in clock.laps.items():
        observe("hop_ms", milliseconds, {"hop": hop})
    plan, returned = found.result.plan, len(found.result.candidates)
    observe("candidates", returned, {"stage": "returned"})
    if plan:
        observe("candidates", plan.looked_at, {"stage": "looked_at"})
    if not returned:
        observe("empty_results", 1, {})
    observe("matches", 1, {"release": found.release, "fingerprint": found.fingerprint[:16]})


class _Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(1000 * (now - self._last), 3)
        self._last = now


async def require_key(request: Request) -> None:
    """Refuse requests without one of the keys in the environment, compared in constant time.

    Raises:
        HTTPException: 401.
    """
    keys = [key.strip() for key in os.environ.get(API_KEYS_VARIABLE, "").split(",") if key.strip()]
    given = request.headers.get("x-api-key", "").encode()
    accepted = [hmac.compare_digest(given, key.encode()) for key in keys]
    if keys and not any(accepted):
        raise HTTPException(401, "send one of the service's API keys in the header X-API-Key")


async def require_json(request: Request) -> None:
    """Refuse bodies that do not say that they are JSON.

    Raises:
        HTTPException: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in ("POST", "PUT") and kind != "application/json":
        raise HTTPException(415, f"send Content-Type: application/json, not {kind[:50] or 'none'!r}")


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        return problem(422, "Invalid request", f"{field or 'body'}: {first['msg']}", field or None)

    @api.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, "Refused", str(error.detail))

    @api.exception_handler(FingerprintError)
    async def mixed(_: Request, error: FingerprintError) -> JSONResponse:
        return _unavailable(error, "model and index do not belong together at this moment: send the request again")

    @api.exception_handler(SkillmatchError)
    async def failed(_: Request, error: SkillmatchError) -> JSONResponse:
        return _unavailable(error, f"{type(error).__name__}: send the request again; the log has the cause")

    @api.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "Internal error", f"{type(error).__name__}: see the log for this request id")


def _unavailable(error: SkillmatchError, detail: str) -> JSONResponse:
    """The cause may name paths and addresses of this installation, so it is only logged."""
    logger.error("request %s: %s", request_id.get(), error)
    return problem(503, "Not available", detail)


def problem(status: int, title: str, detail: str, field: str | None = None) -> JSONResponse:
    """A problem+json response."""
    body = Problem(title=title, status=status, detail=detail, field=field, request_id=request_id.get())
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type="application/problem+json"
    )
