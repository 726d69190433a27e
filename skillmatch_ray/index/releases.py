"""The verbs on releases: build, activate, roll back, list, prune, and update in place.

The switch is the workspace's pointer file, renamed into place; on a server the alias follows it for
everybody else who searches there. It works while another process holds the old index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import LockedError, ReleaseError
from skillmatch_ray.files import owner_lock
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.build import build_release
from skillmatch_ray.index.pruning import Pruned, prune
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.replay import LazyEncoder, catch_up
from skillmatch_ray.index.update import UpdateReport, write_changes
from skillmatch_ray.workspace import Workspace

__all__ = [
    "Desk",
    "Pruned",
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


def status(workspace: Workspace, config: Config, opened: Backend | None = None) -> dict[str, Any]:
    """The active release, the one before, and whether what it needs is there.

    Args:
        workspace: whose.
        config: milvus settings.
        opened: the connection of whoever holds the active release's index already.
    """
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
    if opened is not None:
        return found | _seen(opened, release, config)
    try:
        with store.open(release, config.milvus, "reading the status of") as backend:
            backend.load(release.collection)
            return found | _seen(backend, release, config)
    except LockedError as e:
        return found | {"in_use": str(e)}


def _seen(backend: Backend, release: Release, config: Config) -> dict[str, Any]:
    """What only the index itself can tell."""
    rows = {"rows": backend.count(release.collection)}
    if release.kind == "lite":
        return rows
    return rows | {"alias_points_here": backend.alias_target(config.milvus.alias) == release.collection}


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


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
        report = write_changes(backend, store, release, dataset, encode, replayed=seq - before)
        store.set_applied(release, seq)
    return report


@dataclass(frozen=True)
class Desk:
    """What is asked of the releases of a workspace in this process.

    `client.Service` has the same methods, and carries them out in a running service.

    Args:
        config: workspace and milvus settings.
    """

    config: Config

    @property
    def _workspace(self) -> Workspace:
        return Workspace(self.config.workspace)

    def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases, oldest first."""
        return [release.as_dict() for release in list_releases(self._workspace)]

    def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""
        return status(self._workspace, self.config)

    def activate(self, name: str) -> str:
        """Make a release the one that answers; its name."""
        return activate(self._workspace, name, self.config).name

    def rollback(self) -> str:
        """Make the release answer again that answered before; its name."""
        return rollback(self._workspace, self.config).name

    def prune(self, keep: int) -> Pruned:
        """Delete old releases."""
        return prune(self._workspace, self.config, keep)

    def update(self, dataset: Dataset) -> dict[str, int]:
        """Bring the active release's index up to date in place; how many rows."""
        return update_release(self.config, self._workspace, dataset).as_dict()
