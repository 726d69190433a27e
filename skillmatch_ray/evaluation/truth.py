"""What counts as right: judgements where a dataset has them, else the outcomes of interactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skillmatch_ray.dataset import INTERACTIONS, QRELS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.relations import Relations
from skillmatch_ray.split import split_projects

RELEVANT_GRADE = 2
"""Grades from here on are relevant, unless told otherwise."""


@dataclass(frozen=True)
class Truth:
    """Grades of judged pairs.

    Attributes:
        source: "qrels" or "interactions".
        grades: project id -> freelancer id -> grade 1 to 3.
        subsets: name -> project ids; for a sample "later" and "occupations".
    """

    source: str
    grades: Mapping[str, Mapping[str, int]]
    subsets: Mapping[str, Collection[str]]


def read_truth(dataset: Dataset, projects: Mapping[str, Project]) -> Truth:
    """Judged pairs of the dataset; of a history only the held-out projects are judged.

    Raises:
        DatasetError: if the dataset has neither qrels nor interactions.
    """
    if dataset.has(QRELS):
        grades: dict[str, dict[str, int]] = defaultdict(dict)
        for judgement in dataset.read(QRELS):
            if judgement.grade and judgement.project_id in projects:
                grades[judgement.project_id][judgement.freelancer_id] = judgement.grade
        return Truth("qrels", grades, _subsets(dataset, projects))
    if not dataset.has(INTERACTIONS):
        raise DatasetError(f"dataset {dataset.root} can not be evaluated: it has neither qrels nor interactions")
    relations = Relations.from_interactions(dataset.read(INTERACTIONS))
    held_out = split_projects(dataset, projects.values(), 0.0).held_out
    test = sorted(frozenset().union(*held_out.values()))
    positives = {p: dict.fromkeys(relations.positives(p), 3) for p in test if p in projects}
    return Truth("interactions", positives, held_out)


def _subsets(dataset: Dataset, projects: Mapping[str, Project]) -> Mapping[str, Collection[str]]:
    split = split_projects(dataset, projects.values(), 0.0)
    return split.held_out if len(split.held_out) > 1 else {}
