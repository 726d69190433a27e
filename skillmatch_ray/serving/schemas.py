"""Requests and responses of the HTTP API; unknown fields are refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skillmatch_ray.documents import DocumentId, Project
from skillmatch_ray.index.filters import Filters

MAX_RESULTS = 1000


class ProjectInput(Project):
    """A project as a client sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    project_id: DocumentId = "brief"


class MatchRequest(BaseModel):
    """One brief to find freelancers for."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "project": {"title": "React developer", "skills": ["React", "accessibility"], "language": "en"},
                    "filters": {"countries": ["FR", "BE"], "max_daily_rate_eur": 600},
                    "top_k": 5,
                }
            ]
        },
    )

    project: ProjectInput
    filters: Filters | None = Field(None, description="hard filters; default: the wishes that the project itself has")
    top_k: int = Field(10, ge=1, le=MAX_RESULTS)
    explain: bool = Field(default=False, description="tell the share of each section and skill in each score")
    plan: bool = Field(default=False, description="tell how the index was searched")


class CandidateOutput(BaseModel):
    """One freelancer found."""

    freelancer_id: str
    score: float
    profile: dict[str, Any]
    explanation: dict[str, Any] | None = None


class MatchResponse(BaseModel):
    """The freelancers found, best first."""

    release: str
    fingerprint: str
    exhausted: bool = Field(description="true: fewer than top_k freelancers pass the filters, and these are all")
    candidates: list[CandidateOutput]
    plan: dict[str, Any] | None = None
    milliseconds: dict[str, float] = Field(description="time of each hop")


class ReleaseResponse(BaseModel):
    """What answers now."""

    name: str
    fingerprint: str
    rows: int
    built_at: str


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="path of the value that is wrong")
    request_id: str | None = None
