"""Forget: the journal keeps one line a freelancer, and deleted people leave journal, vectors and caches."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.backbone.store import section_key
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.errors import LockedError
from skillmatch_ray.files import atomic_file, reachable, read_json, read_table
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.index.journal import id_key
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.replay import LazyEncoder, catch_up
from skillmatch_ray.model.matcher import glossary_of
from skillmatch_ray.pipeline.vectors import (
    HEADER_FILE,
    Place,
    VectorKey,
    read_manifest,
    sole_writer,
    write_manifest,
)
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.workspace import Workspace


@dataclass(frozen=True)
class CompactionReport:
    """What was forgotten.

    Attributes:
        changes: lines of the journal that said nothing new.
        vectors: rows of vectors of deleted freelancers.
        sections: cached token states that only deleted freelancers had.
        waiting: indexes in use elsewhere; their owners apply the deletes themselves.
        holding: releases built before a delete. Nobody finds the deleted there, but Milvus Lite never writes its
            files anew, and a server does so when it likes: their rows are gone with the release (`release prune`).
    """

    changes: int
    vectors: int
    sections: int
    waiting: tuple[str, ...]
    holding: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For reports."""
        return asdict(self)

    def render(self) -> str:
        """Sentences for people."""
        told = [f"erased: {self.vectors} vectors, {self.sections} cached sections, {self.changes} lines of the journal"]
        if self.waiting:
            told.append(f"in use, and brought up to date by their owners: {', '.join(self.waiting)}")
        if self.holding:
            told.append(
                f"files that keep deleted rows, which nobody finds, until `skillmatch reindex` and `skillmatch release "
                f"prune` remove them: {', '.join(self.holding)}"
            )
        return "\n".join(told)


def compact(config: Config, workspace: Workspace, dataset: Dataset | None = None) -> CompactionReport:
    """Erase deleted freelancers and shorten the journal; a repetition finishes what was cut off.

    A deleted freelancer's id stays in the journal as a hash, so that no dataset brings them back.

    Args:
        config: milvus settings, and the prefix that sections were encoded with.
        workspace: whose journal, vectors, indexes and token states.
        dataset: where the texts of deleted people are looked up; without it, caches stay as they are.

    Raises:
        LockedError: if an encoding or a build is under way.
    """
    store = ReleaseStore(workspace)
    with store.building("skillmatch compaction"):
        deleted = store.journal.deleted()
        waiting = tuple(release.name for release in store.all() if not _catch_up(config, store, release))
        vectors = sum(erase_vectors(place, deleted) for place in _vectors(store))
        sections = 0
        if dataset is not None and deleted and workspace.token_states.is_dir():
            read = [NO_GLOSSARY, read_glossary(config.glossary), *_glossaries(store)]
            doomed = _only_theirs(dataset, deleted, config.backbone.freelancer_prefix, read)
            sections = erase_sections(workspace.token_states, doomed)
        return CompactionReport(store.journal.compact(), vectors, sections, waiting, _holding(store))


def _vectors(store: ReleaseStore) -> list[Path]:
    """Directories of vectors: those of the workspace, and those elsewhere that releases were built from.

    Raises:
        ConfigError: if an object store does not answer.
    """
    own = [path.parent for path in store.root.glob(f"vectors/*/{HEADER_FILE}")]
    elsewhere = [release.vectors_dir for release in store.all()]
    places = {str(place): place for place in (*own, *elsewhere)}
    return [place for place in places.values() if reachable(place) and (place / HEADER_FILE).is_file()]


def _holding(store: ReleaseStore) -> tuple[str, ...]:
    newest = max((entry.seq for entry in store.journal.state().values() if entry.op == "delete"), default=0)
    return tuple(release.name for release in store.all() if release.journal_seq < newest)


def _catch_up(config: Config, store: ReleaseStore, release: Release) -> bool:
    """Apply the journal to one index; False where another process holds it."""
    try:
        with store.open(release, config.milvus, "compacting") as backend:
            backend.load(release.collection)
            seq = catch_up(backend, store, release, LazyEncoder(release.model_dir))
    except LockedError:
        return False
    store.set_applied(release, seq)
    return True


def erase_vectors(root: Path, deleted: Collection[str]) -> int:
    """Write the parts anew that hold a deleted freelancer's vector; rows erased.

    Args:
        root: a directory of vectors.
        deleted: `id_key`s.
    """
    if not deleted:
        return 0
    with sole_writer(root, "skillmatch compaction"):
        manifest = read_manifest(root)
        live = {
            VectorKey(row["freelancer_id"], row["content_hash"]): (Place(row["part"], row["row"]), row["row_hash"])
            for row in manifest.to_pylist()
            if id_key(row["freelancer_id"]) not in deleted
        }
        erased = 0
        for part in sorted(root.glob("part-*.parquet")):
            table = read_table(part)
            doomed = [i for i, freelancer in enumerate(table[0].to_pylist()) if id_key(freelancer) in deleted]
            if doomed:
                erased += len(doomed)
                _rewrite(root, part, table, live)
        # The manifest is the switch; parts that it no longer names are deleted with it.
        write_manifest(root, live)
        return erased


def _rewrite(root: Path, part: Path, table: pa.Table, live: dict[VectorKey, tuple[Place, str]]) -> None:
    """Copy the living rows of a part into a new one, and point `live` there."""
    keys = [key for key, (place, _) in live.items() if place.part == part.name]
    if not keys:
        return
    name = f"part-{uuid.uuid4().hex}.parquet"
    with atomic_file(root / name) as temporary:
        pq.write_table(table.take([live[key][0].row for key in keys]), temporary)
    live.update({key: (Place(name, row), live[key][1]) for row, key in enumerate(keys)})


def _glossaries(store: ReleaseStore) -> list[Glossary]:
    """Those of all models that stand behind a release."""
    return [glossary_of(model) for model in {Path(release.model_dir) for release in store.all()}]


def _only_theirs(dataset: Dataset, deleted: Collection[str], prefix: str, glossaries: Sequence[Glossary]) -> set[bytes]:
    """Keys of the sections, by any glossary, that no living freelancer or project of the dataset has."""
    doomed: set[bytes] = set()
    living: set[bytes] = set()
    for freelancer in dataset.read(FREELANCERS):
        sections = {section for glossary in glossaries for section in glossary.read(freelancer).sections()}
        keys = {section_key(prefix + section.text) for section in sections}
        (doomed if id_key(freelancer.id) in deleted else living).update(keys)
    return doomed - living


def erase_sections(root: Path, doomed: Collection[bytes]) -> int:
    """Write the parts of a token state store anew that hold one of these sections; sections erased."""
    dim = int(read_json(root / "store.json")["dim"])
    erased = 0
    for index in sorted(root.glob("*.parquet")):
        table = pq.read_table(index)
        keep = [key not in doomed for key in table["key"].to_pylist()]
        if all(keep):
            continue
        erased += keep.count(False)
        _rewrite_states(root, index, table.filter(pa.array(keep)), dim)
    return erased


def _rewrite_states(root: Path, index: Path, kept: pa.Table, dim: int) -> None:
    """Copy the kept sections into a new part, then delete the old one, its index first."""
    if len(kept):
        name = uuid.uuid4().hex
        states = np.memmap(index.with_suffix(".bin"), dtype=np.float16, mode="r").reshape(-1, dim)
        lengths = kept["tokens"].to_numpy()
        with atomic_file(root / f"{name}.bin") as temporary, temporary.open("wb") as file:
            for start, tokens in _spans(kept):
                states[start : start + tokens].tofile(file)
        starts = pa.array(np.concatenate([[0], np.cumsum(lengths)[:-1]]), pa.int64())
        with atomic_file(root / f"{name}.parquet") as temporary:
            pq.write_table(kept.set_column(1, "start", starts), temporary)
    index.unlink()
    index.with_suffix(".bin").unlink()


def _spans(table: pa.Table) -> Iterator[tuple[int, int]]:
    return zip(table["start"].to_pylist(), table["tokens"].to_pylist(), strict=True)
