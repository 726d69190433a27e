"""Check a whole dataset once, row by row: counts, reasons, a quarantine file, and whether it may be used."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skillmatch_ray.config import DatasetSettings
from skillmatch_ray.console import Advance
from skillmatch_ray.dataset import (
    FREELANCERS,
    INTERACTIONS,
    PROJECTS,
    QRELS,
    TABLES,
    BadRow,
    Dataset,
    IdIndex,
    Problem,
    TableKind,
    TableReport,
)
from skillmatch_ray.documents import Document
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import atomic_file
from skillmatch_ray.relations import Interaction, Judgement

QUARANTINE_FILE = "quarantine.jsonl"
PROGRESS_ROWS = 1000
"""Rows between two reports of progress."""

_NEEDED_FOR = {
    PROJECTS.name: "training and evaluation",
    INTERACTIONS.name: "training, and evaluation without qrels",
    QRELS.name: "graded evaluation",
}


@dataclass(frozen=True)
class ValidationReport:
    """What one pass over a dataset found.

    Attributes:
        root: directory of the dataset.
        tables: one entry for each table that is there, in reading order.
        missing: optional tables that are not there.
        cut: table -> texts over `dataset.long_text_characters`; they are accepted and cut at encoding.
        quarantine: file of the bad rows, or None where nobody asked for one.
    """

    root: Path
    tables: tuple[TableReport, ...]
    missing: tuple[str, ...]
    cut: dict[str, int]
    quarantine: Path | None

    @property
    def quarantined(self) -> int:
        """Bad rows of all tables."""
        return sum(table.bad for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """The report for machines: `counts` are good rows, `quarantined` bad ones, by table."""
        return {
            "counts": {table.name: table.good for table in self.tables},
            "quarantined": {table.name: table.bad for table in self.tables},
            "reasons": {table.name: dict(table.reasons.most_common()) for table in self.tables},
            "unknown_columns": {table.name: list(table.unknown_columns) for table in self.tables},
            "cut_at_encoding": self.cut,
            "missing_tables": list(self.missing),
            "quarantine": str(self.quarantine) if self.quarantine else None,
        }

    def render(self) -> RenderableType:
        """The report for people."""
        return Group(_counts_table(self), *(Text(line) for line in _remarks(self)))


def validate_dataset(
    dataset: Dataset,
    quarantine_dir: Path | None,
    settings: DatasetSettings,
    progress: Advance | None = None,
) -> ValidationReport:
    """Read every table once; count, explain and set aside what is bad.

    Rows are streamed; what stays in memory is an `IdIndex` of each table with a key.

    Args:
        dataset: with freelancers at least.
        quarantine_dir: gets `quarantine.jsonl`, one bad row a line; None writes nothing.
        settings: how much bad data is borne, and which texts count as long.
        progress: called with (bytes read, bytes in all, note).

    Raises:
        DatasetError: if there are no freelancers, a table stands there in two forms, a file is damaged, or
            a table has more bad rows than `max_bad_share`. The quarantine file is written before the
            last of these, so that the rows can be mended.
    """
    dataset.require(FREELANCERS)
    present = [kind for kind in TABLES if dataset.has(kind)]
    path = quarantine_dir / QUARANTINE_FILE if quarantine_dir else None
    total = sum(part.stat().st_size for kind in present for part in dataset.parts(kind))
    with quarantine(path) as set_aside:
        reader = _Reader(dataset, settings, set_aside, progress or (lambda *_: None), total)
        tables = tuple(reader.read(kind) for kind in present)
    for table in tables:
        check_bad_share(table, settings.max_bad_share, path)
    if not tables[0].good:
        raise DatasetError(f"dataset {dataset.root} has no good row in table {FREELANCERS.name!r}: nobody can be found")
    missing = tuple(kind.name for kind in TABLES if kind not in present)
    return ValidationReport(dataset.root, tables, missing, dict(reader.cut), path)


def check_bad_share(table: TableReport, most: float, quarantine_file: Path | None = None) -> None:
    """Refuse a table with too many bad rows.

    Args:
        table: the counts.
        most: `dataset.max_bad_share`.
        quarantine_file: where the bad rows are listed, for the message.

    Raises:
        DatasetError: naming the counts, the limit and the commonest reasons.
    """
    if not table.rows or table.bad / table.rows <= most:
        return
    reasons = ", ".join(f"{count} x {reason}" for reason, count in table.reasons.most_common(3))
    seen_in = f"they are listed in {quarantine_file}" if quarantine_file else "list them with `skillmatch validate`"
    raise DatasetError(
        f"{table.bad} of {table.rows} rows of table {table.name!r} are bad ({reasons}), more than "
        f"dataset.max_bad_share = {most}: {seen_in}; mend them or raise the limit"
    )


@contextlib.contextmanager
def quarantine(path: Path | None) -> Iterator[Callable[[BadRow], None]]:
    """Yield what takes bad rows; the file stands at `path` once the block ends well, empty if there were none."""
    if path is None:
        yield lambda _: None
        return
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        yield lambda row: _write_row(file, row)


def _write_row(file: BinaryIO, row: BadRow) -> None:
    # A file name need not be UTF-8; nothing that names a bad row may break the list of bad rows.
    file.write(json.dumps(asdict(row), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


class _Reader:
    """One pass over the tables, freelancers and projects first, so that references can be checked."""

    def __init__(
        self,
        dataset: Dataset,
        settings: DatasetSettings,
        set_aside: Callable[[BadRow], None],
        progress: Advance,
        total: int,
    ) -> None:
        self.dataset = dataset
        self.limit = settings.long_text_characters
        self.set_aside = set_aside
        self.progress = progress
        self.total = total
        self.finished = 0
        self.ids: dict[str, IdIndex] = {}
        self.cut: Counter[str] = Counter()

    def read(self, kind: TableKind[Any]) -> TableReport:
        """Read one table to its end."""
        report = TableReport(kind.name)
        self.ids[kind.name] = IdIndex()
        rows = self.dataset.read(kind, report, self.set_aside, seen=self.ids[kind.name], check=self._dangling_reference)
        for row in rows:
            if isinstance(row, Document):
                self.cut[kind.name] += sum(len(section.text) > self.limit for section in row.sections())
            if report.good % PROGRESS_ROWS == 0:
                self._advance(report)
        self._advance(report)
        self.finished += report.bytes_read
        return report

    def _advance(self, report: TableReport) -> None:
        self.progress(self.finished + report.bytes_read, self.total, f"{report.name}: {report.rows:,} rows")

    def _dangling_reference(self, row: BaseModel) -> Problem | None:
        """What an interaction or a judgement points to must be a good row."""
        if not isinstance(row, Interaction | Judgement):
            return None
        return self._unknown(PROJECTS, "project", row.project_id) or self._unknown(
            FREELANCERS, "freelancer", row.freelancer_id
        )

    def _unknown(self, kind: TableKind[Any], name: str, row_id: str) -> Problem | None:
        known = self.ids.get(kind.name)
        if known is None:
            return Problem(f"unknown {name}: there is no table {kind.name!r}", row_id)
        return None if row_id in known else Problem(f"unknown {name}", row_id)


def _counts_table(report: ValidationReport) -> Table:
    table = Table(title=Text(f"Dataset {report.root}"), title_justify="left")
    for name in ("table", "rows", "good", "quarantined", "cut at encoding"):
        table.add_column(name, justify="left" if name == "table" else "right")
    table.add_column("reasons")
    for found in report.tables:
        counts = (found.rows, found.good, found.bad, report.cut.get(found.name, 0))
        reasons = "\n".join(f"{count:,} x {reason}" for reason, count in found.reasons.most_common())
        table.add_row(found.name, *(f"{count:,}" for count in counts), Text(reasons))
    return table


def _remarks(report: ValidationReport) -> Iterable[str]:
    for table in report.tables:
        if table.unknown_columns:
            yield f"{table.name}: unknown columns are left out: {', '.join(table.unknown_columns)}"
    for name in report.missing:
        yield f"no table {name!r}: it is needed for {_NEEDED_FOR[name]} only"
    if report.quarantined and report.quarantine:
        yield f"quarantined rows: {report.quarantine}"
