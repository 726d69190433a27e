"""The verbs on releases: build, activate, roll back, list, prune, and update in place.

The switch is the workspace's pointer file, renamed into place; on a server the alias follows it for
everybody else who searches there. It works while another process holds the old index.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import LockedError, ReleaseError
from skillmatch_ray.files import owner_lock
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.build import build_release, index_keys
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.replay import LazyEncoder, catch_up
from skillmatch_ray.index.schema import KEY
from skillmatch_ray.index.source import Source, byte_batches
from skillmatch_ray.workspace import Workspace

__all__ = [
    "Release",
    "UpdateReport",
    "activate",
    "active_release",
    "build_release",
    "list_releases",
    "prune",
    "rollback",
    "status",
    "update_release",
]


def active_release(workspace: Workspace) -> Release:
    """The release that answers.

    Raises:
        ReleaseError: if there is none yet.
    """
    store = ReleaseStore(workspace)
    name = store.active_name()
    if name is None:
        raise ReleaseError(
            f"{workspace.root} has no active release: run `skillmatch quickstart` or `skillmatch reindex`"
        )
    return store.get(name)


def list_releases(workspace: Workspace) -> list[Release]:
    """Whole releases, oldest first."""
    return ReleaseStore(workspace).all()


def activate(workspace: Workspace, name: str, config: Config) -> Release:
    """Make a release the one that answers, after it has caught up with the journal.

    Raises:
        ReleaseError: if there is no such release.
        MilvusError: if its index cannot be reached; the old one goes on answering.
    """
    store = ReleaseStore(workspace)
    release = store.get(name)
    with owner_lock(store.manifests / "switch.lock", "switching releases", wait=True):
        encode = LazyEncoder(release.model_dir)
        try:
            with store.open(release, config.milvus, "activating") as backend:
                backend.load(release.collection)
                seq = catch_up(backend, store, release, encode)
                with store.journal.lock():  # nothing may be accepted between the last look and the switch
                    seq = catch_up(backend, store, release, encode, after=seq)
                    _switch(store, release, backend.set_alias if release.kind == "server" else None, config)
            store.set_applied(release, seq)
        except LockedError:
            # The process that holds this index replays the journal itself before each answer.
            _switch(store, release, None, config)
    return release


def _switch(store: ReleaseStore, release: Release, set_alias: Any, config: Config) -> None:
    if set_alias is not None:
        set_alias(config.milvus.alias, release.collection)
    store.point(release.name)


def rollback(workspace: Workspace, config: Config) -> Release:
    """Make the release answer again that answered before.

    Raises:
        ReleaseError: if there is none, or it was pruned.
    """
    previous = ReleaseStore(workspace).previous_name()
    if previous is None:
        raise ReleaseError(f"{workspace.root} has no earlier release to go back to: see `skillmatch release list`")
    return activate(workspace, previous, config)


def status(workspace: Workspace, config: Config) -> dict[str, Any]:
    """The active release, the one before, and whether what it needs is there."""
    store = ReleaseStore(workspace)
    release = active_release(workspace)
    found = {
        "active": release.as_dict(),
        "previous": store.previous_name(),
        "journal_seq": store.journal.last_seq(),
        "applied_seq": store.applied(release),
        "model_present": (release.model_dir / "config.json").is_file(),
        "disk_mb": round(directory_bytes(store.directory(release.name)) / 2**20, 1),
    }
    try:
        with store.open(release, config.milvus, "reading the status of") as backend:
            backend.load(release.collection)
            found["rows"] = backend.count(release.collection)
            if release.kind == "server":
                found["alias_points_here"] = backend.alias_target(config.milvus.alias) == release.collection
    except LockedError as e:
        found["in_use"] = str(e)
    return found


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def prune(workspace: Workspace, config: Config, keep: int = 2) -> list[str]:
    """Delete all but the active release, the one before it and the `keep` newest; names of the deleted.

    Raises:
        ReleaseError: if `keep` is negative.
        LockedError: if an index is being built.
    """
    if keep < 0:
        raise ReleaseError(f"keep ({keep}) must not be negative")
    store = ReleaseStore(workspace)
    with store.building("skillmatch release prune"):
        names = store.names()
        kept = {store.active_name(), store.previous_name(), *names[len(names) - keep :]}
        doomed = [name for name in names if name not in kept]
        for name in doomed:
            remove(store, store.get(name), config)
    return doomed


def remove(store: ReleaseStore, release: Release, config: Config) -> None:
    """Delete one release: first its index, then its manifest, so that a repetition can finish the work."""
    if release.kind == "server":
        with store.open(release, config.milvus, "removing") as backend:
            if backend.has(release.collection):
                backend.drop(release.collection)
    shutil.rmtree(store.directory(release.name), ignore_errors=True)
    (store.manifests / f"{release.name}.json").unlink()


@dataclass(frozen=True)
class UpdateReport:
    """What an update in place did.

    Attributes:
        upserted: freelancers new or changed.
        deleted: freelancers that are gone.
        unchanged: freelancers left as they were.
        replayed: changes of the journal applied.
    """

    upserted: int
    deleted: int
    unchanged: int
    replayed: int

    def as_dict(self) -> dict[str, int]:
        """For reports."""
        return asdict(self)


def update_release(config: Config, workspace: Workspace, dataset: Dataset) -> UpdateReport:
    """Bring the active release's index up to date in place: only what changed is written.

    The vectors must be up to date (`skillmatch encode` with the release's model). Repeating a run that
    was cut off finishes it.

    Raises:
        ReleaseError: if a vector is missing or stale.
        LockedError: if another process holds the index or builds one.
    """
    store = ReleaseStore(workspace)
    release = active_release(workspace)
    encode = LazyEncoder(release.model_dir)
    with store.building("skillmatch reindex --changed"), store.open(release, config.milvus, "updating") as backend:
        backend.load(release.collection)
        before = store.applied(release)
        seq = catch_up(backend, store, release, encode)
        source = Source(
            dataset,
            release.vectors_dir,
            store.journal.state(),
            store.directory(release.name),
            encode,
            release.fingerprint,
        )
        counts = _write_changes(release, backend, source)
        store.set_applied(release, seq)
    return UpdateReport(*counts, replayed=seq - before)


def _write_changes(release: Release, backend: Backend, source: Source) -> tuple[int, int, int]:
    """(upserted, deleted, unchanged) rows after the index was made equal to the source."""
    source.prepare()
    known = index_keys(backend, release)
    wanted: set[str] = set()

    def changed() -> Iterator[dict[str, Any]]:
        for rows in source.rows():
            for scalars, vector in zip(rows.scalars, rows.vectors, strict=True):
                wanted.add(scalars[KEY])
                if known.get(scalars[KEY]) != (scalars["content_hash"], scalars["row_hash"]):
                    yield release.layout.entity(scalars, vector)

    written = 0
    for batch in byte_batches(changed(), backend.settings.insert_mb * 2**20):
        backend.upsert(release.collection, batch)
        written += len(batch)
    gone = [freelancer for freelancer in known if freelancer not in wanted]
    backend.delete(release.collection, gone)
    source.discard()
    return written, len(gone), len(wanted) - written
