"""A dataset without those who were deleted: no later encoding or training brings a person back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from skillmatch_ray.dataset import FREELANCERS, BadRow, Dataset, TableKind, TableReport
from skillmatch_ray.index.journal import id_key
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.workspace import Workspace

RowT = TypeVar("RowT", bound=BaseModel)


@dataclass(frozen=True)
class LivingDataset(Dataset):
    """A dataset that does not show deleted freelancers.

    Attributes:
        deleted: `id_key`s of theirs.
    """

    deleted: frozenset[str] = frozenset()

    def read(
        self,
        kind: TableKind[RowT],
        report: TableReport | None = None,
        on_bad: Callable[[BadRow], None] = lambda _: None,
        **options: Any,
    ) -> Iterator[RowT]:
        """The good rows of the living, as if the table had no others."""
        report = report if report is not None else TableReport(kind.name)
        for row in super().read(kind, report, on_bad, **options):
            if kind is FREELANCERS and id_key(getattr(row, "freelancer_id")) in self.deleted:  # noqa: B009
                report.rows -= 1
                report.good -= 1
            else:
                yield row


def living(workspace: Workspace, dataset: Dataset) -> Dataset:
    """The dataset without those whom the workspace's journal says deleted."""
    deleted = ReleaseStore(workspace).journal.deleted()
    return LivingDataset(dataset.root, deleted) if deleted else dataset
