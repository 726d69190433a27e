"""The public benchmark MaltCompany/Freelancer-Project-Matching as datasets of ours.

Its tables, as workrb 0.6.0 reads them: profiles (profile_id, headline, language, description, skills, soft_skills,
experiences), briefs (brief_id, title, description), queries (query_id, value), brief_scores and query_scores (the id,
profile_id, score). Each lies in the directory as NAME.parquet, NAME.jsonl or a folder NAME/ of such parts. Briefs and
queries are English. Papers: Jouanneau et al., RecSys in HR 2024 and 2025.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from skillmatch_ray.dataset import BadRow, Dataset, TableKind
from skillmatch_ray.documents import DocumentId, Experience, Freelancer, Language, Project, Text, TextList
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.flattened import headline_of, reparsed, split_brief
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.files import atomic_directory

RELEVANT_SCORE: Final = 0.8
"""Scores from here on are relevant, as in the benchmark's own tasks."""
QUERY_LANGUAGE: Final = "en"

RowT = TypeVar("RowT", bound=BaseModel)


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Profile(_Row):
    """One candidate."""

    profile_id: DocumentId
    headline: Text = None
    language: Language = None
    description: Text = None
    skills: TextList = ()
    soft_skills: TextList = ()
    experiences: Annotated[tuple[Experience, ...], BeforeValidator(lambda value: () if value is None else value)] = ()

    def freelancer(self) -> Freelancer:
        """The same as a row of ours; a missing headline is taken from the experiences or skills."""
        values = self.model_dump(exclude={"profile_id", "headline"})
        headline = headline_of(self.headline, self.skills, self.experiences, self.description)
        return Freelancer(freelancer_id=self.profile_id, headline=headline, **values)


class Brief(_Row):
    """One project."""

    brief_id: DocumentId
    title: Text = None
    description: Text = None

    def project(self) -> Project:
        """The same as a row of ours."""
        title, rest = (self.title, self.description) if self.title else split_brief(self.description or "")
        return Project(project_id=self.brief_id, title=title or "?", description=rest, language=QUERY_LANGUAGE)


class SearchQuery(_Row):
    """A few words, typed into a search box."""

    query_id: DocumentId
    value: Text = None

    def project(self) -> Project:
        """A project that has only a title."""
        return Project(project_id=self.query_id, title=self.value or "?", language=QUERY_LANGUAGE)


class BriefScore(_Row):
    """How well a profile fits a brief."""

    brief_id: DocumentId
    profile_id: DocumentId
    score: float

    @property
    def project_id(self) -> str:
        """Of the brief."""
        return self.brief_id


class QueryScore(_Row):
    """How well a profile fits a query."""

    query_id: DocumentId
    profile_id: DocumentId
    score: float

    @property
    def project_id(self) -> str:
        """Of the query."""
        return self.query_id


@dataclass(frozen=True)
class Benchmark:
    """One of its two tasks.

    Attributes:
        name: "briefs" or "queries".
        projects: what is asked.
        freelancers: all profiles.
        relevant: (project_id, freelancer_id) pairs with a score of at least 0.8.
    """

    name: str
    projects: list[Project]
    freelancers: list[Freelancer]
    relevant: list[tuple[str, str]]


def read_benchmark(directory: Path) -> list[Benchmark]:
    """Both tasks.

    Raises:
        DatasetError: if a table is missing, or one of its rows is not of the benchmark's form.
    """
    freelancers = [profile.freelancer() for profile in _read(directory, "profiles", Profile, "profile_id")]
    briefs = [brief.project() for brief in _read(directory, "briefs", Brief, "brief_id")]
    queries = [query.project() for query in _read(directory, "queries", SearchQuery, "query_id")]
    return [
        Benchmark("briefs", briefs, freelancers, _relevant(_read(directory, "brief_scores", BriefScore))),
        Benchmark("queries", queries, freelancers, _relevant(_read(directory, "query_scores", QueryScore))),
    ]


def import_benchmark(directory: Path, target: Path, *, flattened: bool = False) -> list[Dataset]:
    """Write both tasks as datasets target/briefs and target/queries, with qrels.

    Args:
        directory: the benchmark's files.
        target: directory of both datasets.
        flattened: profiles as `evaluation.workrb` gets to see them, parsed back from WorkRB's strings; what a model
            loses against the structured profiles is the price of that form.

    Raises:
        DatasetError: if the benchmark cannot be read.
    """
    benchmarks = read_benchmark(directory)
    if flattened:
        seen = [reparsed(freelancer) for freelancer in benchmarks[0].freelancers]
        benchmarks = [replace(benchmark, freelancers=seen) for benchmark in benchmarks]
    return [_write(benchmark, target / benchmark.name) for benchmark in benchmarks]


def _read(directory: Path, name: str, row: type[RowT], key: str | None = None) -> Iterable[RowT]:
    def refuse(bad: BadRow) -> None:
        raise DatasetError(f"{bad.file}, row {bad.row}: {bad.reason}: not a row of the benchmark's table {name!r}")

    unique: Callable[[RowT], tuple[str, ...]] | None = (lambda found: (getattr(found, key),)) if key else None
    return Dataset(directory).read(TableKind(name, row, unique), on_bad=refuse)


def _relevant(scores: Iterable[BriefScore | QueryScore]) -> list[tuple[str, str]]:
    return [(score.project_id, score.profile_id) for score in scores if score.score >= RELEVANT_SCORE]


def _write(benchmark: Benchmark, target: Path) -> Dataset:
    grades = [{"project_id": p, "freelancer_id": f, "grade": RELEVANT_GRADE} for p, f in benchmark.relevant]
    with atomic_directory(target) as temporary:
        _write_rows(temporary / "freelancers.jsonl", (f.model_dump(mode="json") for f in benchmark.freelancers))
        _write_rows(temporary / "projects.jsonl", (p.model_dump(mode="json") for p in benchmark.projects))
        _write_rows(temporary / "qrels.jsonl", grades)
    return Dataset(target)


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
