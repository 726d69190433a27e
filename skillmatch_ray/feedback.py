"""The loop that feeds training: candidates that were shown, joined with what became of them, into interactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

from skillmatch_ray.dataset import Dataset, TableKind, TableReport
from skillmatch_ray.documents import DocumentId, Moment
from skillmatch_ray.files import write_text
from skillmatch_ray.relations import Interaction, Outcome
from skillmatch_ray.serving.schemas import UNNAMED_PROJECT
from skillmatch_ray.serving.served import ServedMatch
from skillmatch_ray.workspace import Workspace


class OutcomeRow(BaseModel):
    """What became of one candidate; the match is named by its request, or by its project."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    request_id: DocumentId | None = None
    project_id: DocumentId | None = None
    freelancer_id: DocumentId
    outcome: Outcome
    happened_at: Moment = None

    @model_validator(mode="after")
    def _match_is_named(self) -> OutcomeRow:
        if self.request_id is None and self.project_id is None:
            raise ValueError("request_id or project_id must name the match")
        return self


SERVED: Final = TableKind("served", ServedMatch)
OUTCOMES: Final = TableKind("outcomes", OutcomeRow)


@dataclass
class FeedbackReport:
    """What the join found.

    Attributes:
        matches: answers that were remembered.
        shown: candidates in them.
        outcomes: good rows of the outcomes.
        joined: of these, about a candidate that was shown: the interactions written.
        not_shown: outcomes about somebody whom no remembered answer shows; they are left out.
        by_outcome: interactions by outcome.
        mean_reciprocal_rank: of the candidates with a positive outcome, in the order they were shown.
        bad_rows: set aside, by reason.
    """

    matches: int = 0
    shown: int = 0
    outcomes: int = 0
    joined: int = 0
    not_shown: int = 0
    by_outcome: dict[str, int] = field(default_factory=dict)
    mean_reciprocal_rank: float | None = None
    bad_rows: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)


class Shown:
    """Who was shown for what, and at which rank.

    Args:
        matches: as the service remembered them; of two about one project the later one counts.
    """

    def __init__(self, matches: Iterable[ServedMatch]) -> None:
        self._by_request: dict[str, tuple[str, dict[str, int]]] = {}
        self._by_project: dict[str, dict[str, int]] = {}
        self.matches = self.candidates = 0
        for match in matches:
            named = match.project_id != UNNAMED_PROJECT
            project = match.project_id if named else match.request_id
            ranks = {freelancer: rank for rank, (freelancer, _) in enumerate(match.candidates, start=1)}
            self._by_request[match.request_id] = project, ranks
            self._by_project.setdefault(project, {}).update(ranks)
            self.matches += 1
            self.candidates += len(ranks)

    def find(self, row: OutcomeRow) -> tuple[str, int] | None:
        """(project_id, rank) of the candidate that an outcome is about; None if it was not shown."""
        project, ranks = row.project_id or "", self._by_project.get(row.project_id or "", {})
        if row.request_id is not None:
            project, ranks = self._by_request.get(row.request_id, ("", {}))
        rank = ranks.get(row.freelancer_id)
        return None if rank is None else (project, rank)


def join_feedback(workspace: Workspace, outcomes: Dataset, out: Path) -> FeedbackReport:
    """Write `out`/interactions.jsonl from the served matches of a workspace and the outcomes table of a dataset.

    A brief that the client did not name goes under its request id.

    Raises:
        DatasetError: if nothing was remembered, or there are no outcomes.
    """
    served, told = TableReport(SERVED.name), TableReport(OUTCOMES.name)
    shown = Shown(Dataset(workspace.root).read(SERVED, served))
    report = FeedbackReport(matches=shown.matches, shown=shown.candidates)
    interactions, reciprocal = [], []
    for row in outcomes.read(OUTCOMES, told):
        found = shown.find(row)
        if found is None:
            report.not_shown += 1
            continue
        project, rank = found
        interactions.append(
            Interaction(
                project_id=project, freelancer_id=row.freelancer_id, outcome=row.outcome, happened_at=row.happened_at
            )
        )
        if row.outcome.sign > 0:
            reciprocal.append(1 / rank)
    report.by_outcome = dict(Counter(one.outcome.value for one in interactions))
    report.outcomes, report.joined = told.good, len(interactions)
    report.bad_rows = dict(served.reasons + told.reasons)
    if reciprocal:
        report.mean_reciprocal_rank = round(sum(reciprocal) / len(reciprocal), 4)
    lines = (one.model_dump_json(exclude_none=True) for one in interactions)
    write_text(out / "interactions.jsonl", "".join(f"{line}\n" for line in lines))
    return report
