"""Requests and responses of the HTTP API; unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from skillmatch_ray.documents import DocumentId, Experience, Freelancer, Project
from skillmatch_ray.index.filters import Filters

MAX_RESULTS = 1000
MAX_BRIEFS = 32
MAX_EXPLAINED = 100
IN_PATH = "(as in the path)"

_STRICT = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


def _rows(value: Any) -> Any:
    return () if value is None else value


class ProjectInput(Project):
    """A project as a client sends it."""

    model_config = _STRICT

    project_id: DocumentId = "brief"


class ExperienceInput(Experience):
    """One past assignment as a client sends it."""

    model_config = _STRICT


class FreelancerInput(Freelancer):
    """A whole profile as a client sends it; the path names the freelancer."""

    model_config = ConfigDict(
        **{
            **_STRICT,
            "json_schema_extra": {
                "examples": [{"headline": "React developer", "skills": ["React", "TypeScript"], "language": "en"}]
            },
        }
    )

    freelancer_id: DocumentId = IN_PATH
    experiences: Annotated[tuple[ExperienceInput, ...], BeforeValidator(_rows)] = ()


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


class BatchRequest(BaseModel):
    """Several briefs at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: tuple[MatchRequest, ...] = Field(min_length=1, max_length=MAX_BRIEFS)


class BatchResponse(BaseModel):
    """One answer for each brief, in their order."""

    responses: list[MatchResponse]


class SimilarResponse(BaseModel):
    """Freelancers like one freelancer, best first."""

    release: str
    fingerprint: str
    exhausted: bool
    candidates: list[CandidateOutput]


class ExplainRequest(BaseModel):
    """A brief and the freelancers whose scores are to be explained."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"project": {"title": "React developer", "skills": ["React"]}, "freelancer_ids": ["f000001"]}]
        },
    )

    project: ProjectInput
    freelancer_ids: tuple[DocumentId, ...] = Field(min_length=1, max_length=MAX_EXPLAINED)


class ExplainedFreelancer(BaseModel):
    """Why one freelancer has its score."""

    freelancer_id: str
    explanation: dict[str, Any]


class ExplainResponse(BaseModel):
    """An explanation for each freelancer, in their order."""

    fingerprint: str
    explanations: list[ExplainedFreelancer]


class WrittenResponse(BaseModel):
    """A profile that was accepted: durable, and found from now on."""

    freelancer_id: str
    fingerprint: str


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
