"""Document vectors on disk: Parquet parts, and the manifest that says which rows of them live.

A part is written whole or not at all, and carries its own keys, so a run that was killed loses nothing
that it had finished. The manifest is written last; it names each live freelancer's part and row.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skillmatch_ray.errors import DatasetError, FingerprintError, LockedError
from skillmatch_ray.files import (
    atomic_file,
    create_text,
    is_remote,
    make_directory,
    owner_lock,
    read_json,
    read_table,
    write_json,
)

HEADER_FILE = "vectors.json"
MANIFEST_FILE = "manifest.parquet"
WRITER_FILE = ".writer.json"
HEARTBEAT_S = 15.0
"""How often a writer says that it lives."""
STALE_S = 120.0
"""Silence after which a writer on another host counts as dead; must bear the clocks' difference."""
SPARSE_SHARE = 0.2
"""Share of dead rows above which a part is written anew."""


@dataclass(frozen=True, slots=True)
class VectorKey:
    """What a stored vector was made from."""

    freelancer_id: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a vector lies."""

    part: str
    row: int


def vector_schema(dim: int) -> pa.Schema:
    """Columns of a part."""
    return pa.schema(
        [
            ("freelancer_id", pa.string()),
            ("content_hash", pa.string()),
            ("row_hash", pa.string()),
            ("vector", pa.list_(pa.float32(), dim)),
        ]
    )


@contextlib.contextmanager
def sole_writer(root: Path, purpose: str) -> Iterator[Callable[[], None]]:
    """Be the only writer of `root`, on this host (by a file lock) and among hosts (by a heartbeat).

    A file lock is not seen by other hosts on many shared file systems, and object stores have none, so a
    writer also leaves its name and renews it. After the death of a whole host its name has to age before
    another host may write.

    Yields:
        A function to call before what is written becomes visible: it raises LockedError if this writer was
        silent for so long that another took over.

    Raises:
        LockedError: naming the owner.
    """
    with contextlib.nullcontext() if is_remote(root) else owner_lock(root / ".lock", purpose):
        owner = _claim(root, purpose)
        _remove_leftovers(root)
        stop = threading.Event()
        beat = threading.Thread(target=_keep_saying, args=(root, owner, stop), daemon=True)
        beat.start()
        try:
            yield lambda: _confirm(root, owner)
        finally:
            stop.set()
            beat.join()
            if _is_mine(root, owner):
                (root / WRITER_FILE).unlink()


def _claim(root: Path, purpose: str) -> dict[str, Any]:
    """Leave this writer's name, unless another's is there and fresh."""
    path = root / WRITER_FILE
    owner = {"host": socket.gethostname(), "user": getpass.getuser(), "process": os.getpid(), "purpose": purpose}
    owner["token"] = uuid.uuid4().hex
    if path.is_file():
        _refuse_live_writer(root)
        path.unlink(missing_ok=True)
    make_directory(root)
    if not create_text(path, json.dumps(owner | {"alive_at": time.time()})):
        _refuse_live_writer(root)
    return owner


def _refuse_live_writer(root: Path) -> None:
    writer = read_json(root / WRITER_FILE)
    silent = time.time() - writer["alive_at"]
    if _may_live(writer, is_remote(root)) and silent < STALE_S:
        raise LockedError(
            f"{root} is in use: {writer['purpose']} by {writer['user']}@{writer['host']} "
            f"(process {writer['process']}), heard {silent:.0f} s ago. Wait for it to end; "
            f"if that host is dead, try again in {STALE_S:.0f} s"
        )


def _may_live(writer: Mapping[str, Any], remote: bool) -> bool:  # noqa: FBT001
    """Of another host nobody knows; on this host the file lock tells, or for an object store the process."""
    if writer["host"] != socket.gethostname():
        return True
    return remote and psutil.pid_exists(writer["process"])


def _is_mine(root: Path, owner: Mapping[str, Any]) -> bool:
    path = root / WRITER_FILE
    return path.is_file() and bool(read_json(path).get("token") == owner["token"])


def _confirm(root: Path, owner: Mapping[str, Any]) -> None:
    if not _is_mine(root, owner):
        raise LockedError(
            f"{root}: this writer was silent for more than {STALE_S:.0f} s and another took over; nothing was "
            "published. Run it again when the other has ended"
        )


def _keep_saying(root: Path, owner: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        if _is_mine(root, owner):
            write_json(root / WRITER_FILE, owner | {"alive_at": time.time()})


def _remove_leftovers(root: Path) -> None:
    """Half-written parts of killed runs."""
    for temporary in root.glob(".part-*.tmp"):
        temporary.unlink(missing_ok=True)


def open_vectors(root: Path, fingerprint: str, dim: int) -> None:
    """Make the directory, or check that it holds vectors of this very model.

    Raises:
        FingerprintError: if it holds those of another.
    """
    check_vectors(root, fingerprint)
    if not (root / HEADER_FILE).is_file():
        write_json(root / HEADER_FILE, {"fingerprint": fingerprint, "dim": dim})


def check_vectors(root: Path, fingerprint: str) -> None:
    """Whether vectors of this very model may go there; writes nothing.

    Raises:
        FingerprintError: if those of another are there.
    """
    if not (root / HEADER_FILE).is_file():
        return
    found = read_json(root / HEADER_FILE)
    if found["fingerprint"] != fingerprint:
        raise FingerprintError(
            f"{root} holds vectors of model {found['fingerprint'][:12]}, not of {fingerprint[:12]}: "
            "give another directory; vectors of two models are never mixed"
        )


def read_header(root: Path) -> tuple[str, int]:
    """(fingerprint, D) of a vectors directory.

    Raises:
        DatasetError: if it is none.
    """
    if not (root / HEADER_FILE).is_file():
        raise DatasetError(f"{root} holds no vectors: run `skillmatch encode` first")
    header = read_json(root / HEADER_FILE)
    return str(header["fingerprint"]), int(header["dim"])


def write_part(root: Path, keys: Sequence[tuple[str, str, str]], vectors: NDArray[np.float32]) -> None:
    """Write one part: (freelancer_id, content_hash, row_hash) beside (n, D) vectors.

    Raises:
        ValueError: if a vector is not finite; the message names its freelancer.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"the vector of freelancer {keys[broken[0]][0]!r} is not finite: the model's weights are broken"
        )
    dim = vectors.shape[1]
    ids, contents, rows = zip(*keys, strict=True)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    columns = [pa.array(ids), pa.array(contents), pa.array(rows), pa.FixedSizeListArray.from_arrays(flat, dim)]
    table = pa.Table.from_arrays(columns, schema=vector_schema(dim))
    _write_table(root, table)


def _write_table(root: Path, table: pa.Table) -> str:
    name = f"part-{uuid.uuid4().hex}.parquet"
    with atomic_file(root / name) as temporary:
        pq.write_table(table, temporary)
    return name


def stored_keys(root: Path) -> dict[VectorKey, Place]:
    """Every vector in the parts, living or not."""
    found = {}
    for part in sorted(root.glob("part-*.parquet")):
        table = read_table(part, ["freelancer_id", "content_hash"])
        pairs = zip(table["freelancer_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True)
        for row, (freelancer, content) in enumerate(pairs):
            found[VectorKey(freelancer, content)] = Place(part.name, row)
    return found


def compact(root: Path, live: dict[VectorKey, tuple[Place, str]]) -> int:
    """Write parts anew of which more than `SPARSE_SHARE` is dead, and update `live`; parts written.

    The old part stays until the manifest no longer names it.
    """
    by_part: dict[str, list[VectorKey]] = {}
    for key, (place, _) in live.items():
        by_part.setdefault(place.part, []).append(key)
    sparse = [part for part, keys in by_part.items() if len(keys) < (1 - SPARSE_SHARE) * _rows_of(root / part)]
    for part in sparse:
        keys = by_part[part]
        rows = read_table(root / part).take([live[key][0].row for key in keys])
        name = _write_table(root, rows)
        live.update({key: (Place(name, row), live[key][1]) for row, key in enumerate(keys)})
    return len(sparse)


def _rows_of(part: Path) -> int:
    with part.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)


def write_manifest(root: Path, live: Mapping[VectorKey, tuple[Place, str]]) -> int:
    """Say which rows live, with their row hash now, and delete parts in which none does; parts deleted."""
    columns = {
        "freelancer_id": [key.freelancer_id for key in live],
        "content_hash": [key.content_hash for key in live],
        "row_hash": [row_hash for _, row_hash in live.values()],
        "part": [place.part for place, _ in live.values()],
        "row": [place.row for place, _ in live.values()],
    }
    with atomic_file(root / MANIFEST_FILE) as temporary:
        pq.write_table(pa.table(columns), temporary)
    dead = {part.name for part in root.glob("part-*.parquet")} - {place.part for place, _ in live.values()}
    for name in dead:
        (root / name).unlink()
    return len(dead)


def read_manifest(root: Path) -> pa.Table:
    """freelancer_id, content_hash, row_hash, part, row of each live vector.

    Raises:
        DatasetError: if no encoding has finished there.
    """
    if not (root / MANIFEST_FILE).is_file():
        raise DatasetError(f"{root} has no finished encoding: run `skillmatch encode` first")
    return read_table(root / MANIFEST_FILE)


def read_vectors(root: Path) -> Iterator[pa.Table]:
    """Each live vector once, part by part: freelancer_id, content_hash, row_hash, vector.

    Raises:
        DatasetError: if no encoding has finished there.
    """
    manifest = read_manifest(root)
    by_part: dict[str, list[int]] = {}
    for index, part in enumerate(manifest["part"].to_pylist()):
        by_part.setdefault(part, []).append(index)
    for part, indices in sorted(by_part.items()):
        chosen = manifest.take(indices)
        rows = read_table(root / part).take(chosen["row"])
        # The manifest knows the row hash of today: filter fields may have changed without the text.
        yield rows.set_column(2, "row_hash", chosen["row_hash"])
