"""A dataset: a directory of tables (Parquet or JSON Lines), read row by row with bad rows set aside."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.relations import Interaction, Judgement

RowT = TypeVar("RowT", bound=BaseModel)

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")
READ_ROWS = 1024
"""Rows of a Parquet file that are held in memory at once."""


@dataclass(frozen=True)
class TableKind(Generic[RowT]):
    """What a table holds.

    Attributes:
        name: stem of its file.
        row: type of a valid row.
        key: what must be unique, or None where rows may repeat.
    """

    name: str
    row: type[RowT]
    key: Callable[[RowT], tuple[str, ...]] | None = None


FREELANCERS: Final = TableKind("freelancers", Freelancer, lambda row: (row.freelancer_id,))
PROJECTS: Final = TableKind("projects", Project, lambda row: (row.project_id,))
INTERACTIONS: Final = TableKind("interactions", Interaction)
QRELS: Final = TableKind("qrels", Judgement, lambda row: (row.project_id, row.freelancer_id))
TABLES: Final[tuple[TableKind[Any], ...]] = (FREELANCERS, PROJECTS, INTERACTIONS, QRELS)


@dataclass(frozen=True)
class RawRow:
    """One row as it was found.

    Attributes:
        file: where.
        number: 1-based line or row within the file.
        values: column -> value, or None where the row cannot even be parsed.
        problem: why it cannot be parsed.
    """

    file: Path
    number: int
    values: dict[str, Any] | None
    problem: str = ""


@dataclass(frozen=True)
class BadRow:
    """One quarantined row: where it stands and why it was set aside."""

    table: str
    file: str
    row: int
    id: str
    reason: str


@dataclass
class TableReport:
    """Counts of one table; rows == good + bad."""

    name: str
    rows: int = 0
    good: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_columns: tuple[str, ...] = ()

    @property
    def bad(self) -> int:
        """Quarantined rows."""
        return self.rows - self.good


@dataclass(frozen=True)
class Dataset:
    """A directory of tables.

    Attributes:
        root: the directory.
    """

    root: Path

    def parts(self, kind: TableKind[Any]) -> list[Path]:
        """The files of a table in reading order; empty if the dataset does not have it.

        Raises:
            DatasetError: if the directory is missing or the table stands there in two forms.
        """
        if not self.root.is_dir():
            raise DatasetError(f"dataset {self.root} is not a directory")
        forms = [p for s in SUFFIXES if (p := self.root / f"{kind.name}{s}").is_file()]
        folder = self.root / kind.name
        if folder.is_dir():
            forms.append(folder)
        if len(forms) > 1:
            names = ", ".join(form.name for form in forms)
            raise DatasetError(f"dataset {self.root} has table {kind.name!r} in several forms ({names}): keep one")
        if forms == [folder]:
            return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
        return forms

    def has(self, kind: TableKind[Any]) -> bool:
        """Whether the table is there."""
        return bool(self.parts(kind))

    def require(self, kind: TableKind[Any]) -> list[Path]:
        """`parts`, at least one.

        Raises:
            DatasetError: if the table is missing; the message names the forms looked for.
        """
        parts = self.parts(kind)
        if not parts:
            forms = ", ".join(kind.name + suffix for suffix in SUFFIXES)
            raise DatasetError(
                f"dataset {self.root} lacks table {kind.name!r}: put {forms} or a folder {kind.name}/ there"
            )
        return parts

    def read(
        self,
        kind: TableKind[RowT],
        report: TableReport | None = None,
        on_bad: Callable[[BadRow], None] = lambda _: None,
    ) -> Iterator[RowT]:
        """The good rows of a table, in order; bad rows are counted in `report` and handed to `on_bad`.

        Raises:
            DatasetError: if the table is missing.
        """
        report = report if report is not None else TableReport(kind.name)
        seen: set[tuple[str, ...]] = set()
        for raw in read_rows(self.require(kind)):
            report.rows += 1
            row, problem = parse_row(kind, raw)
            if row is not None and kind.key is not None:
                key = kind.key(row)
                if key in seen:
                    row, problem = None, f"duplicate id {'/'.join(key)}"
                seen.add(key)
            if row is None:
                report.reasons[problem.split(":")[0].split(" (")[0][:60]] += 1
                on_bad(BadRow(kind.name, str(raw.file), raw.number, row_id(kind, raw), problem))
                continue
            report.good += 1
            yield row

    def freelancers(self) -> list[Freelancer]:
        """All good freelancers, in memory."""
        return list(self.read(FREELANCERS))

    def projects(self) -> list[Project]:
        """All good projects, in memory."""
        return list(self.read(PROJECTS))

    def interactions(self) -> list[Interaction]:
        """All good interactions, in memory."""
        return list(self.read(INTERACTIONS))

    def qrels(self) -> list[Judgement]:
        """All good judgements, in memory."""
        return list(self.read(QRELS))


def read_rows(parts: Iterable[Path]) -> Iterator[RawRow]:
    """Every row of the files, in order, whatever is wrong with it."""
    for part in parts:
        yield from _read_parquet(part) if part.suffix == ".parquet" else _read_json_lines(part)


def parse_row(kind: TableKind[RowT], raw: RawRow) -> tuple[RowT | None, str]:
    """The typed row, or None and the reason why not."""
    if raw.values is None:
        return None, raw.problem
    try:
        return kind.row.model_validate(raw.values), ""
    except ValidationError as e:
        return None, "; ".join(_reason(error) for error in e.errors()[:3])


def row_id(kind: TableKind[Any], raw: RawRow) -> str:
    """The id that the row claims, as far as it can be read."""
    names = [name for name in kind.row.model_fields if name.endswith("_id")]
    return "/".join(str((raw.values or {}).get(name, "?")) for name in names)[:256]


def unknown_columns(kind: TableKind[Any], columns: Iterable[str]) -> list[str]:
    """Columns that are left out, sorted."""
    return sorted(set(columns) - set(kind.row.model_fields))


def _reason(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "row"
    given = repr(error["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"{place}: {error['msg']} (given: {shown})" if error["type"] != "missing" else f"{place}: missing"


def _read_json_lines(part: Path) -> Iterator[RawRow]:
    opener: Any = gzip.open if part.suffix == ".gz" else open
    with opener(part, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse_json_line(part, number, line)


def _parse_json_line(part: Path, number: int, line: bytes) -> RawRow:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        return RawRow(part, number, None, f"broken UTF-8: byte {e.start}")
    except (json.JSONDecodeError, RecursionError) as e:
        return RawRow(part, number, None, f"not JSON: {e}")
    if not isinstance(values, dict):
        return RawRow(part, number, None, f"not an object: {type(values).__name__}")
    return RawRow(part, number, values)


def _read_parquet(part: Path) -> Iterator[RawRow]:
    try:
        file = pq.ParquetFile(part)
    except (pa.ArrowInvalid, OSError) as e:
        raise DatasetError(f"{part} is not a readable Parquet file: {e}") from e
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=READ_ROWS):
            for values in rows_of(batch):
                number += 1
                yield RawRow(part, number, *values)


def rows_of(batch: Any) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """Rows of an Arrow batch as dictionaries; a row with broken UTF-8 costs only itself."""
    try:
        whole = batch.to_pylist()
    except UnicodeDecodeError:
        yield from (_row_of(batch, i) for i in range(batch.num_rows))
    else:
        yield from ((values, "") for values in whole)


def _row_of(batch: Any, i: int) -> tuple[dict[str, Any] | None, str]:
    try:
        values: dict[str, Any] = batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as e:
        return None, f"broken UTF-8: byte {e.start}"
    return values, ""
