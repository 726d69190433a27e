"""Search the active index: hard filters, a plan for each query, exact checks, online changes."""

from __future__ import annotations

import heapq
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skillmatch_ray.config import Config, Fusion
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import FingerprintError, MilvusError, ReleaseError
from skillmatch_ray.index.backend import MAX_RESULTS, Backend, Hit
from skillmatch_ray.index.filters import (
    NO_RADIUS,
    UNKNOWN_DEGREES,
    CompiledFilters,
    Filters,
    compile_filters,
    exclude,
    near,
    speaks,
)
from skillmatch_ray.index.journal import Position
from skillmatch_ray.index.plan import ColumnSample, SearchPlan, deepened, make_plan
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.index.replay import LazyEncoder, replay
from skillmatch_ray.index.schema import CHECKED, KEY, VECTOR, document_words, split_languages
from skillmatch_ray.index.source import check_vectors
from skillmatch_ray.index.update import UpdateReport, write_changes
from skillmatch_ray.workspace import Workspace

Vector = NDArray[np.float32]

logger = logging.getLogger(__name__)

_PAGE_GROWTH = 4


@dataclass(frozen=True)
class Candidate:
    """One freelancer found.

    Attributes:
        freelancer_id: who.
        score: cosine with the query.
        payload: what a result shows.
    """

    freelancer_id: str
    score: float
    payload: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """The answer to one search.

    Attributes:
        candidates: best first; `top_k` of them unless `exhausted`.
        exhausted: fewer than `top_k` freelancers pass the filters, and these are all.
        plan: how it was searched, where asked for.
    """

    candidates: list[Candidate]
    exhausted: bool
    plan: SearchPlan | None = None


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        vector: (D,).
        words: for BM25; empty where only the vector counts.
    """

    vector: Vector
    words: str


class Retriever:
    """The one owner of an open index; thread-safe.

    Args:
        config: workspace and milvus settings.
        release: which one; default: the active one.

    Raises:
        LockedError: if another process owns the embedded database; the message names it.
        MilvusError: if the server does not answer.
        ReleaseError: if there is no release, or it lacks the BM25 column that `milvus.hybrid` needs.
    """

    def __init__(self, config: Config, release: Release | None = None) -> None:
        workspace = Workspace(config.workspace)
        self.config = config
        self.release = release or active_release(workspace)
        self._store = ReleaseStore(workspace)
        self._encode = LazyEncoder(self.release.model_dir)
        self._writing = threading.RLock()
        self._columns = set(self.release.languages)
        if config.milvus.hybrid and not self.release.bm25:
            raise ReleaseError(
                f"milvus.hybrid is set, but release {self.release.name} was built without BM25: "
                "run `skillmatch reindex` with milvus.bm25=true, or leave out milvus.hybrid"
            )
        self._sample = ColumnSample(pq.read_table(self._store.sample_file(self.release.name)).to_pydict())
        self._backend = self._store.open(self.release, config.milvus, "searching")
        try:
            self._backend.load(self.release.collection)
            self._applied = self._store.applied(self.release)
            self._seen = Position(-1, 0)
            self.refresh()
            self._rows = self._backend.count(self.release.collection)
            self._behind = False
        except BaseException:
            self._backend.close()
            raise

    @property
    def backend(self) -> Backend:
        """The open connection."""
        return self._backend

    def search(
        self,
        vector: Vector,
        filters: Filters | None = None,
        top_k: int = 10,
        *,
        fingerprint: str,
        plan: bool = False,
        brief: Project | None = None,
    ) -> SearchResult:
        """The best freelancers who pass every filter.

        Args:
            vector: (D,) of a project (or a freelancer) in the release's space.
            filters: hard filters; default: none.
            top_k: candidates wanted.
            fingerprint: of the model that made `vector`.
            plan: whether to tell how it was searched.
            brief: what `vector` was made from; its words count too where `milvus.hybrid` names its language.

        Raises:
            FingerprintError: if `vector` is of another space.
            MilvusError: if the backend does not answer in time.
        """
        fusion = self.fusion(brief)
        query = Query(vector, document_words(brief) if brief and fusion else "")
        (found,) = self._answer([query], filters or Filters(), top_k, fingerprint, fusion)
        return found if plan else replace(found, plan=None)

    def search_many(
        self, vectors: Sequence[Vector], filters: Filters | None = None, top_k: int = 10, *, fingerprint: str
    ) -> list[SearchResult]:
        """`search` for several vectors under the same filters, with plans: their first pages are one call of Milvus."""
        return self._answer([Query(vector, "") for vector in vectors], filters or Filters(), top_k, fingerprint, None)

    def fusion(self, brief: Project | None) -> Fusion | None:
        """How a brief's words are fused with its vector; None where only the vector counts."""
        return self.config.milvus.hybrid.get(brief.language or "") if brief else None

    def _answer(
        self, queries: Sequence[Query], filters: Filters, top_k: int, fingerprint: str, fusion: Fusion | None
    ) -> list[SearchResult]:
        for query in queries:
            self._check(query.vector, fingerprint, top_k)
        self._refresh_or_stay()
        compiled = compile_filters(filters, self._columns)
        shares = self._sample.shares(filters, compiled)
        ef = self.config.milvus.ef
        chosen = make_plan(compiled, shares, self._rows, top_k, self.release.index_type, ef)
        chosen = replace(chosen, fusion=fusion)
        fields = ["payload", *(CHECKED if not compiled.exact else ())]
        results = []
        for query, first in zip(
            queries, self._pages(queries, chosen.expression, chosen.limit, chosen, fields), strict=True
        ):
            hits, exhausted, done = self._collect(query, filters, compiled, chosen, top_k, first)
            candidates = [Candidate(hit.id, float(hit.score), json.loads(hit.fields["payload"])) for hit in hits]
            results.append(SearchResult(candidates, exhausted, done))
        return results

    def _check(self, vector: Vector, fingerprint: str, top_k: int) -> None:
        if fingerprint != self.release.fingerprint:
            raise FingerprintError(
                f"the query comes from model {fingerprint[:12]}, release {self.release.name} was built by "
                f"{self.release.fingerprint[:12]}: encode it with {self.release.model_dir}"
            )
        if vector.shape != (self.release.dim,) or not np.isfinite(vector).all():
            raise ReleaseError(f"a query must be {self.release.dim} finite numbers, not an array of {vector.shape}")
        if top_k < 1:
            raise ReleaseError(f"top_k ({top_k}) must be at least 1")

    def _collect(
        self,
        query: Query,
        filters: Filters,
        compiled: CompiledFilters,
        plan: SearchPlan,
        top_k: int,
        hits: list[Hit],
    ) -> tuple[list[Hit], bool, SearchPlan]:
        """From a first page on, until `top_k` hits survive the checks or there are no more."""
        fields = ["payload", *(CHECKED if not compiled.exact else ())]
        kept: list[Hit] = []
        seen: list[str] = []
        limit, pages = plan.limit, 1
        while True:
            kept += hits if compiled.exact else [hit for hit in hits if survives(hit.fields, filters, compiled)]
            seen += [hit.id for hit in hits]
            last = len(hits) < limit
            if last or len(kept) >= top_k:
                done = replace(plan, pages=pages, looked_at=len(seen))
                return kept[:top_k], last and len(kept) < top_k, done
            limit = min(MAX_RESULTS, limit * _PAGE_GROWTH)
            (hits,) = self._pages([query], exclude(plan.expression, seen), limit, plan, fields)
            pages += 1

    def _pages(
        self, queries: Sequence[Query], expression: str, limit: int, plan: SearchPlan, fields: Sequence[str]
    ) -> list[list[Hit]]:
        """One page for each query; fewer rows than `limit` come only where fewer fulfil the expression."""
        if plan.fusion:
            return [self._fused(query, expression, limit, plan, fields) for query in queries]
        vectors = [query.vector for query in queries]
        if plan.mode == "fetched":
            return [self._compare(vector, expression, limit, fields) for vector in vectors]
        pages = self._search(vectors, expression, limit, deepened(plan.parameters, limit), fields)
        if self.release.index_type != "HNSW" or all(len(hits) == limit for hits in pages):
            return pages
        # A graph whose passing nodes hang together badly gives too few, however wide it looks (server 2.3.5).
        wanted = min(limit, self._backend.count(self.release.collection, expression, "Bounded"))
        return [
            hits if len(hits) >= wanted else self._compare(vector, expression, limit, fields)
            for vector, hits in zip(vectors, pages, strict=True)
        ]

    def _fused(self, query: Query, expression: str, limit: int, plan: SearchPlan, fields: Sequence[str]) -> list[Hit]:
        """In the order of the fusion, each hit with its cosine: a score means the same however it was found."""
        hits = self._backend.fuse(
            self.release.collection,
            query.vector,
            query.words,
            fusion=plan.fusion or "rrf",
            expression=expression,
            limit=limit,
            parameters=plan.parameters,
            fields=[VECTOR, *fields],
        )
        return [replace(hit, score=float(np.dot(query.vector, hit.fields[VECTOR]))) for hit in hits]

    def _compare(self, vector: Vector, expression: str, limit: int, fields: Sequence[str]) -> list[Hit]:
        """The best of all rows that fulfil the expression: Milvus gives their vectors, they are compared here."""
        collection = self.release.collection
        rows = self._backend.rows(collection, [KEY, VECTOR], expression, "Bounded")
        best = heapq.nlargest(limit, ((float(np.dot(vector, row[VECTOR])), row[KEY]) for row in rows))
        shown = self._backend.get(collection, [key for _, key in best], [KEY, *fields], "Bounded")
        found = {row[KEY]: row for row in shown}
        return [Hit(key, score, found[key]) for score, key in best if key in found]

    def _search(
        self, vectors: Sequence[Vector], expression: str, limit: int, wanted: Mapping[str, int], fields: Sequence[str]
    ) -> list[list[Hit]]:
        return self._backend.search(self.release.collection, np.stack(vectors), expression, limit, wanted, fields)

    def get(self, freelancer_id: str) -> tuple[Vector, dict[str, Any]] | None:
        """(vector, payload) of one freelancer, or None."""
        self.refresh()
        rows = self._backend.get(self.release.collection, [freelancer_id], [KEY, VECTOR, "payload"])
        if not rows:
            return None
        return np.asarray(rows[0][VECTOR], dtype=np.float32), json.loads(rows[0]["payload"])

    def profile(self, freelancer_id: str) -> Freelancer | None:
        """What the encoder reads of one freelancer, as it was indexed; None if there is no such one."""
        self.refresh()
        rows = self._backend.get(self.release.collection, [freelancer_id], [KEY, "profile"])
        return Freelancer.model_validate_json(rows[0]["profile"]) if rows and rows[0]["profile"] != "{}" else None

    def similar(self, freelancer_id: str, filters: Filters | None = None, top_k: int = 10) -> SearchResult | None:
        """Freelancers like one freelancer, or None if there is no such one."""
        found = self.get(freelancer_id)
        if found is None:
            return None
        filters = filters or Filters()
        others = filters.model_copy(update={"exclude_ids": (*filters.exclude_ids, freelancer_id)})
        return self.search(found[0], others, top_k, fingerprint=self.release.fingerprint)

    def upsert(self, freelancer: Freelancer, vector: Vector, *, fingerprint: str) -> None:
        """Add or replace a freelancer, durably: in the journal first, then findable.

        Raises:
            FingerprintError: if `vector` is of another space.
            ReleaseError: if it is no unit vector.
        """
        self._check(vector, fingerprint, top_k=1)
        check_vectors([freelancer.id], vector[None])
        self._store.journal.upsert(freelancer, vector, fingerprint)
        self.refresh()

    def delete(self, freelancer_id: str) -> None:
        """Remove a freelancer, durably and for good; unknown ids are remembered too."""
        self._store.journal.delete(freelancer_id)
        self.refresh()

    def update(self, dataset: Dataset) -> UpdateReport:
        """Bring the open index up to date with a dataset in place; online changes wait meanwhile, searches do not.

        Raises:
            LockedError: if another process builds an index.
            ReleaseError: if a vector is missing or stale: run `skillmatch encode` first.
        """
        with self._store.building("skillmatch reindex --changed through the service"), self._writing:
            before = self._applied
            self.refresh()
            report = write_changes(
                self._backend, self._store, self.release, dataset, self._encode, self._applied - before
            )
            self._rows = self._backend.count(self.release.collection)
            return report

    def refresh(self, *, wait: bool = True) -> None:
        """Apply what was journalled since, by whomever; costs one look at the file's size.

        Args:
            wait: for another thread that writes; its own changes are not accepted before they are applied.
        """
        if self._store.journal.position() == self._seen or not self._writing.acquire(blocking=wait):
            return
        try:
            entries, read = self._store.journal.read(self._applied, self._seen)
            replay(self._backend, self.release, entries, self._encode)
            self._applied = max([self._applied, *(entry.seq for entry in entries)])
            self._seen = read
        finally:
            self._writing.release()

    def _refresh_or_stay(self) -> None:
        """Search what is there where a change cannot be applied, as on a full disk; its writer was told."""
        try:
            self.refresh(wait=False)
            self._behind = False
        except (MilvusError, OSError) as e:
            if not self._behind:
                logger.error("release %s is searched without the latest changes: %s", self.release.name, e)  # noqa: TRY400
            self._behind = True

    def close(self) -> None:
        """Let go of the index."""
        self._backend.close()
        # Only now is everything in the files of an embedded database, so only now need it not be replayed.
        if self._store.directory(self.release.name).is_dir():
            self._store.set_applied(self.release, self._applied)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def survives(fields: Mapping[str, Any], filters: Filters, compiled: CompiledFilters) -> bool:
    """Whether a hit passes what its expression could not decide."""
    languages = split_languages(fields["languages"])
    if not speaks(languages, compiled.check_languages, unknown=filters.include_unknown):
        return False
    located = fields["latitude"] != UNKNOWN_DEGREES
    return near(
        filters,
        fields["latitude"] if located else None,
        fields["longitude"] if located else None,
        None if fields["mobility"] == NO_RADIUS else fields["mobility"],
    )
