"""Outcomes of past interactions, and the signed relation matrix that a training batch extracts from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from skillmatch_ray.documents import DocumentId, Moment


class Outcome(StrEnum):
    """How one contact between a project and a freelancer ended."""

    SELECTED = "selected"
    ACCEPTED = "accepted"
    COMPANY_DECLINED_SKILLS = "company_declined_skills"
    FREELANCER_DECLINED_SKILLS = "freelancer_declined_skills"
    DECLINED_PRICE = "declined_price"
    DECLINED_DATES = "declined_dates"
    DECLINED_OTHER = "declined_other"
    NO_ANSWER = "no_answer"

    @property
    def sign(self) -> int:
        """+1 where the skills matched, -1 where a side said that they lack, 0 where it says nothing."""
        return _SIGNS.get(self, 0)


_SIGNS = {
    Outcome.SELECTED: 1,
    Outcome.ACCEPTED: 1,
    Outcome.COMPANY_DECLINED_SKILLS: -1,
    Outcome.FREELANCER_DECLINED_SKILLS: -1,
}


class Interaction(BaseModel):
    """One historical project-freelancer event with its outcome."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    project_id: DocumentId
    freelancer_id: DocumentId
    outcome: Outcome
    happened_at: Moment = None


class Judgement(BaseModel):
    """One row of qrels: how well a freelancer fits a project, 0 (not) to 3 (fully)."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    project_id: DocumentId
    freelancer_id: DocumentId
    grade: int = Field(ge=0, le=3)


@dataclass(frozen=True)
class Relations:
    """Signed relations between projects and freelancers: project -> freelancer -> +1 or -1.

    Where several interactions of one pair disagree, a positive outcome wins: once selected, the
    skills were there.
    """

    signs: Mapping[str, Mapping[str, int]]

    @classmethod
    def from_interactions(cls, interactions: Iterable[Interaction]) -> Relations:
        """Keep the outcomes that speak about skills."""
        signs: dict[str, dict[str, int]] = defaultdict(dict)
        for interaction in interactions:
            sign = interaction.outcome.sign
            if sign:
                known = signs[interaction.project_id]
                known[interaction.freelancer_id] = max(sign, known.get(interaction.freelancer_id, sign))
        return cls(dict(signs))

    def positives(self, project_id: str) -> list[str]:
        """Freelancers known to have the skills of the project, in the order they were seen."""
        return [f for f, sign in self.signs.get(project_id, {}).items() if sign > 0]

    def negatives(self, project_id: str) -> list[str]:
        """Freelancers known to lack the skills of the project, in the order they were seen."""
        return [f for f, sign in self.signs.get(project_id, {}).items() if sign < 0]

    def trainable_projects(self) -> list[str]:
        """Projects with at least one positive, sorted."""
        return sorted(p for p, known in self.signs.items() if any(sign > 0 for sign in known.values()))

    def matrix(self, project_ids: Sequence[str], freelancer_ids: Sequence[str]) -> NDArray[np.int8]:
        """The part of the adjacency matrix of one batch: (P, F) with +1, -1, 0 (unknown)."""
        column = {freelancer: j for j, freelancer in enumerate(freelancer_ids)}
        result = np.zeros((len(project_ids), len(freelancer_ids)), dtype=np.int8)
        for i, project in enumerate(project_ids):
            for freelancer, sign in self.signs.get(project, {}).items():
                if freelancer in column:
                    result[i, column[freelancer]] = sign
        return result


def weak_negatives(
    relations: NDArray[np.int8],
    project_categories: Sequence[str | None],
    freelancer_categories: Sequence[str | None],
) -> NDArray[np.bool_]:
    """(P, F) True where no relation is known and the job categories, both known, differ (paper)."""
    p = np.array([c or "" for c in project_categories], dtype=object)[:, None]
    f = np.array([c or "" for c in freelancer_categories], dtype=object)[None, :]
    known = (p != "") & (f != "")
    differs: NDArray[np.bool_] = (relations == 0) & known & (p != f)
    return differs


def freelancer_relations(relations: NDArray[np.int8]) -> NDArray[np.int8]:
    """Freelancer-freelancer relations by transitivity through shared projects: (P, F) -> (F, F).

    +1 where two freelancers are positives of one project; -1 where one is a positive and the other
    a negative of one project and no project says +1; 0 elsewhere and on the diagonal. Two negatives
    of one project say nothing about each other. (Our reconstruction of the paper's dual relations.)
    """
    positive = (relations > 0).astype(np.int32)
    negative = (relations < 0).astype(np.int32)
    together = positive.T @ positive > 0
    opposed = positive.T @ negative
    apart = (opposed + opposed.T) > 0
    result: NDArray[np.int8] = np.where(together, 1, np.where(apart, -1, 0)).astype(np.int8)
    np.fill_diagonal(result, 0)
    return result


@dataclass(frozen=True)
class RelationBatch:
    """The relations of one training batch.

    Attributes:
        project_ids: P ids.
        freelancer_ids: F ids, each once.
        signs: (P, F) int8, +1 / -1 / 0 unknown.
        weak: (P, F) bool, weak negatives.
    """

    project_ids: tuple[str, ...]
    freelancer_ids: tuple[str, ...]
    signs: NDArray[np.int8]
    weak: NDArray[np.bool_] = field(repr=False)
