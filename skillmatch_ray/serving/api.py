"""The HTTP API over any encoder and retriever: what is the same with and without Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.serving.flow import MatchFlow
from skillmatch_ray.serving.keys import ApiKeys
from skillmatch_ray.serving.operations import add_operations
from skillmatch_ray.serving.page import add_page
from skillmatch_ray.serving.problems import EVERYWHERE, add_error_handlers, documented
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
    HealthResponse,
    MatchRequest,
    MatchResponse,
    ReadyResponse,
    ReleaseResponse,
    SimilarResponse,
    WrittenResponse,
)

FreelancerId = Annotated[str, Path(min_length=1, max_length=256, examples=["f000001"])]


def build_api(flow: MatchFlow, *, keys: ApiKeys | None = None, operator: bool = True) -> FastAPI:
    """The API as an ASGI application.

    Args:
        flow: answers matches; its encoder and searcher answer the rest.
        keys: that are accepted; default: those of the environment.
        operator: whether the verbs that switch releases are open to those who have a key.
    """
    # FastAPI's own pages of documentation load scripts from elsewhere.
    api = FastAPI(title="skillmatch", version="1", docs_url=None, redoc_url=None)
    add_error_handlers(api)
    _add_health(api, flow)
    checks = [Depends(_require_key(keys or ApiKeys())), Depends(require_json), Depends(refuse_unknown_query)]
    router = APIRouter(prefix="/v1", dependencies=checks, responses=documented(*EVERYWHERE))
    _add_matching(router, flow)
    _add_freelancers(router, flow)
    _add_release(router, flow)
    add_operations(router, flow.searcher, is_open=operator)
    api.include_router(router)
    add_page(api)
    return api


def _add_health(api: FastAPI, flow: MatchFlow) -> None:
    @api.get("/healthz", tags=["health"])
    async def healthz() -> HealthResponse:
        """The process is alive."""
        return HealthResponse(status="ok")

    @api.get("/readyz", tags=["health"], responses=documented(500, 503))
    async def readyz() -> ReadyResponse:
        """The model is loaded, and an index built by it answers."""
        fingerprint = await flow.encoder.fingerprint()
        found = await flow.searcher.ready(fingerprint)
        return ReadyResponse(status="ready", release=found["name"], fingerprint=fingerprint)


def _add_matching(router: APIRouter, flow: MatchFlow) -> None:
    @router.post("/match", tags=["match"], responses=documented(415))
    async def match(request: MatchRequest) -> MatchResponse:
        """Find the freelancers for one project."""
        return await flow.answer(request)

    @router.post("/match:batch", tags=["match"], responses=documented(415))
    async def match_batch(request: BatchRequest) -> BatchResponse:
        """Find the freelancers for several projects; they are encoded, and searched for, together."""
        return BatchResponse(responses=await asyncio.gather(*map(flow.answer, request.requests)))

    @router.post("/explain", tags=["match"], responses=documented(404, 415))
    async def explain(request: ExplainRequest) -> ExplainResponse:
        """Tell the share of each section and skill in the scores of some freelancers."""
        fingerprint = await flow.encoder.fingerprint()
        profiles = await flow.searcher.profiles(request.freelancer_ids, fingerprint)
        missing = [one for one, found in zip(request.freelancer_ids, profiles, strict=True) if found is None]
        if missing:
            raise HTTPException(404, f"freelancer_ids: there is no freelancer {missing[0]!r}")
        known = [profile for profile in profiles if profile]
        reasons = await flow.encoder.explain(request.project, known, fingerprint)
        explained = zip(request.freelancer_ids, reasons, strict=True)
        return ExplainResponse(
            fingerprint=fingerprint,
            explanations=[ExplainedFreelancer(freelancer_id=who, explanation=why) for who, why in explained],
        )


def _add_freelancers(router: APIRouter, flow: MatchFlow) -> None:
    @router.get("/freelancers/{freelancer_id}/similar", tags=["freelancers"], responses=documented(404))
    async def similar(
        freelancer_id: FreelancerId, top_k: Annotated[int, Query(ge=1, le=MAX_RESULTS)] = 10
    ) -> SimilarResponse:
        """Find freelancers like one freelancer."""
        found = await flow.searcher.similar(freelancer_id, top_k)
        if found is None:
            raise HTTPException(404, f"there is no freelancer {freelancer_id!r}")
        return SimilarResponse(
            release=found.release,
            fingerprint=found.fingerprint,
            exhausted=found.result.exhausted,
            candidates=[
                CandidateOutput(freelancer_id=one.freelancer_id, score=one.score, profile=one.payload)
                for one in found.result.candidates
            ],
        )

    @router.put("/freelancers/{freelancer_id}", tags=["freelancers"], responses=documented(415, 507))
    async def put(freelancer_id: FreelancerId, profile: FreelancerInput) -> WrittenResponse:
        """Add or replace a freelancer; found at once, kept by later releases."""
        freelancer = _named(freelancer_id, profile)
        vector, fingerprint = await flow.encoder.encode_freelancer(freelancer)
        await flow.searcher.upsert(freelancer, vector, fingerprint)
        return WrittenResponse(freelancer_id=freelancer.id, fingerprint=fingerprint)

    @router.delete("/freelancers/{freelancer_id}", tags=["freelancers"], status_code=204, responses=documented(507))
    async def delete(freelancer_id: FreelancerId) -> None:
        """Remove a freelancer for good; an unknown id is no error."""
        await flow.searcher.delete(freelancer_id)


def _named(freelancer_id: str, profile: FreelancerInput) -> Freelancer:
    if profile.freelancer_id not in (IN_PATH, freelancer_id):
        raise HTTPException(422, f"freelancer_id: the body says {profile.freelancer_id!r}, the path another id")
    fields = {**profile.model_dump(exclude_unset=True), "freelancer_id": freelancer_id}
    try:
        return Freelancer.model_validate(fields)
    except ValidationError as e:
        raise HTTPException(422, f"freelancer_id: {e.errors()[0]['msg']}") from e


def _add_release(router: APIRouter, flow: MatchFlow) -> None:
    @router.get("/release", tags=["releases"])
    async def release() -> ReleaseResponse:
        """Which release answers."""
        return ReleaseResponse(**await flow.searcher.release())


def _require_key(keys: ApiKeys) -> Callable[[Request], Awaitable[None]]:
    async def require_key(request: Request) -> None:
        """Refuse requests without one of the accepted keys."""
        if keys.wanted and not keys.accepts(request.headers.get("x-api-key", "")):
            raise HTTPException(401, "send one of the service's API keys in the header X-API-Key")

    return require_key


async def require_json(request: Request) -> None:
    """Refuse bodies that do not say that they are JSON.

    Raises:
        HTTPException: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if request.method in ("POST", "PUT") and has_body and kind != "application/json":
        raise HTTPException(415, f"send Content-Type: application/json, not {kind[:50] or 'none'!r}")


async def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters that the endpoint does not have, as unknown fields of a body are.

    Raises:
        HTTPException: 422.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise HTTPException(422, f"{name[:50]}: there is no such query parameter; known: {choice}")
