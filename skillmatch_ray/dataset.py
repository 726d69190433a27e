"""A dataset: a directory of tables (Parquet or JSON Lines), read row by row with bad rows set aside."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import reprlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from skillmatch_ray.documents import Document, Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import reachable
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
class Problem:
    """Why a row is set aside.

    Attributes:
        kind: what reports count; the same for all rows with this problem.
        detail: what tells this row from the others.

    Example:
        >>> str(Problem("duplicate id", "f7"))
        'duplicate id (f7)'
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


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
    problem: Problem | None = None


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
    """Counts of one table, filled while it is read; rows == good + bad.

    Attributes:
        name: of the table.
        rows: read so far.
        good: of these, handed out.
        reasons: kind of problem -> quarantined rows.
        unknown_columns: names that no field has, sorted, each once.
        bytes_read: of the files, as they lie on disk.
    """

    name: str
    rows: int = 0
    good: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_columns: tuple[str, ...] = ()
    bytes_read: int = 0

    @property
    def bad(self) -> int:
        """Quarantined rows."""
        return self.rows - self.good

    def note_columns(self, kind: TableKind[Any], columns: Iterable[str]) -> None:
        """Remember the columns that are left out."""
        unknown = unknown_columns(kind, columns)
        if unknown and not set(self.unknown_columns).issuperset(unknown):
            self.unknown_columns = tuple(sorted({*self.unknown_columns, *unknown}))


class IdIndex:
    """The ids seen so far, as 8-byte hashes: about 70 bytes an id in memory, whatever its length.

    Two of n different ids share a hash with a probability of n^2 / 2^65: 3e-8 at a million, 3e-6 at
    ten million; the second of them would then be quarantined as a duplicate.

    Example:
        >>> index = IdIndex()
        >>> index.add("f1"), index.add("f1"), "f1" in index, "f2" in index
        (True, False, True, False)
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, part: str) -> bool:
        return _key_hash(part) in self._hashes

    def add(self, *key: str) -> bool:
        """Take up the key; False if it was there already."""
        before = len(self._hashes)
        self._hashes.add(_key_hash(*key))
        return len(self._hashes) > before


def _key_hash(*key: str) -> int:
    # NUL cannot occur in an id, so that ("a", "bc") and ("ab", "c") differ.
    return int.from_bytes(hashlib.blake2b("\0".join(key).encode(), digest_size=8).digest())


@dataclass(frozen=True)
class Dataset:
    """A directory of tables.

    Attributes:
        root: the directory; see `files.locate` for one in an object store.
    """

    root: Path

    def parts(self, kind: TableKind[Any]) -> list[Path]:
        """The files of a table in reading order; empty if the dataset does not have it.

        Raises:
            DatasetError: if the directory is missing or the table stands there in two forms.
        """
        if not reachable(self.root):
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
        *,
        seen: IdIndex | None = None,
        check: Callable[[RowT], Problem | None] = lambda _: None,
    ) -> Iterator[RowT]:
        """The good rows of a table, in order; bad rows are counted in `report` and handed to `on_bad`.

        Args:
            kind: which table.
            report: is filled while reading; unknown columns are named there.
            on_bad: takes each quarantined row.
            seen: takes up the keys of the good rows, for those who need them later.
            check: finds what is wrong with a row that is valid by itself.

        Raises:
            DatasetError: if the table is missing or a file of it is damaged.
        """
        report = report if report is not None else TableReport(kind.name)
        seen = seen if seen is not None else IdIndex()
        for raw in read_rows(kind, self.require(kind), report):
            report.rows += 1
            row, problem = parse_row(kind, raw)
            if row is not None:
                problem = check(row) or _repeats(kind, row, seen)
            if row is None or problem is not None:
                problem = problem or Problem("unreadable")
                report.reasons[problem.kind] += 1
                on_bad(BadRow(kind.name, str(raw.file), raw.number, row_id(kind, raw), str(problem)))
                continue
            report.good += 1
            yield row

    def documents(self) -> Iterator[Document]:
        """All good projects, where there is such a table, then all good freelancers; never held."""
        if self.has(PROJECTS):
            projects = self.read(PROJECTS)
            yield from projects
        freelancers = self.read(FREELANCERS)
        yield from freelancers

    def freelancers(self) -> list[Freelancer]:
        """All good freelancers, in memory."""
        return list(self.read(FREELANCERS))

    def projects(self) -> list[Project]:
        """All good projects, in memory."""
        return list(self.read(PROJECTS))

    def interactions(self) -> list[Interaction]:
        """All good interactions, in memory."""
        return list(self.read(INTERACTIONS))


def read_rows(kind: TableKind[Any], parts: Iterable[Path], report: TableReport) -> Iterator[RawRow]:
    """Every row of the files, in order, whatever is wrong with it.

    Raises:
        DatasetError: if a file is damaged, so that its further rows are lost.
    """
    for part in parts:
        read = _read_parquet if part.suffix == ".parquet" else _read_json_lines
        before = report.bytes_read
        yield from read(kind, part, report)
        report.bytes_read = before + part.stat().st_size


def parse_row(kind: TableKind[RowT], raw: RawRow) -> tuple[RowT | None, Problem | None]:
    """The typed row, or what is wrong with it."""
    if raw.values is None:
        return None, raw.problem
    try:
        return kind.row.model_validate(raw.values), None
    except ValidationError as e:
        return None, _explain(e.errors(include_url=False))


def row_id(kind: TableKind[Any], raw: RawRow) -> str:
    """The id that the row claims, as far as it can be read."""
    names = [name for name in kind.row.model_fields if name.endswith("_id")]
    claimed = "/".join(str((raw.values or {}).get(name, "?"))[:256] for name in names)
    return claimed.encode("utf-8", "replace").decode()


def unknown_columns(kind: TableKind[Any], columns: Iterable[str]) -> list[str]:
    """Columns that are left out, sorted."""
    return sorted(set(columns) - kind.row.model_fields.keys())


def _repeats(kind: TableKind[RowT], row: RowT, seen: IdIndex) -> Problem | None:
    key = kind.key(row) if kind.key else None
    return None if key is None or seen.add(*key) else Problem("duplicate id", "/".join(key))


def _explain(errors: Sequence[Any]) -> Problem:
    """The first of pydantic's errors names the kind; its value and the next two are details."""
    first, *others = (_reason(error) for error in errors[:3])
    given = _reason_value(errors[0])
    return Problem(first, "; ".join([*([f"given: {given}"] if given else []), *(f"also {other}" for other in others)]))


def _reason(error: Any) -> str:
    """Place and rule, without what only this row has.

    Example:
        >>> _reason({"loc": ("skills", 3), "type": "string_type", "msg": "must be text", "input": 5})
        'skills: must be text'
    """
    place = ".".join(part for part in error["loc"] if isinstance(part, str)) or "row"
    if error["input"] is None or error["type"] == "missing":
        return f"{place}: missing"
    return f"{place}: {_IN_BRACKETS.sub('', error['msg']).removeprefix('Value error, ')}"


def _reason_value(error: Any) -> str:
    if error["type"] == "missing" or error["input"] is None:
        return ""
    # A rule over several fields names their values itself; its input is the whole row.
    return _SHORT.repr(error["input"]) if error["loc"] else ", ".join(_IN_BRACKETS.findall(error["msg"]))


_IN_BRACKETS = re.compile(r" \(([^()]*)\)")
# A value may be a megabyte long or nested a thousand deep.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _read_json_lines(kind: TableKind[Any], part: Path, report: TableReport) -> Iterator[RawRow]:
    before, number = report.bytes_read, 0
    with part.open("rb") as file:
        lines: Any = gzip.GzipFile(fileobj=file) if part.suffix == ".gz" else file
        try:
            for number, line in enumerate(lines, start=1):
                report.bytes_read = before + file.tell()
                if line.strip():
                    raw = _parse_json_line(part, number, line)
                    report.note_columns(kind, raw.values or ())
                    yield raw
        except (OSError, EOFError, zlib.error) as e:
            raise DatasetError(f"{part} is damaged after line {number} ({e}): write or copy it again") from e


def _parse_json_line(part: Path, number: int, line: bytes) -> RawRow:
    try:
        # Editors on Windows mark the first line as UTF-8.
        values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as e:
        return RawRow(part, number, None, Problem("broken UTF-8", f"byte {e.start}"))
    except (ValueError, RecursionError) as e:
        return RawRow(part, number, None, Problem("not JSON", str(e)))
    if not isinstance(values, dict):
        return RawRow(part, number, None, Problem("not an object", type(values).__name__))
    return RawRow(part, number, values)


def _read_parquet(kind: TableKind[Any], part: Path, report: TableReport) -> Iterator[RawRow]:
    before, number = report.bytes_read, 0
    try:
        with part.open("rb") as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            report.note_columns(kind, names)
            # What no field has is not read; but rows without any known column still are rows.
            known = [name for name in names if name in kind.row.model_fields] or None
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=known):
                for values, problem in rows_of(batch):
                    number += 1
                    yield RawRow(part, number, values, problem)
                report.bytes_read = before + int(part.stat().st_size * number / file.metadata.num_rows)
    except (pa.ArrowException, OSError) as e:
        raise DatasetError(f"{part} is not readable as Parquet after row {number} ({e}): write or copy it again") from e


def rows_of(batch: Any) -> Iterator[tuple[dict[str, Any] | None, Problem | None]]:
    """Rows of an Arrow batch as dictionaries; a row with broken UTF-8 costs only itself."""
    try:
        whole = batch.to_pylist()
    except UnicodeDecodeError:
        yield from (_row_of(batch, i) for i in range(batch.num_rows))
    else:
        yield from ((values, None) for values in whole)


def _row_of(batch: Any, i: int) -> tuple[dict[str, Any] | None, Problem | None]:
    try:
        values: dict[str, Any] = batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as e:
        return None, Problem("broken UTF-8", f"byte {e.start} of a text")
    return values, None
