"""Online changes, durable beside the vectors: every upsert and delete since the dataset was written.

One JSON object a line. A writer appends under a lock and syncs before anybody is told that the change
is accepted; a torn last line was never accepted and is cut off by the next writer. Sequence numbers only
grow, so that each release knows how far it has come. `compact` keeps the last word on each freelancer;
of a deleted one only a hash of the id stays, so that no dataset brings them back.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import ReleaseError, StorageError
from skillmatch_ray.files import atomic_file, owner_lock

Operation = Literal["upsert", "delete"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def id_key(freelancer_id: str) -> str:
    """What stays of an id after erasure."""
    return hashlib.sha256(freelancer_id.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One change.

    Attributes:
        seq: grows by one with each change.
        at: when, UTC.
        op: upsert or delete.
        key: `id_key` of the freelancer.
        freelancer_id: None in an erased delete.
        freelancer: the whole row of an upsert.
        fingerprint: of the space of `vector`.
        vector: (D,) float32 of an upsert.
    """

    seq: int
    at: dt.datetime
    op: Operation
    key: str
    freelancer_id: str | None = None
    freelancer: Freelancer | None = None
    fingerprint: str = ""
    vector: NDArray[np.float32] | None = None

    def beats(self, row: Freelancer) -> bool:
        """Whether this change counts more than a row of the dataset with the same id.

        A delete always does; an upsert does unless the row was updated after it.
        """
        return self.op == "delete" or row.updated_at is None or row.updated_at <= self.at


@dataclass(frozen=True)
class Position:
    """How far a reader has come in the file."""

    inode: int = 0
    offset: int = 0


@dataclass
class Journal:
    """The journal of one workspace.

    Args:
        path: its file; made by the first change.
    """

    path: Path
    _next: int = 1
    _end: Position = Position()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes the journal meanwhile; others wait."""
        with owner_lock(self.path.with_suffix(".lock"), "writing the journal", wait=True):
            yield

    def upsert(self, freelancer: Freelancer, vector: NDArray[np.float32], fingerprint: str) -> Entry:
        """Record a new or changed freelancer; durable when this returns.

        Raises:
            StorageError: if the disk is full; nothing was recorded then.
        """
        with self.lock():
            return self._append(
                Entry(
                    seq=self._next_seq(),
                    at=dt.datetime.now(dt.UTC),
                    op="upsert",
                    key=id_key(freelancer.id),
                    freelancer_id=freelancer.id,
                    freelancer=freelancer,
                    fingerprint=fingerprint,
                    vector=np.asarray(vector, dtype=np.float32),
                )
            )

    def delete(self, freelancer_id: str) -> Entry:
        """Record that a freelancer goes, for good; durable when this returns."""
        with self.lock():
            now = dt.datetime.now(dt.UTC)
            return self._append(Entry(self._next_seq(), now, "delete", id_key(freelancer_id), freelancer_id))

    def position(self) -> Position:
        """The end of the file as it is now."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return Position()
        return Position(stat.st_ino, stat.st_size)

    def read(self, after: int = 0, start: Position | None = None) -> tuple[list[Entry], Position]:
        """Changes with a greater sequence number than `after`, and where reading ended.

        Args:
            after: sequence number that is known already.
            start: where an earlier reading ended; saves reading from the top while the file is the same.

        Raises:
            ReleaseError: if a line in the middle is damaged.
        """
        entries = []
        position = start or Position()
        for fields, end in self._lines(start or Position()):
            position = end
            if fields.get("seq", 0) > after and "op" in fields:
                entries.append(_decode(fields))
        return entries, position

    def state(self) -> dict[str, Entry]:
        """The last word on each freelancer: key -> entry."""
        return {entry.key: entry for entry in self.read()[0]}

    def deleted(self) -> frozenset[str]:
        """`id_key`s of those who were deleted, and did not come again by themselves."""
        return frozenset(key for key, entry in self.state().items() if entry.op == "delete")

    def last_seq(self) -> int:
        """Sequence number of the newest change; 0 where there is none."""
        last = 0
        for fields, _ in self._lines(Position()):
            last = max(last, int(fields.get("seq", 0)))
        return last

    def compact(self) -> int:
        """Keep the last word on each freelancer, erase the deleted ones; how many changes were dropped."""
        with self.lock():
            entries, _ = self.read()
            if not entries:
                return 0
            last = {entry.key: entry for entry in entries}
            header = {"seq": max(entry.seq for entry in entries)}
            kept = sorted(last.values(), key=lambda entry: entry.seq)
            with atomic_file(self.path) as temporary:
                lines = [json.dumps(header), *(_encode(entry, erased=entry.op == "delete") for entry in kept)]
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return len(entries) - len(kept)

    def _append(self, entry: Entry) -> Entry:
        created = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._write(_encode(entry).encode() + b"\n")
        except OSError as e:
            if e.errno not in _FULL:
                raise
            self._cut_torn_line()
            raise StorageError(f"{self.path} takes no more ({e.strerror}): make room on its disk, then repeat") from e
        if created:
            _sync_directory(self.path.parent)
        self._next, self._end = entry.seq + 1, self.position()
        return entry

    def _write(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _next_seq(self) -> int:
        if self._end != self.position() or self._end == Position():
            self._cut_torn_line()
            self._next = self.last_seq() + 1
        return self._next

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())

    def _lines(self, start: Position) -> Iterator[tuple[dict[str, Any], Position]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            offset = start.offset if start.inode == inode else 0
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # never accepted: its writer was cut off, or is still writing
                offset += len(line)
                yield self._parse(line, offset), Position(inode, offset)

    def _parse(self, line: bytes, offset: int) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = json.loads(line)
        except ValueError as e:
            raise ReleaseError(
                f"{self.path} is damaged before byte {offset}: {e}. Restore it from a copy; the changes in it are lost "
                "from the next index otherwise."
            ) from e
        return fields


def _encode(entry: Entry, *, erased: bool = False) -> str:
    fields: dict[str, Any] = {"seq": entry.seq, "at": entry.at.isoformat(), "op": entry.op, "key": entry.key}
    if entry.freelancer_id is not None and not erased:
        fields["freelancer_id"] = entry.freelancer_id
    if entry.freelancer is not None and entry.vector is not None:
        fields["freelancer"] = entry.freelancer.model_dump(mode="json")
        fields["fingerprint"] = entry.fingerprint
        fields["vector"] = base64.b64encode(entry.vector.astype("<f4").tobytes()).decode("ascii")
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _decode(fields: dict[str, Any]) -> Entry:
    vector = fields.get("vector")
    row = fields.get("freelancer")
    return Entry(
        seq=fields["seq"],
        at=dt.datetime.fromisoformat(fields["at"]),
        op=fields["op"],
        key=fields["key"],
        freelancer_id=fields.get("freelancer_id"),
        freelancer=None if row is None else Freelancer.model_validate(row),
        fingerprint=fields.get("fingerprint", ""),
        vector=None if vector is None else np.frombuffer(base64.b64decode(vector), dtype="<f4"),
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
