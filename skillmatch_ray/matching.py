"""Match one project against the active release, here or in a running service: what `skillmatch match` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from skillmatch_ray.client import Service
from skillmatch_ray.config import Config
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import read_json
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Candidate, Retriever, SearchResult
from skillmatch_ray.model.matcher import Contribution, Explanation, Matcher, load_matcher

SHOWN_SKILLS = 3
SHOWN_SECTIONS = 2
TITLE_LENGTH = 80


@dataclass(frozen=True)
class Match:
    """One freelancer found for a project.

    Attributes:
        candidate: from the index.
        explanation: shares of sections and skills in the score, where asked for.
    """

    candidate: Candidate
    explanation: Explanation | None


@dataclass(frozen=True)
class MatchResult:
    """The answer to one brief.

    Attributes:
        project: as it was understood.
        filters: applied.
        matches: best first.
        exhausted: fewer freelancers than wanted pass the filters.
        release: that answered.
    """

    project: Project
    filters: Filters
    matches: list[Match]
    exhausted: bool
    release: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "release": self.release,
            "filters": self.filters.model_dump(mode="json", exclude_defaults=True),
            "exhausted": self.exhausted,
            "candidates": [
                {
                    "freelancer_id": match.candidate.freelancer_id,
                    "score": round(match.candidate.score, 6),
                    **match.candidate.payload,
                    "explanation": asdict(match.explanation) if match.explanation else None,
                }
                for match in self.matches
            ],
        }

    def render(self) -> Group:
        """A table for people."""
        active = self.filters.model_dump(mode="json", exclude_defaults=True)
        shown = ", ".join(f"{key} = {value}" for key, value in active.items()) or "none"
        table = Table(title=f"{self.project.title} (filters: {shown})", title_justify="left")
        for column in ("#", "score", "headline", "lang", "category", "sections", "skills that made the match"):
            table.add_column(column, justify="right" if column in ("#", "score") else "left")
        for rank, match in enumerate(self.matches, start=1):
            table.add_row(str(rank), *_cells(match))
        note = "fewer freelancers pass the filters than were asked for" if self.exhausted else ""
        return Group(table, Text(note, style="dim"))


def _cells(match: Match) -> list[str]:
    payload, explanation = match.candidate.payload, match.explanation
    sections = sorted(explanation.freelancer, key=lambda c: -c.score)[:SHOWN_SECTIONS] if explanation else []
    skills = explanation.skills[:SHOWN_SKILLS] if explanation else []
    return [
        f"{match.candidate.score:.3f}",
        payload["headline"],
        payload.get("language", "?"),
        payload.get("job_category", "?"),
        ", ".join(f"{c.type} {c.score / match.candidate.score:.0%}" for c in sections),
        ", ".join(c.text for c in skills),
    ]


class Engine:
    """A matcher and the index built by that very matcher.

    Args:
        matcher: encodes projects.
        retriever: searches.
    """

    def __init__(self, matcher: Matcher, retriever: Retriever) -> None:
        self.matcher = matcher
        self.retriever = retriever

    def match(
        self, project: Project, *, top_k: int = 10, filters: Filters | None = None, explain: bool = False
    ) -> MatchResult:
        """The best freelancers for a project.

        Args:
            project: the brief.
            top_k: candidates wanted.
            filters: default: what the project itself wishes.
            explain: whether to tell which sections and skills made each score.

        Raises:
            FingerprintError: if matcher and index do not belong together.
            MilvusError: if the index does not answer.
        """
        filters = filters if filters is not None else Filters.from_project(project)
        vector = self.matcher.encode_projects([project])[0]
        found: SearchResult = self.retriever.search(
            vector, filters, top_k, fingerprint=self.matcher.fingerprint, brief=project
        )
        matches = [Match(c, self._explain(project, c) if explain else None) for c in found.candidates]
        return MatchResult(project, filters, matches, found.exhausted, self.retriever.release.name)

    def _explain(self, project: Project, candidate: Candidate) -> Explanation | None:
        profile = self.retriever.profile(candidate.freelancer_id)
        return self.matcher.explain(project, profile) if profile else None


@contextmanager
def open_engine(config: Config) -> Iterator[Engine]:
    """The active release of the workspace, opened for searching.

    Raises:
        ReleaseError: if there is none.
        LockedError: if another process owns the embedded database.
    """
    with Retriever(config) as retriever:
        yield Engine(load_matcher(retriever.release.model_dir), retriever)


def match_once(config: Config, project: Project, top_k: int, url: str | None = None) -> MatchResult:
    """Match and explain one brief in this process, or by the service at `url`.

    Raises:
        ReleaseError: if the workspace has no active release.
        LockedError: if another process owns the embedded database.
        ServiceError: if the service does not answer.
    """
    if url is None:
        with open_engine(config) as engine:
            return engine.match(project, top_k=top_k, explain=True)
    answer = Service(url).match(project, top_k=top_k, explain=True)
    matches = [
        Match(Candidate(c["freelancer_id"], c["score"], c["profile"]), _explanation(c["explanation"]))
        for c in answer["candidates"]
    ]
    return MatchResult(project, Filters.from_project(project), matches, answer["exhausted"], answer["release"])


def _explanation(values: dict[str, Any] | None) -> Explanation | None:
    if values is None:
        return None
    parts = {name: [Contribution(**part) for part in values[name]] for name in ("project", "freelancer", "skills")}
    return Explanation(score=values["score"], **parts)


def read_brief(path: Path | None, text: str | None) -> Project:
    """A project from a JSON file, or from plain text whose first line is its title.

    Raises:
        DatasetError: if neither or both are given, or the file is not a project.
    """
    if (path is None) == (text is None):
        raise DatasetError("give either a JSON file with a project, or --text with the brief itself")
    values = read_json(path) if path else _from_text(text or "")
    try:
        return Project.model_validate({"project_id": "brief", **values})
    except ValidationError as e:
        reasons = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise DatasetError(f"{path or 'the brief'} is not a project: {reasons}") from e


def _from_text(text: str) -> dict[str, str]:
    first, _, rest = text.strip().partition("\n")
    title = first[:TITLE_LENGTH]
    return (
        {"title": title, "description": rest.strip() or first}
        if len(first) > TITLE_LENGTH or rest
        else {"title": title}
    )
