"""Build a new index beside the one that answers: vectors -> collection -> gate -> release.

Everything lies under a name that nobody reads until the manifest is written, so a build that is killed
or refused leaves the old release as it was; the next build clears its remains away.
"""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import FingerprintError, MilvusError, ReleaseError
from skillmatch_ray.files import atomic_file, read_json, write_json
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.gate import ExactTop, GoldenQuery, QueryDraw, Verdict, exact_top, judge
from skillmatch_ray.index.plan import SAMPLED
from skillmatch_ray.index.release import BUILD_FILE, DATABASE, Release, ReleaseStore, collection_name
from skillmatch_ray.index.replay import LazyEncoder
from skillmatch_ray.index.schema import KEY, Layout, frequent_languages
from skillmatch_ray.index.source import Source, byte_batches
from skillmatch_ray.model.matcher import read_model_config
from skillmatch_ray.pipeline.vectors import read_header
from skillmatch_ray.workspace import Workspace

Advance = Callable[[float, float, str], None]

INSERTED: Final = "rows inserted"
INDEXED: Final = "rows covered by the vector index"
"""Notes that come with the progress of a build."""

_INDEX_POLL_S = 0.5


@dataclass
class RowSample:
    """An even sample of rows that stream by (reservoir).

    Args:
        size: rows kept.
        seed: of the draw.
    """

    size: int
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    _seen: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, row: dict[str, Any]) -> None:
        """See one more row."""
        self._seen += 1
        kept = {name: row[name] for name in SAMPLED}
        if len(self.rows) < self.size:
            self.rows.append(kept)
        elif (place := int(self._random.integers(self._seen))) < self.size:
            self.rows[place] = kept


@dataclass(frozen=True)
class Built:
    """An index that stands, and what is known of it.

    Attributes:
        sample: of its filter columns.
        verdict: of the gate.
        index: type, metric and parameters of the vector index.
        backend: version of Milvus.
        seconds: that filling, indexing and judging took.
    """

    sample: RowSample
    verdict: Verdict
    index: dict[str, Any]
    backend: str
    seconds: float


@dataclass
class Build:
    """One build in progress.

    Args:
        config: milvus settings and seed.
        store: where releases lie.
        name: of the new release.
        source: who belongs into it.
        progress: called with (rows done, rows to do, note).
    """

    config: Config
    store: ReleaseStore
    name: str
    source: Source
    progress: Advance

    @property
    def collection(self) -> str:
        """Its name on the backend."""
        return collection_name(self.config, self.name)

    def open(self, purpose: str) -> Backend:
        """A connection to where the index is built."""
        lite = self.store.directory(self.name) / DATABASE if self.config.milvus.uri is None else None
        return Backend(self.config.milvus, lite, f"{purpose} release {self.name}")

    def run(self, layout: Layout, golden: Sequence[GoldenQuery]) -> Built:
        """Fill the index, wait for it, and judge it."""
        started = time.perf_counter()
        with self.open("building") as backend:
            sample, draw = self.fill(backend, layout)
            self.finish(backend)
        # Closing waits for the index builds of Milvus Lite; the gate then sees what a fresh process will see.
        with self.open("validating") as backend:
            backend.load(self.collection)
            exact, needed = self.exact(draw), self.config.milvus.gate_recall
            verdict = judge(backend, self.collection, len(self.source), exact, golden, needed)
            index, version = backend.index_settings(len(self.source)), backend.capabilities.version
        return Built(sample, verdict, index, version, round(time.perf_counter() - started, 1))

    def fill(self, backend: Backend, layout: Layout) -> tuple[RowSample, QueryDraw]:
        """Create the collection with its index, and insert everybody."""
        backend.create(self.collection, layout, len(self.source))
        sample = RowSample(self.config.milvus.sample_rows, self.config.seed)
        draw = QueryDraw(self.config.milvus.gate_queries, self.config.seed)
        done = 0
        for batch in byte_batches(self._entities(layout, sample, draw), self.config.milvus.insert_mb * 2**20):
            backend.insert(self.collection, batch)
            done += len(batch)
            self.progress(done, len(self.source), INSERTED)
        return sample, draw

    def _entities(self, layout: Layout, sample: RowSample, draw: QueryDraw) -> Iterator[dict[str, Any]]:
        for rows in self.source.rows():
            draw.add(rows.vectors)
            for scalars, vector in zip(rows.scalars, rows.vectors, strict=True):
                sample.add(scalars)
                yield layout.entity(scalars, vector)

    def finish(self, backend: Backend) -> None:
        """Seal what was inserted; on a server, wait for the index to cover it."""
        rows = len(self.source)
        self.progress(0, rows, INDEXED)
        backend.flush(self.collection)
        deadline = time.monotonic() + self.config.milvus.build_timeout_s
        while (pending := backend.pending_rows(self.collection)) > 0:
            if time.monotonic() > deadline:
                raise MilvusError(
                    f"{pending} rows of {self.collection} are still without index after "
                    f"{self.config.milvus.build_timeout_s:.0f} s: raise milvus.build_timeout_s"
                )
            self.progress(rows - pending, rows, INDEXED)
            time.sleep(_INDEX_POLL_S)
        self.progress(rows, rows, INDEXED)

    def exact(self, draw: QueryDraw) -> ExactTop:
        """Exact answers of the gate's queries."""
        return exact_top(draw.queries(), (vectors for _, vectors in self.source.vectors()))


def build_release(
    config: Config,
    workspace: Workspace,
    dataset: Dataset,
    model_dir: Path,
    vectors_dir: Path,
    *,
    progress: Advance = lambda *_: None,
    golden: Sequence[GoldenQuery] = (),
) -> Release:
    """Build, validate and commit a release; it does not answer before `releases.activate`.

    Args:
        config: milvus settings and seed.
        workspace: where releases lie.
        dataset: with freelancers, encoded.
        model_dir: the model that made the vectors.
        vectors_dir: of `skillmatch encode`.
        progress: called with (rows done, rows to do, note).
        golden: queries whose answers are known.

    Raises:
        FingerprintError: if the vectors are of another model.
        LockedError: if another build is under way; the message names its owner.
        ReleaseError: if the gate stays shut, with the reasons; nothing has changed then.
        MilvusError: if the backend fails.
    """
    store = ReleaseStore(workspace)
    model = read_model_config(model_dir)
    _check_space(model, model_dir, vectors_dir)
    with store.building("skillmatch reindex"):
        clear_unfinished(config, store)
        name = new_name(model["fingerprint"])
        try:
            return _build(
                config,
                store,
                name,
                dataset=dataset,
                model_dir=model_dir,
                vectors_dir=vectors_dir,
                progress=progress,
                golden=golden,
            )
        except BaseException:
            clear_unfinished(config, store)
            raise


def _build(
    config: Config,
    store: ReleaseStore,
    name: str,
    *,
    dataset: Dataset,
    model_dir: Path,
    vectors_dir: Path,
    progress: Advance,
    golden: Sequence[GoldenQuery],
) -> Release:
    directory = store.directory(name)
    write_json(directory / BUILD_FILE, {"uri": config.milvus.uri, "collection": collection_name(config, name)})
    changes, _ = store.journal.read()
    fingerprint, dim = read_header(vectors_dir)
    last = {entry.key: entry for entry in changes}
    source = Source(dataset, vectors_dir, last, directory, LazyEncoder(model_dir), fingerprint)
    source.prepare(progress)
    if not len(source):
        raise ReleaseError(f"dataset {dataset.root} has no freelancer to index")
    build = Build(config, store, name, source, progress)
    layout = Layout(dim, frequent_languages(source.languages), config.milvus.bm25)
    built = build.run(layout, golden)
    _refuse(name, built.verdict)
    write_sample(store.sample_file(name), built.sample.rows)
    release = Release(
        name=name,
        fingerprint=fingerprint,
        dim=dim,
        rows=len(source),
        built_at=dt.datetime.now(dt.UTC),
        model_dir=model_dir,
        vectors_dir=vectors_dir,
        uri=config.milvus.uri,
        collection=build.collection,
        languages=layout.languages,
        index=built.index,
        backend=built.backend,
        validation={**built.verdict.measured, "seconds": built.seconds},
        journal_seq=max((entry.seq for entry in changes), default=0),
        bm25=layout.bm25,
    )
    source.discard()
    store.write(release)
    (directory / BUILD_FILE).unlink()
    return release


def _check_space(model: dict[str, Any], model_dir: Path, vectors_dir: Path) -> None:
    fingerprint, _ = read_header(vectors_dir)
    if fingerprint != model["fingerprint"]:
        raise FingerprintError(
            f"{vectors_dir} holds vectors of model {fingerprint[:12]}, but {model_dir} is model "
            f"{model['fingerprint'][:12]}: run `skillmatch encode` with this model"
        )


def _refuse(name: str, verdict: Verdict) -> None:
    if verdict.failures:
        raise ReleaseError(
            f"the new index {name} did not pass the gate: {'; '.join(verdict.failures)}. "
            "The release that was active goes on answering."
        )


def new_name(fingerprint: str) -> str:
    """A name that sorts by time within a model."""
    return f"{fingerprint[:8]}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def write_sample(path: Path, rows: list[dict[str, Any]]) -> None:
    """Keep the filter columns of some rows beside the index."""
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def clear_unfinished(config: Config, store: ReleaseStore) -> list[str]:
    """Remove what builds left that were killed or refused; their names. Call under `store.building`."""
    removed = []
    for directory in store.indexes.glob("*/"):
        if (store.manifests / f"{directory.name}.json").is_file():
            (directory / BUILD_FILE).unlink(missing_ok=True)
            continue
        _drop_unfinished(config, directory / BUILD_FILE)
        shutil.rmtree(directory)
        removed.append(directory.name)
    return removed


def _drop_unfinished(config: Config, build_file: Path) -> None:
    """Drop the collection that a dead build had begun on a server."""
    if not build_file.is_file():
        return
    begun = read_json(build_file)
    if begun["uri"] is None:
        return
    with Backend(config.milvus.model_copy(update={"uri": begun["uri"]})) as backend:
        if backend.has(begun["collection"]):
            backend.drop(begun["collection"])


def index_keys(backend: Backend, release: Release) -> dict[str, tuple[str, str]]:
    """Everybody in an index: id -> (content hash, row hash)."""
    rows = backend.rows(release.collection, [KEY, "content_hash", "row_hash"])
    return {row[KEY]: (row["content_hash"], row["row_hash"]) for row in rows}
