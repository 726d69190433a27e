"""`skillmatch benchmark search`: the Retriever beside the same calls by hand, an exact scan, and a bare graph.

One run, contestants interleaved query by query, over clustered vectors and filters from everybody to one
freelancer in a thousand. Distance filters are told apart: they need a check after the search.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from skillmatch_ray.benchmarks.population import (
    DISTANCE,
    SHARES,
    Ids,
    Population,
    Vectors,
    freelancer_id,
    write_population,
)
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import MilvusError
from skillmatch_ray.files import hash_json, write_json
from skillmatch_ray.index.backend import search_call
from skillmatch_ray.index.build import INDEXED, INSERTED
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.plan import SearchPlan
from skillmatch_ray.index.pruning import remove
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.releases import activate, build_release, directory_bytes
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.model.matcher import FORMAT_VERSION
from skillmatch_ray.workspace import Workspace, versions

Advance = Callable[[float, float, str], None]

DEFAULT_ROWS = 10_000
DEFAULT_QUERIES = 60
DIM = 384
K = 10
DEEP_K = 100
GRAPH_ROWS_AT_MOST = 200_000
"""Above, faiss would build its graph for an hour; it is left out, and the report says so."""
GRAPH_M, GRAPH_EF_CONSTRUCTION, GRAPH_EF = 16, 200, 200
_CHANGES = 30
_FOUND_WITHIN_S = 60.0


@dataclass(frozen=True)
class Timing:
    """One contestant under one filter.

    Attributes:
        p50_ms: median.
        p99_ms: 99th percentile; with fewer than 100 queries the greatest.
        recall_at_10: against the exact scan.
    """

    p50_ms: float
    p99_ms: float
    recall_at_10: float


@dataclass(frozen=True)
class Workload:
    """One filter.

    Attributes:
        passing: share of rows that pass it.
        plan: of the Retriever, for the last query.
        timings: contestant -> its figures.
        recall_at_100: of the Retriever.
    """

    passing: float
    plan: dict[str, Any]
    timings: dict[str, Timing]
    recall_at_100: float


@dataclass
class SearchBenchmark:
    """What one run found; None where it did not come so far.

    Attributes:
        retriever_over_raw_p50: median over the selectivities of the ratio of medians.
        retriever_minus_raw_p50_ms: median over the selectivities of their difference.
        min_recall_at_10: of the Retriever, over the selectivities.
        min_recall_at_100: likewise.
        unfinished: why the run ended early; empty = it did not.
        machine: where it ran.
        setting: rows, dimensions, queries, seed, backend, index, versions.
        reached: rows inserted, and rows that the vector index covers.
        build: seconds, rows per second, disk, memory.
        workloads: selectivity -> figures.
        distance: distance filter -> figures; not in the keys above.
        freshness: milliseconds from an online change to a search that finds it, the durable journal included.
        not_run: contestant or figure -> why.
    """

    retriever_over_raw_p50: float | None = None
    retriever_minus_raw_p50_ms: float | None = None
    min_recall_at_10: float | None = None
    min_recall_at_100: float | None = None
    unfinished: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    distance: dict[str, Workload] = field(default_factory=dict)
    freshness: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


class _TimeUpError(Exception):
    """The build took longer than it was given."""


@dataclass
class _Run:
    """One run in progress; its report is written after each step, so that a killed run leaves what it found.

    Args:
        config: workspace, milvus settings, seed.
        result: filled step by step.
        report: where it is written, or None.
        build_until: `time.monotonic` at which the build stops.
        progress: called with (done, to do, note).
    """

    config: Config
    result: SearchBenchmark
    report: Path | None
    build_until: float
    progress: Advance

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.config.workspace)

    def save(self) -> None:
        if self.report is not None:
            write_json(self.report, asdict(self.result))

    def advance(self, done: float, total: float, note: str) -> None:
        """Of the build: notes how many rows are in."""
        if note in (INSERTED, INDEXED):
            self.result.reached[note] = int(done)
            self.save()
            if time.monotonic() > self.build_until:
                raise _TimeUpError
        self.progress(done, total, note)

    def all(self, rows: int, queries: int, dim: int) -> None:
        """Write, build, measure, clear away."""
        store = ReleaseStore(self.workspace)
        population = self.populate(rows, queries, dim)
        try:
            self.build()
            graph = _graph(population.vectors, self.result)
            with Retriever(self.config) as retriever:
                self.measure(population, retriever, graph)
        finally:
            for release in store.all():
                remove(store, release, self.config)

    def populate(self, rows: int, queries: int, dim: int) -> Population:
        """Write what `skillmatch encode` would leave."""
        self.progress(0, 1, f"drawing {rows} freelancers")
        seed = self.config.seed
        self.result.setting = {"rows": rows, "dim": dim, "queries": queries, "seed": seed, "versions": versions()}
        fingerprint = hash_json(["benchmark", rows, dim, seed])
        write_json(self.model_dir / "config.json", {"format": FORMAT_VERSION, "fingerprint": fingerprint, "dim": dim})
        return write_population(
            self.workspace.dataset,
            self.workspace.vectors(fingerprint),
            fingerprint,
            rows=rows,
            queries=queries,
            dim=dim,
            seed=seed,
        )

    @property
    def model_dir(self) -> Path:
        return self.workspace.models / "benchmark"

    def build(self) -> None:
        """Index it, and see what that took."""
        workspace, config, result = self.workspace, self.config, self.result
        (vectors_dir,) = (workspace.root / "vectors").glob("*/")
        before_mb = _resident_mb()
        started = time.perf_counter()
        dataset = Dataset(workspace.dataset)
        release = build_release(config, workspace, dataset, self.model_dir, vectors_dir, progress=self.advance)
        activate(workspace, release.name, config)
        seconds = time.perf_counter() - started
        result.setting |= {"backend": release.backend, "index": release.index}
        result.build = {
            "seconds": round(seconds, 1),
            "rows_per_s": round(release.rows / seconds),
            "gate": release.validation,
            "memory_before_mb": before_mb,
        }
        self.measure_disk(release)
        self.save()

    def measure_disk(self, release: Release) -> None:
        """What the index takes; of a server only its own operator knows."""
        if release.kind == "lite":
            size = directory_bytes(ReleaseStore(self.workspace).directory(release.name))
            self.result.build["disk_mb"] = round(size / 2**20, 1)
        else:
            self.result.not_run["disk_mb"] = "Milvus tells no client what a collection takes on its server"

    def measure(self, population: Population, retriever: Retriever, graph: Any) -> None:
        """Every workload, then freshness."""
        result, groups = self.result, {**SHARES, **DISTANCE}
        for number, (name, filters) in enumerate(groups.items()):
            self.progress(number, len(groups), f"searching, filter {name}")
            plain = name in SHARES
            found = _workload(filters, population.passing[name], population, retriever, graph if plain else None)
            (result.workloads if plain else result.distance)[name] = found
            self.save()
        _summarise(result)
        result.freshness = _freshness(retriever, self.config.seed)
        result.build["memory_mb"] = _resident_mb()
        if retriever.release.uri is not None:
            result.build["server_memory_mb"] = _server_memory_mb(retriever.release.uri)


def benchmark_search(
    config: Config,
    *,
    rows: int = DEFAULT_ROWS,
    queries: int = DEFAULT_QUERIES,
    dim: int = DIM,
    build_minutes: float | None = None,
    report: Path | None = None,
    progress: Advance = lambda *_: None,
) -> SearchBenchmark:
    """Build an index of `rows` made-up freelancers, and measure.

    Args:
        config: milvus settings (`milvus.uri` picks the backend) and the seed.
        rows: freelancers.
        queries: searches of each contestant under each filter.
        dim: of the vectors.
        build_minutes: time for the build, after which the run ends with the rows reached; default: no limit.
        report: where the figures go as JSON, as they come: also of a run that fails or is killed.
        progress: called with (done, to do, note).

    Raises:
        MilvusError: if the backend does not answer.
    """
    milvus = config.milvus.model_copy(update={"alias": "skillmatch_benchmark"})
    result = SearchBenchmark(machine=_machine())
    until = np.inf if build_minutes is None else time.monotonic() + 60 * build_minutes
    with tempfile.TemporaryDirectory() as directory:
        config = config.model_copy(update={"workspace": Path(directory), "milvus": milvus})
        run = _Run(config, result, report, until, progress)
        result.unfinished = "it still runs, or was killed"
        try:
            run.all(rows, queries, dim)
            result.unfinished = ""
        except _TimeUpError:
            result.unfinished = f"the build was given {build_minutes:g} minutes"
        except BaseException as e:
            result.unfinished = f"{type(e).__name__}: {e}"
            raise
        finally:
            run.save()
    return result


def _graph(vectors: Vectors, result: SearchBenchmark) -> Any:
    """The HNSW of faiss without a database around it, or None."""
    if len(vectors) > GRAPH_ROWS_AT_MOST:
        result.not_run["faiss_hnsw"] = f"more than {GRAPH_ROWS_AT_MOST} rows: its build alone would take an hour"
        return None
    import faiss

    graph = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH_M, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = GRAPH_EF_CONSTRUCTION
    graph.add(vectors)
    return graph


def _summarise(result: SearchBenchmark) -> None:
    pairs = [(w.timings["retriever"].p50_ms, w.timings["raw"].p50_ms) for w in result.workloads.values()]
    result.retriever_over_raw_p50 = round(float(np.median([ours / raw for ours, raw in pairs])), 3)
    result.retriever_minus_raw_p50_ms = round(float(np.median([ours - raw for ours, raw in pairs])), 3)
    result.min_recall_at_10 = min(w.timings["retriever"].recall_at_10 for w in result.workloads.values())
    result.min_recall_at_100 = min(w.recall_at_100 for w in result.workloads.values())


def _freshness(retriever: Retriever, seed: int) -> dict[str, float]:
    """Change profiles online, and search for each until it is found."""
    random, fingerprint = np.random.default_rng(seed), retriever.release.fingerprint
    seconds = []
    for number in range(_CHANGES):
        vector = random.normal(size=retriever.release.dim).astype(np.float32)
        vector /= np.linalg.norm(vector)
        changed = Freelancer(freelancer_id=f"changed-{number}", headline=f"Changed expert number {number}")
        started = time.perf_counter()
        retriever.upsert(changed, vector, fingerprint=fingerprint)
        while not _is_best(retriever, vector, changed.id):
            if time.perf_counter() - started > _FOUND_WITHIN_S:
                raise MilvusError(f"{changed.id} was accepted, and not found within {_FOUND_WITHIN_S:.0f} s")
        seconds.append(time.perf_counter() - started)
    timing = _timing(seconds, 1.0)
    return {"changes": _CHANGES, "p50_ms": timing.p50_ms, "p99_ms": timing.p99_ms}


def _is_best(retriever: Retriever, vector: Vectors, freelancer_id: str) -> bool:
    found = retriever.search(vector, top_k=1, fingerprint=retriever.release.fingerprint)
    return found.candidates[0].freelancer_id == freelancer_id


def _workload(filters: Filters, passing: Ids, population: Population, retriever: Retriever, graph: Any) -> Workload:
    """Every contestant on every query, after one round that warms up.

    The order of each round is drawn: who comes after a scan with many threads finds them still spinning.
    """
    contestants = dict(_contestants(filters, population, retriever, graph, passing))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    found: dict[str, list[list[str]]] = {name: [] for name in contestants}
    for call in contestants.values():
        call(population.queries[0], K)
    random, names = np.random.default_rng(0), list(contestants)
    for query in population.queries:
        for name in random.permutation(names).tolist():
            started = time.perf_counter()
            answer = contestants[name](query, K)
            seconds[name].append(time.perf_counter() - started)
            found[name].append(answer)
    timings = {name: _timing(seconds[name], _recall(found[name], found["numpy_exact"])) for name in contestants}
    deep = [contestants["retriever"](query, DEEP_K) for query in population.queries]
    exact = [contestants["numpy_exact"](query, DEEP_K) for query in population.queries]
    plan = _plan(filters, population.queries[-1], retriever, K)
    return Workload(len(passing) / len(population.vectors), plan.as_dict(), timings, _recall(deep, exact))


def _plan(filters: Filters, query: Vectors, retriever: Retriever, k: int) -> SearchPlan:
    plan = retriever.search(query, filters, k, fingerprint=retriever.release.fingerprint, plan=True).plan
    if plan is None:
        raise ValueError("a plan was asked for")
    return plan


def _contestants(
    filters: Filters, population: Population, retriever: Retriever, graph: Any, passing: Ids
) -> Iterator[tuple[str, Callable[[Vectors, int], list[str]]]]:
    """(name, call); a call takes one (D,) query and k, and returns ids."""
    release, client = retriever.release, retriever.backend.client
    plan = _plan(filters, population.queries[0], retriever, K)

    def ours(query: Vectors, k: int) -> list[str]:
        answer = retriever.search(query, filters, k, fingerprint=release.fingerprint)
        return [candidate.freelancer_id for candidate in answer.candidates]

    def raw(query: Vectors, k: int) -> list[str]:
        del k  # the plan's own, which for a distance filter is greater
        call = search_call(release.collection, query[None], plan.expression, plan.limit, plan.parameters, ["payload"])
        (hits,) = client.search(**call)
        return [str(hit.get("freelancer_id") or hit["id"]) for hit in hits]

    yield "retriever", ours
    yield "raw", raw
    yield "numpy_exact", lambda query, k: population.best(query, passing, k)
    if graph is not None:
        yield "faiss_hnsw", lambda query, k: _navigate(graph, population, passing, query, k)


def _navigate(graph: Any, population: Population, passing: Ids, query: Vectors, k: int) -> list[str]:
    import faiss

    everybody = len(passing) == len(population.vectors)
    selector = None if everybody else faiss.IDSelectorBatch(passing)
    wanted = faiss.SearchParametersHNSW(sel=selector, efSearch=GRAPH_EF)  # type: ignore[attr-defined]
    _, found = graph.search(query[None], k, params=wanted)
    return [freelancer_id(i) for i in found[0] if i >= 0]


def _timing(seconds: list[float], recall: float) -> Timing:
    p50, p99 = (float(np.percentile(seconds, q, method="higher")) * 1000 for q in (50, 99))
    return Timing(round(p50, 3), round(p99, 3), recall)


def _recall(found: list[list[str]], exact: list[list[str]]) -> float:
    hits = sum(len(set(ours) & set(truth)) for ours, truth in zip(found, exact, strict=True))
    total = sum(len(truth) for truth in exact)
    return round(hits / total, 4) if total else 1.0


def _resident_mb() -> int:
    """Memory of this process: the population and the graph, and the index where it is embedded."""
    return round(psutil.Process().memory_info().rss / 2**20)


def _server_memory_mb(uri: str) -> int | None:
    """Memory of the process of this machine that listens at the address, if there is one."""
    port = urlsplit(uri).port
    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr[1:] == (port,) and found.pid:
            return round(psutil.Process(found.pid).memory_info().rss / 2**20)
    return None


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load": psutil.getloadavg()[0],
    }
