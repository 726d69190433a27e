"""Requests and responses of the HTTP API; unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from skillmatch_ray.documents import DocumentId, Experience, Freelancer, Project
from skillmatch_ray.index.filters import Filters

MAX_RESULTS = 1000
MAX_BRIEFS = 32
MAX_EXPLAINED = 100
IN_PATH = "(as in the path)"
UNNAMED_PROJECT = "brief"
"""Id of a project that the client did not name."""

_STRICT = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


_FINGERPRINT = "5c2d9a…"


def _example(**values: Any) -> ConfigDict:
    """A strict model's configuration, with one example for the OpenAPI document."""
    return ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [values]})


_PROJECT = {"title": "React developer", "skills": ["React", "accessibility"], "language": "en"}
_PROFILE = {"headline": "Frontend developer", "skills": ["React", "TypeScript"], "country": "BE", "language": "en"}
_CANDIDATE = {"freelancer_id": "f000001", "score": 0.83, "profile": _PROFILE}
_REASONS = {
    "score": 0.83,
    "project": [{"kind": "project", "section": 0, "type": "title", "text": "React developer", "score": 0.83}],
    "freelancer": [
        {"kind": "freelancer", "section": 0, "type": "headline", "text": "Frontend developer", "score": 0.83}
    ],
    "skills": [{"kind": "freelancer", "section": 1, "type": "skills", "text": "React", "score": 0.21}],
}
_ANSWER = {
    "release": "5c2d9a-20261127T101500-abcd",
    "fingerprint": _FINGERPRINT,
    "exhausted": False,
    "candidates": [_CANDIDATE],
}


def _rows(value: Any) -> Any:
    return () if value is None else value


class ProjectInput(Project):
    """A project as a client sends it."""

    model_config = _STRICT

    project_id: DocumentId = UNNAMED_PROJECT


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

    model_config = _example(
        project=_PROJECT, filters={"countries": ["FR", "BE"], "max_daily_rate_eur": 600}, top_k=5, explain=True
    )

    project: ProjectInput
    filters: Filters | None = Field(None, description="hard filters; default: the wishes that the project itself has")
    top_k: int = Field(10, ge=1, le=MAX_RESULTS)
    explain: bool = Field(
        default=False,
        description=f"tell the share of each section and skill in each score; for top_k of at most {MAX_EXPLAINED}",
    )
    plan: bool = Field(default=False, description="tell how the index was searched")

    @model_validator(mode="after")
    def _explanations_are_few(self) -> MatchRequest:
        if self.explain and self.top_k > MAX_EXPLAINED:
            raise ValueError(f"explain with top_k ({self.top_k}): at most {MAX_EXPLAINED} are explained at once")
        return self


class CandidateOutput(BaseModel):
    """One freelancer found."""

    freelancer_id: str
    score: float = Field(description="cosine of brief and profile")
    ranker_score: float | None = Field(None, description="of the last stage, where there is one and it answered")
    profile: dict[str, Any]
    explanation: dict[str, Any] | None = None


class MatchResponse(BaseModel):
    """The freelancers found, best first."""

    model_config = _example(**_ANSWER, milliseconds={"encode": 12.1, "search": 3.4})

    release: str
    fingerprint: str
    exhausted: bool = Field(description="true: fewer than top_k freelancers pass the filters, and these are all")
    candidates: list[CandidateOutput]
    ranking: str | None = Field(None, description="whose order this is, where there is a last stage")
    plan: dict[str, Any] | None = None
    milliseconds: dict[str, float] = Field(description="time of each hop")


class BatchRequest(BaseModel):
    """Several briefs at once."""

    model_config = _example(requests=[{"project": _PROJECT, "top_k": 5}, {"project": {"title": "Steuerberater"}}])

    requests: tuple[MatchRequest, ...] = Field(min_length=1, max_length=MAX_BRIEFS)


class BatchResponse(BaseModel):
    """One answer for each brief, in their order."""

    model_config = _example(responses=[{**_ANSWER, "milliseconds": {"encode": 12.1, "search": 3.4}}])

    responses: list[MatchResponse]


class SimilarResponse(BaseModel):
    """Freelancers like one freelancer, best first."""

    model_config = _example(**_ANSWER)

    release: str
    fingerprint: str
    exhausted: bool
    candidates: list[CandidateOutput]


class ExplainRequest(BaseModel):
    """A brief and the freelancers whose scores are to be explained."""

    model_config = _example(project=_PROJECT, freelancer_ids=["f000001"])

    project: ProjectInput
    freelancer_ids: tuple[DocumentId, ...] = Field(min_length=1, max_length=MAX_EXPLAINED)


class ExplainedFreelancer(BaseModel):
    """Why one freelancer has its score."""

    freelancer_id: str
    explanation: dict[str, Any]


class ExplainResponse(BaseModel):
    """An explanation for each freelancer, in their order."""

    model_config = _example(
        fingerprint=_FINGERPRINT, explanations=[{"freelancer_id": "f000001", "explanation": _REASONS}]
    )

    fingerprint: str
    explanations: list[ExplainedFreelancer]


class WrittenResponse(BaseModel):
    """A profile that was accepted: durable, and found from now on."""

    model_config = _example(freelancer_id="f000001", fingerprint=_FINGERPRINT)

    freelancer_id: str
    fingerprint: str


_RELEASE = {
    "name": "5c2d9a-20261127T101500-abcd",
    "fingerprint": _FINGERPRINT,
    "rows": 1600,
    "built_at": "2026-11-27T10:15:00Z",
}


class ReleaseResponse(BaseModel):
    """What answers now."""

    model_config = _example(**_RELEASE)

    name: str
    fingerprint: str
    rows: int
    built_at: str


class HealthResponse(BaseModel):
    """The process is alive."""

    model_config = _example(status="ok")

    status: str


class ReadyResponse(BaseModel):
    """Model and index are loaded and belong together."""

    model_config = _example(status="ready", release=_RELEASE["name"], fingerprint=_FINGERPRINT)

    status: str
    release: str
    fingerprint: str


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="path of the value that is wrong")
    request_id: str | None = None
