"""Delete old releases: what went, what stays and why; one that is in use keeps no other from going."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass, field

from skillmatch_ray.config import Config
from skillmatch_ray.errors import LockedError, MilvusError, ReleaseError
from skillmatch_ray.index.backend import own_database
from skillmatch_ray.index.release import DATABASE, Release, ReleaseStore
from skillmatch_ray.workspace import Workspace


@dataclass(frozen=True)
class Pruned:
    """What became of every release.

    Attributes:
        removed: names of those that are gone, oldest first.
        kept: name -> why it is not to go.
        left: name -> why it could not go; the next pruning tries again.
    """

    removed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For reports."""
        return asdict(self)

    def render(self) -> str:
        """One line a release, for people."""
        told = [f"deleted {name}" for name in self.removed]
        told += [f"kept {name}: {why}" for name, why in self.kept.items()]
        return "\n".join(told + [f"left {name}: {why}" for name, why in self.left.items()])

    def check(self) -> None:
        """Nothing, if all are gone that were to go.

        Raises:
            ReleaseError: naming those that are not.
        """
        if self.left:
            raise ReleaseError(f"could not be deleted: {', '.join(self.left)}; prune again when they are free")


def prune(workspace: Workspace, config: Config, keep: int = 2) -> Pruned:
    """Delete all but the active release, the one before it and the `keep` newest.

    Raises:
        ReleaseError: if `keep` is negative.
        LockedError: if an index is being built; nothing was deleted then.
    """
    if keep < 0:
        raise ReleaseError(f"keep ({keep}) must not be negative")
    store = ReleaseStore(workspace)
    found = Pruned()
    with store.building("skillmatch release prune"):
        releases = store.all()
        found.kept.update(_kept(store, [release.name for release in releases], keep))
        for release in releases:
            if release.name not in found.kept:
                _try_to_remove(store, release, config, found)
    return found


def _kept(store: ReleaseStore, names: list[str], keep: int) -> dict[str, str]:
    reasons = dict.fromkeys(names[max(0, len(names) - keep) :], f"one of the {keep} newest")
    reasons |= {store.previous_name() or "": "answered before", store.active_name() or "": "answers now"}
    return {name: reasons[name] for name in names if name in reasons}


def _try_to_remove(store: ReleaseStore, release: Release, config: Config, found: Pruned) -> None:
    try:
        remove(store, release, config)
    except (LockedError, MilvusError) as e:
        found.left[release.name] = str(e)
    else:
        found.removed.append(release.name)


def remove(store: ReleaseStore, release: Release, config: Config) -> None:
    """Delete one release: first its index, then its manifest, so that a repetition can finish the work.

    Raises:
        LockedError: if somebody searches its embedded database.
        MilvusError: if its server does not answer.
    """
    directory = store.directory(release.name)
    with contextlib.ExitStack() as held:
        if release.kind == "lite":
            held.enter_context(own_database(directory / DATABASE, f"removing release {release.name}"))
        else:
            backend = held.enter_context(store.open(release, config.milvus, "removing"))
            if backend.has(release.collection):
                backend.drop(release.collection)
        shutil.rmtree(directory, ignore_errors=True)
    (store.manifests / f"{release.name}.json").unlink()
