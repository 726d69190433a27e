"""What an index is built from: the rows of a dataset with their vectors, under the changes of the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import ReleaseError
from skillmatch_ray.index.journal import Entry, id_key
from skillmatch_ray.index.schema import KEY, VECTOR, scalar_values, split_languages
from skillmatch_ray.pipeline.vectors import read_vectors

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[Freelancer]], Vectors]

_SPOOL_FILE = "rows.arrow"
_SPOOL_ROWS = 2048
_JOURNAL_ROWS = 256
_LENGTH_TOLERANCE = 1e-2  # half-precision models
_ROW_OVERHEAD_BYTES = 700

_SPOOL_SCHEMA = pa.schema(
    [
        (KEY, pa.string()),
        ("country", pa.string()),
        ("category", pa.string()),
        ("remote", pa.int8()),
        ("languages", pa.string()),
        ("languages_known", pa.bool_()),
        ("rate", pa.float64()),
        ("available_day", pa.int64()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("mobility", pa.float64()),
        ("payload", pa.string()),
        ("profile", pa.string()),
        ("content_hash", pa.string()),
        ("row_hash", pa.string()),
    ]
)


@dataclass(frozen=True)
class Rows:
    """Some rows of the source.

    Attributes:
        scalars: n dictionaries of `schema.scalar_values`.
        vectors: (n, D).
    """

    scalars: list[dict[str, Any]]
    vectors: Vectors


@dataclass
class Source:
    """Everybody who belongs into the index, once each.

    The scalar columns are spooled to disk in one pass over the dataset, so that memory holds ids only;
    vectors are then read part by part and joined.

    Args:
        dataset: with freelancers.
        vectors_dir: of `skillmatch encode`.
        changes: last word of the journal on each freelancer: `id_key` -> entry.
        spool: directory for the spooled rows.
        encode: makes vectors of journalled rows that came from another model.
        fingerprint: of the model.
    """

    dataset: Dataset
    vectors_dir: Path
    changes: Mapping[str, Entry]
    spool: Path
    encode: Encode
    fingerprint: str
    languages: Counter[str] = field(default_factory=Counter)
    _places: dict[str, int] = field(default_factory=dict, repr=False)
    _online: list[Entry] = field(default_factory=list, repr=False)
    _table: pa.Table | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self._places) + len(self._online)

    def prepare(self, progress: Callable[[float, float, str], None] = lambda *_: None) -> None:
        """Read the dataset once: spool its rows, count its languages, decide who is under the journal."""
        path = self.spool / _SPOOL_FILE
        beaten: set[str] = set()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SPOOL_SCHEMA) as writer:
            waiting: list[dict[str, Any]] = []
            for freelancer in self.dataset.read(FREELANCERS):
                if self._journal_wins(freelancer):
                    continue
                if self.changes:
                    beaten.add(id_key(freelancer.id))
                self._places[freelancer.id] = len(self._places)
                waiting.append(scalar_values(freelancer))
                self.languages.update(split_languages(waiting[-1]["languages"]))
                if len(waiting) == _SPOOL_ROWS:
                    writer.write_table(pa.Table.from_pylist(waiting, _SPOOL_SCHEMA))
                    waiting.clear()
                    progress(len(self._places), 0, f"{len(self._places)} rows read")
            writer.write_table(pa.Table.from_pylist(waiting, _SPOOL_SCHEMA))
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._online = [e for key, e in self.changes.items() if e.op == "upsert" and key not in beaten]
        for entry in self._online:
            self.languages.update(set(_row(entry).spoken_languages))

    def discard(self) -> None:
        """Delete the spooled rows."""
        self._table = None
        (self.spool / _SPOOL_FILE).unlink(missing_ok=True)

    def _journal_wins(self, freelancer: Freelancer) -> bool:
        entry = self.changes.get(id_key(freelancer.id)) if self.changes else None
        return entry is not None and entry.beats(freelancer)

    def rows(self) -> Iterator[Rows]:
        """Everybody, part by part, checked.

        Raises:
            ReleaseError: if a row has no vector, or one of another text, or one that is no unit vector.
        """
        found = 0
        for ids, contents, vectors in self._parts():
            scalars = self._scalars(ids)
            stale = [i for i, row in enumerate(scalars) if row["content_hash"] != contents[i]]
            if stale:
                raise ReleaseError(
                    f"the vector of freelancer {ids[stale[0]]!r} in {self.vectors_dir} was made from another text "
                    f"({len(stale)} such): run `skillmatch encode` on this dataset first"
                )
            check_vectors(ids, vectors)
            found += len(ids)
            yield Rows(scalars, vectors)
        if found != len(self._places):
            raise ReleaseError(
                f"{len(self._places) - found} of {len(self._places)} freelancers of {self.dataset.root} have no vector "
                f"in {self.vectors_dir}: run `skillmatch encode` on this dataset first"
            )
        yield from self._online_rows()

    def vectors(self) -> Iterator[tuple[list[str], Vectors]]:
        """Ids and (n, D) vectors only, of the same rows."""
        for ids, _, vectors in self._parts():
            yield ids, vectors
        for rows in self._online_rows():
            yield [row[KEY] for row in rows.scalars], rows.vectors

    def _parts(self) -> Iterator[tuple[list[str], list[str], Vectors]]:
        for table in read_vectors(self.vectors_dir):
            ids = table["freelancer_id"].to_pylist()
            kept = [i for i, freelancer in enumerate(ids) if freelancer in self._places]
            if kept:
                contents = table["content_hash"].take(kept).to_pylist()
                yield [ids[i] for i in kept], contents, _matrix(table["vector"].take(kept))

    def _scalars(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        if self._table is None:
            raise ValueError("prepare() first")
        rows: list[dict[str, Any]] = self._table.take([self._places[i] for i in ids]).to_pylist()
        return rows

    def _online_rows(self) -> Iterator[Rows]:
        for start in range(0, len(self._online), _JOURNAL_ROWS):
            entries = self._online[start : start + _JOURNAL_ROWS]
            vectors = entry_vectors(entries, self.fingerprint, self.encode)
            yield Rows([scalar_values(_row(entry)) for entry in entries], vectors)


def entry_vectors(entries: Sequence[Entry], fingerprint: str, encode: Encode) -> Vectors:
    """(n, D) vectors of journalled upserts; those of another space are made anew."""
    foreign = [i for i, entry in enumerate(entries) if entry.fingerprint != fingerprint]
    fresh = encode([_row(entries[i]) for i in foreign]) if foreign else np.empty((0, 0), dtype=np.float32)
    place = {i: n for n, i in enumerate(foreign)}
    return np.stack([fresh[place[i]] if i in place else _vector(entry) for i, entry in enumerate(entries)])


def _row(entry: Entry) -> Freelancer:
    if entry.freelancer is None:
        raise ReleaseError(f"change {entry.seq} of the journal is an upsert without a row")
    return entry.freelancer


def _vector(entry: Entry) -> Vectors:
    if entry.vector is None:
        raise ReleaseError(f"change {entry.seq} of the journal is an upsert without a vector")
    return entry.vector


def _matrix(column: pa.ChunkedArray) -> Vectors:
    """(n, D) of a fixed-size-list column."""
    array = column.combine_chunks()
    flat: Vectors = array.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), -1)


def check_vectors(ids: Sequence[str], vectors: Vectors) -> None:
    """Refuse vectors that would poison an index.

    Raises:
        ReleaseError: if one is not finite, or neither of length 1 nor zero (a document without tokens).
    """
    lengths = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(lengths) & ((np.abs(lengths - 1) <= _LENGTH_TOLERANCE) | (lengths == 0))
    if not good.all():
        first = int(np.argmin(good))
        raise ReleaseError(
            f"{int((~good).sum())} vectors are not finite or not of length 1, the first that of freelancer "
            f"{ids[first]!r} (length {lengths[first]}): encode them again"
        )


def byte_batches(rows: Iterable[dict[str, Any]], budget: float) -> Iterator[list[dict[str, Any]]]:
    """Rows in batches of at most `budget` bytes as sent, one row at least."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        bytes_of_row = row_bytes(row)
        if batch and size + bytes_of_row > budget:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += bytes_of_row
    if batch:
        yield batch


def row_bytes(row: Mapping[str, Any]) -> int:
    """About how many bytes a row takes in a request."""
    texts = sum(len(value.encode()) for value in row.values() if isinstance(value, str))
    return texts + 4 * len(row[VECTOR]) + _ROW_OVERHEAD_BYTES
