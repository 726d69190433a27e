"""The HTTP API over any encoder and retriever: what is the same with and without Serve."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import FingerprintError, SkillmatchError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import SearchResult
from skillmatch_ray.serving.admission import request_id
from skillmatch_ray.serving.schemas import (
    CandidateOutput,
    MatchRequest,
    MatchResponse,
    Problem,
    ReleaseResponse,
)
from skillmatch_ray.serving.services import Vector

API_KEYS_VARIABLE = "SKILLMATCH_API_KEYS"
"""Environment variable with the accepted keys, separated by commas; unset: no key is asked for."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for status, text in (
        (401, "no valid API key"),
        (413, "the body is too large"),
        (422, "a value is wrong; `field` names it"),
        (500, "a defect of the service"),
        (503, "busy or not ready: try again after Retry-After seconds"),
        (504, "no answer within the deadline"),
    )
}


class Encoder(Protocol):
    """Projects to vectors, wherever that runs."""

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of the model that made it."""

    async def explain(self, project: Project, freelancers: Sequence[Freelancer]) -> list[dict[str, Any]]:
        """Reasons for each freelancer's score."""

    async def fingerprint(self) -> str:
        """Of the model."""


class Searcher(Protocol):
    """The index, wherever it is open."""

    async def search(self, vector: Vector, filters: Filters, top_k: int, fingerprint: str) -> SearchResult:
        """Candidates."""

    async def profiles(self, freelancer_ids: Sequence[str]) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""

    async def release(self) -> dict[str, Any]:
        """The open release."""


def build_api(encoder: Encoder, searcher: Searcher) -> FastAPI:
    """The API as an ASGI application."""
    api = FastAPI(title="skillmatch", version="1", responses=_PROBLEMS)
    _add_error_handlers(api)

    @api.post("/v1/match", dependencies=[Depends(require_key)])
    async def match(request: MatchRequest) -> MatchResponse:
        """Find the freelancers for one project."""
        return await answer_match(request, encoder, searcher)

    @api.get("/v1/release", dependencies=[Depends(require_key)])
    async def release() -> ReleaseResponse:
        """Which release answers."""
        found = await searcher.release()
        return ReleaseResponse(**{name: found[name] for name in ReleaseResponse.model_fields})

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Model and index are loaded and belong together."""
        own, index = await encoder.fingerprint(), (await searcher.release())["fingerprint"]
        if own != index:
            raise HTTPException(503, f"model {own[:12]} and index {index[:12]} do not belong together")
        return {"status": "ready", "fingerprint": own}

    return api


async def answer_match(request: MatchRequest, encoder: Encoder, searcher: Searcher) -> MatchResponse:
    """Encode, search, explain; each hop timed."""
    clock = _Clock()
    filters = request.filters if request.filters is not None else Filters.from_project(request.project)
    vector, fingerprint = await encoder.encode(request.project)
    clock.lap("encode")
    found = await searcher.search(vector, filters, request.top_k, fingerprint)
    clock.lap("search")
    reasons = await _reasons(request, found, encoder, searcher) if request.explain else {}
    if request.explain:
        clock.lap("explain")
    return MatchResponse(
        release=(await searcher.release())["name"],
        fingerprint=fingerprint,
        exhausted=found.exhausted,
        candidates=[
            CandidateOutput(
                freelancer_id=c.freelancer_id,
                score=c.score,
                profile=c.payload,
                explanation=reasons.get(c.freelancer_id),
            )
            for c in found.candidates
        ],
        plan=asdict(found.plan) if request.plan and found.plan else None,
        milliseconds=clock.laps,
    )


async def _reasons(
    request: MatchRequest, found: SearchResult, encoder: Encoder, searcher: Searcher
) -> dict[str, dict[str, Any]]:
    profiles = await searcher.profiles([c.freelancer_id for c in found.candidates])
    known = [profile for profile in profiles if profile]
    return dict(zip((p.id for p in known), await encoder.explain(request.project, known), strict=True))


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
        return problem(503, "Not ready", str(error))

    @api.exception_handler(SkillmatchError)
    async def failed(_: Request, error: SkillmatchError) -> JSONResponse:
        return problem(503, type(error).__name__, str(error))

    @api.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "Internal error", f"{type(error).__name__}: see the log for this request id")


def problem(status: int, title: str, detail: str, field: str | None = None) -> JSONResponse:
    """A problem+json response."""
    body = Problem(title=title, status=status, detail=detail, field=field, request_id=request_id.get())
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type="application/problem+json"
    )
