"""What a run reads: the history that it learns from, and the projects and pool that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import INTERACTIONS, Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.evaluation.ranking import Judged
from skillmatch_ray.evaluation.task import read_task
from skillmatch_ray.relations import Relations
from skillmatch_ray.split import Split
from skillmatch_ray.training.setup import History, read_history


@dataclass(frozen=True)
class Material:
    """Everything that one run reads, in memory.

    Attributes:
        dataset: where it was read.
        history: of the projects that are not held out.
        projects: Q judged ones.
        freelancers: the whole pool.
        judged: of each of `projects`, positions in `freelancers` and grades.
        subsets: name -> ids of judged projects.
    """

    dataset: Dataset
    history: History
    projects: Sequence[Project]
    freelancers: Sequence[Freelancer]
    judged: Sequence[Judged]
    subsets: Mapping[str, frozenset[str]]

    def relevant(self, grade: int) -> set[str]:
        """Ids of freelancers with a grade from `grade` on for any of the projects."""
        return {self.freelancers[place].id for one in self.judged for place in one.places[one.grades >= grade]}

    def with_projects(self, change: Callable[[Project], Project]) -> Material:
        """The judged projects changed one by one; what was learned from stays."""
        return replace(self, projects=[change(project) for project in self.projects])

    def with_freelancers(self, change: Callable[[Freelancer], Freelancer]) -> Material:
        """The pool changed one by one; what was learned from stays."""
        return replace(self, freelancers=[change(freelancer) for freelancer in self.freelancers])

    def with_all(
        self, project: Callable[[Project], Project], freelancer: Callable[[Freelancer], Freelancer]
    ) -> Material:
        """Every document changed, in training and in evaluation."""
        history = replace(
            self.history,
            projects={key: project(value) for key, value in self.history.projects.items()},
            freelancers={key: freelancer(value) for key, value in self.history.freelancers.items()},
        )
        return replace(self.with_projects(project).with_freelancers(freelancer), history=history)


def read_material(dataset: Dataset, config: Config) -> Material:
    """Read the tables once; a dataset without a history gives an empty one.

    Raises:
        DatasetError: if a table is missing or nothing can be judged.
    """
    task = read_task(dataset)
    subsets = {name: frozenset(ids) for name, ids in task.truth.subsets.items()}
    history = read_history(dataset, config) if dataset.has(INTERACTIONS) else _NO_HISTORY
    return Material(dataset, history, task.projects, dataset.freelancers(), task.judged, subsets)


_NO_HISTORY = History(Split(frozenset(), frozenset()), Relations({}), {}, {})
