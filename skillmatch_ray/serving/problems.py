"""Errors as problem+json (RFC 9457): what is wrong, where, and what to do; nothing of the inside gets out."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from skillmatch_ray.errors import FingerprintError, SkillmatchError, StorageError
from skillmatch_ray.serving.admission import RETRY_AFTER_S, request_id
from skillmatch_ray.serving.schemas import Problem

logger = logging.getLogger(__name__)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of an endpoint, for its OpenAPI document."""
    return {status: _document(status) for status in statuses}


_TEXTS = {
    401: "no valid API key",
    403: "operator verbs are closed here",
    404: "there is no such thing",
    409: "that cannot be done in the present state",
    413: "the body is too large",
    415: "the body is not application/json",
    422: "a value is wrong; `field` names it",
    500: "a defect of the service",
    503: "busy or not ready: try again after Retry-After seconds",
    504: "no answer within the deadline",
    507: "the disk is full: nothing was written",
}

EVERYWHERE = (401, 413, 422, 500, 503, 504)
"""Problems that any endpoint below /v1 may have."""


def _document(status: int) -> dict[str, Any]:
    example = {"type": "about:blank", "title": "...", "status": status, "detail": _TEXTS[status], "request_id": "..."}
    return {
        "description": _TEXTS[status],
        "content": {"application/problem+json": {"schema": Problem.model_json_schema(), "example": example}},
    }


def add_error_handlers(api: FastAPI) -> None:
    """Turn every exception into a problem."""

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
        return problem(request, 422, "Invalid request", f"{field or 'body'}: {first['msg']}", field or None)

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's word for a body whose bytes are no text
            return problem(request, 422, "Invalid request", "body: it is not JSON in UTF-8")
        return problem(request, error.status_code, "Refused", str(error.detail), headers=dict(error.headers or {}))

    @api.exception_handler(FingerprintError)
    async def mixed(request: Request, error: FingerprintError) -> JSONResponse:
        return _unavailable(request, error, "model and index do not belong together now: send the request again")

    @api.exception_handler(StorageError)
    async def full(request: Request, error: StorageError) -> JSONResponse:
        logger.error("request %s: %s", request_id.get(), error)
        return problem(request, 507, "Disk full", "nothing was written: make room on the service's disk, then repeat")

    @api.exception_handler(SkillmatchError)
    async def failed(request: Request, error: SkillmatchError) -> JSONResponse:
        return _unavailable(request, error, f"{type(error).__name__}: send the request again; the log has the cause")

    @api.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        return problem(request, 500, "Internal error", f"{type(error).__name__}: see the log for this request id")


def _unavailable(request: Request, error: SkillmatchError, detail: str) -> JSONResponse:
    """The cause may name paths and addresses of this installation, so it is only logged."""
    logger.error("request %s: %s", request_id.get(), error)
    request.scope["problem"] = type(error).__name__
    return problem(request, 503, "Not available", detail)


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    field: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response; its title becomes the kind of error in log and metrics, unless one is set."""
    request.scope.setdefault("problem", title)
    body = Problem(title=title, status=status, detail=detail, field=field, request_id=request_id.get())
    more = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return JSONResponse(
        body.model_dump(exclude_none=True),
        status,
        headers={**(headers or {}), **more},
        media_type="application/problem+json",
    )
