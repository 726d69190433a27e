"""What one evaluation asks: projects, the pool of freelancers read in blocks, and who is right.

Shapes: Q projects, N freelancers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.cold_start import cold_start
from skillmatch_ray.evaluation.ranking import Judged
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE, Truth, read_truth

UNKNOWN = "?"


@dataclass
class Labels:
    """One short label a freelancer, kept as small numbers.

    Attributes:
        names: number -> label.
        codes: (N,) numbers.
    """

    names: list[str] = field(default_factory=list)
    codes: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    @classmethod
    def of(cls, labels: Collection[str | None]) -> Labels:
        """Number the labels in order of first sight; None is "?"."""
        numbers: dict[str, int] = {}
        codes = np.fromiter((numbers.setdefault(label or UNKNOWN, len(numbers)) for label in labels), dtype=np.int32)
        return cls(list(numbers), codes)

    def code(self, label: str | None) -> int:
        """Number of a label; -1 for one that nobody has, or None."""
        return self._numbers.get(label or "", -1)

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.names)}


@dataclass(frozen=True)
class Pool:
    """All freelancers of a dataset: read block by block, never held.

    Attributes:
        dataset: where they stand.
        size: N.
        places: position of those who were asked for, by id.
        languages: of each.
        categories: of each.
    """

    dataset: Dataset
    size: int
    places: Mapping[str, int]
    languages: Labels
    categories: Labels

    @classmethod
    def read(cls, dataset: Dataset, wanted: Collection[str]) -> Pool:
        """Look through the table once; `wanted` are ids whose positions are needed."""
        places: dict[str, int] = {}
        languages: list[str | None] = []
        categories: list[str | None] = []
        for freelancer in dataset.read(FREELANCERS):
            if freelancer.id in wanted:
                places[freelancer.id] = len(languages)
            languages.append(freelancer.language)
            categories.append(freelancer.job_category)
        return cls(dataset, len(languages), places, Labels.of(languages), Labels.of(categories))

    def everybody(self) -> Iterator[Freelancer]:
        """All of them, in the order of their positions."""
        return self.dataset.read(FREELANCERS)

    def at(self, places: Collection[int]) -> dict[int, Freelancer]:
        """The freelancers at some positions, in memory."""
        wanted, last = frozenset(places), max(places, default=-1)
        rows = enumerate(islice(self.everybody(), last + 1))
        return {place: freelancer for place, freelancer in rows if place in wanted}


@dataclass(frozen=True)
class Task:
    """Queries, pool and truth of one evaluation.

    Attributes:
        projects: Q of them, each with a relevant freelancer in the pool.
        pool: everybody who may be found.
        judged: for each project.
        left_out: judged projects without a relevant freelancer in the pool.
        truth: where the grades come from.
    """

    projects: list[Project]
    pool: Pool
    judged: list[Judged]
    left_out: int
    truth: Truth

    def rows_of(self, name: Callable[[Project], str | None]) -> dict[str, list[int]]:
        """Positions of the projects that share a name, by name in order; "?" where it is unknown."""
        groups: dict[str, list[int]] = {}
        for q, project in enumerate(self.projects):
            groups.setdefault(name(project) or UNKNOWN, []).append(q)
        return dict(sorted(groups.items()))


def read_task(dataset: Dataset) -> Task:
    """Projects that can be judged, and the pool.

    Raises:
        DatasetError: if there is none.
    """
    projects = {project.id: project for project in dataset.projects()}
    truth = read_truth(dataset, projects)
    pool = Pool.read(dataset, {freelancer for grades in truth.grades.values() for freelancer in grades})
    queries, judged = [], []
    for project_id, grades in sorted(truth.grades.items()):
        known = sorted((pool.places[f], grade) for f, grade in grades.items() if f in pool.places)
        if any(grade >= RELEVANT_GRADE for _, grade in known):
            places, levels = zip(*known, strict=True)
            judged.append(Judged(np.array(places, dtype=np.int64), np.array(levels, dtype=np.int64)))
            queries.append(projects[project_id])
    if not queries:
        raise DatasetError(
            f"dataset {dataset.root}: no project has a relevant freelancer in the table (grade >= {RELEVANT_GRADE}, "
            "or a selected or accepted one among the held-out projects)"
        )
    subsets = {**truth.subsets, **cold_start(dataset, projects, [project.id for project in queries])}
    return Task(queries, pool, judged, len(truth.grades) - len(queries), replace(truth, subsets=subsets))
