"""Bring an index up to date with a dataset in place: only what changed is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.build import index_keys
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.schema import KEY
from skillmatch_ray.index.source import Encode, Source, byte_batches


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


def write_changes(
    backend: Backend, store: ReleaseStore, release: Release, dataset: Dataset, encode: Encode, replayed: int
) -> UpdateReport:
    """Make the index equal to the dataset under the journal, which has been replayed already.

    Args:
        backend: where the release's collection is open.
        store: of the workspace.
        release: whose vectors are up to date with the dataset.
        dataset: with freelancers.
        encode: makes vectors of journalled rows that came from another model.
        replayed: changes of the journal, for the report.

    Raises:
        ReleaseError: if a vector is missing or stale.
        MilvusError: if the backend fails; a repetition finishes the work.
    """
    spool = store.directory(release.name)
    source = Source(dataset, release.vectors_dir, store.journal.state(), spool, encode, release.fingerprint)
    source.prepare()
    known = index_keys(backend, release)
    wanted: set[str] = set()
    written = 0
    changed = _changed(source, release, known, wanted)
    for batch in byte_batches(changed, backend.settings.insert_mb * 2**20):
        backend.upsert(release.collection, batch)
        written += len(batch)
    gone = [freelancer for freelancer in known if freelancer not in wanted]
    backend.delete(release.collection, gone)
    source.discard()
    return UpdateReport(written, len(gone), len(wanted) - written, replayed)


def _changed(
    source: Source, release: Release, known: dict[str, tuple[str, str]], wanted: set[str]
) -> Iterator[dict[str, Any]]:
    """Entities that the index does not have as they are now; everybody's key goes into `wanted`."""
    for rows in source.rows():
        for scalars, vector in zip(rows.scalars, rows.vectors, strict=True):
            wanted.add(scalars[KEY])
            if known.get(scalars[KEY]) != (scalars["content_hash"], scalars["row_hash"]):
                yield release.layout.entity(scalars, vector)
