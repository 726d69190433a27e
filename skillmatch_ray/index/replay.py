"""Bring an index up to date with the journal; repeating a part of it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.journal import Entry, id_key
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.schema import KEY, scalar_values
from skillmatch_ray.index.source import Encode, Vectors, byte_batches, entry_vectors


class LazyEncoder:
    """Encodes freelancers with a model that is loaded when first needed.

    Args:
        model_dir: of the matcher.
    """

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir

    @cached_property
    def _encode(self) -> Callable[..., Vectors]:
        from skillmatch_ray.model.matcher import load_matcher

        return load_matcher(self.model_dir).encode_freelancers

    def __call__(self, freelancers: Sequence[Freelancer]) -> Vectors:
        """(n, D) vectors of freelancers."""
        return self._encode(freelancers)


def replay(backend: Backend, release: Release, entries: Sequence[Entry], encode: Encode) -> None:
    """Apply changes to the index of `release`; only the last one on each freelancer counts."""
    last = {entry.key: entry for entry in entries}
    upserts = [entry for entry in last.values() if entry.op == "upsert"]
    deletes = [entry for entry in last.values() if entry.op == "delete"]
    _upsert(backend, release, upserts, encode)
    ids = [entry.freelancer_id for entry in deletes if entry.freelancer_id is not None]
    erased = {entry.key for entry in deletes if entry.freelancer_id is None}
    if erased:
        ids += [row[KEY] for row in backend.rows(release.collection, [KEY]) if id_key(row[KEY]) in erased]
    backend.delete(release.collection, ids)


def _upsert(backend: Backend, release: Release, entries: Sequence[Entry], encode: Encode) -> None:
    if not entries:
        return
    vectors = entry_vectors(entries, release.fingerprint, encode)
    rows = (
        release.layout.entity(scalar_values(entry.freelancer), vector)
        for entry, vector in zip(entries, vectors, strict=True)
        if entry.freelancer is not None
    )
    for batch in byte_batches(rows, backend.settings.insert_mb * 2**20):
        backend.upsert(release.collection, batch)


def catch_up(backend: Backend, store: ReleaseStore, release: Release, encode: Encode, after: int | None = None) -> int:
    """Apply what the journal has and the index may not have; the last sequence number applied."""
    known = store.applied(release) if after is None else after
    entries, _ = store.journal.read(known)
    replay(backend, release, entries, encode)
    return max([known, *(entry.seq for entry in entries)])
