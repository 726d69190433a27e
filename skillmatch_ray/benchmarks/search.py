"""`skillmatch benchmark search`: the Retriever beside the same calls by hand, an exact scan, and a bare graph.

One run, contestants interleaved query by query, over clustered vectors and filters from everybody to one
freelancer in a thousand. Distance filters are told apart: they need a check after the search.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import MilvusError
from skillmatch_ray.files import hash_json, write_json
from skillmatch_ray.index.backend import search_call
from skillmatch_ray.index.filters import Filters, passes
from skillmatch_ray.index.plan import SearchPlan
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.index.releases import activate, build_release, directory_bytes, remove
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.model.matcher import FORMAT_VERSION
from skillmatch_ray.pipeline.vectors import open_vectors, stored_keys, write_manifest, write_part
from skillmatch_ray.workspace import Workspace, versions

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

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
_ROWS_PER_PART = 20_000
_CENTRES = 1000
_SUBSPACE = 64
_COUNTRIES = ("FR", "DE", "ES", "BE", "NL", "PT", "IT", "AT", "CH", "LU")
_CATEGORIES = 100
_PLACES = ((48.8566, 2.3522), (52.52, 13.405), (40.4168, -3.7038), (50.8503, 4.3517), (52.3676, 4.9041))
_SHARES = {
    "100%": Filters(),
    "50%": Filters(remote=True),
    "10%": Filters(countries=("FR",)),
    "1%": Filters(categories=("category 7",)),
    "0.1%": Filters(categories=("category 7",), countries=("FR",)),
}
_DISTANCE = {
    "50 km": Filters(latitude=48.8566, longitude=2.3522, radius_km=50),
    "no radius": Filters(latitude=50.8503, longitude=4.3517),
}


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
    """What one run found.

    Attributes:
        retriever_over_raw_p50: median over the selectivities of the ratio of medians.
        retriever_minus_raw_p50_ms: median over the selectivities of their difference.
        min_recall_at_10: of the Retriever, over the selectivities.
        min_recall_at_100: likewise.
        machine: where it ran.
        setting: rows, dimensions, queries, seed, backend, index, versions.
        build: seconds, rows per second, disk, memory.
        workloads: selectivity -> figures.
        distance: distance filter -> figures; not in the keys above.
        freshness: milliseconds from an online change to a search that finds it, the durable journal included.
        not_run: contestant -> why.
    """

    retriever_over_raw_p50: float = 0.0
    retriever_minus_raw_p50_ms: float = 0.0
    min_recall_at_10: float = 0.0
    min_recall_at_100: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    distance: dict[str, Workload] = field(default_factory=dict)
    freshness: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Population:
    """The freelancers that are searched.

    Attributes:
        people: their rows.
        vectors: (N, D).
        queries: (Q, D), fresh draws from the same clusters.
    """

    people: list[Freelancer]
    vectors: Vectors
    queries: Vectors

    def passing(self, filters: Filters) -> Ids:
        """Indices of those who pass."""
        return np.array([i for i, row in enumerate(self.people) if passes(row, filters)], dtype=np.int64)


def benchmark_search(
    config: Config,
    *,
    rows: int = DEFAULT_ROWS,
    queries: int = DEFAULT_QUERIES,
    dim: int = DIM,
    report: Path | None = None,
    progress: Callable[[float, float, str], None] = lambda *_: None,
) -> SearchBenchmark:
    """Build an index of `rows` made-up freelancers, and measure; writes `report` as JSON where given.

    Args:
        config: milvus settings (`milvus.uri` picks the backend) and the seed.
        rows: freelancers.
        queries: searches of each contestant under each filter.
        dim: of the vectors.
        report: where the figures go.
        progress: called with (rows done, rows to do, note).

    Raises:
        MilvusError: if the backend does not answer.
    """
    milvus = config.milvus.model_copy(update={"alias": "skillmatch_benchmark"})
    with tempfile.TemporaryDirectory() as directory:
        config = config.model_copy(update={"workspace": Path(directory), "milvus": milvus})
        population = draw_population(rows, queries, dim, config.seed)
        result = SearchBenchmark(machine=_machine())
        _build(config, population, result, progress)
        graph = _graph(population.vectors, result)
        store = ReleaseStore(Workspace(config.workspace))
        try:
            with Retriever(config) as retriever:
                _measure(result, population, retriever, graph)
                result.freshness = _freshness(retriever, config.seed)
                result.build["memory_mb"] = round(psutil.Process().memory_info().rss / 2**20)
        finally:
            for release in store.all():
                remove(store, release, config)
    if report is not None:
        write_json(report, asdict(result))
    return result


def draw_population(rows: int, queries: int, dim: int, seed: int) -> Population:
    """Vectors in 1000 clusters that spread in 64 directions; filter fields with the shares of `_SHARES`."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(_CENTRES, dim)).astype(np.float32)
    directions = (random.normal(size=(_SUBSPACE, dim)) / 8).astype(np.float32)

    def draw(count: int) -> Vectors:
        found = centres[random.integers(0, _CENTRES, count)]
        found = found + random.normal(size=(count, _SUBSPACE)).astype(np.float32) @ directions
        unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    people = [_person(i, random) for i in range(rows)]
    return Population(people, draw(rows), draw(queries))


def _person(number: int, random: np.random.Generator) -> Freelancer:
    latitude, longitude = _PLACES[random.integers(len(_PLACES))]
    return Freelancer(
        freelancer_id=f"freelancer-{number:08d}",
        headline=f"Made-up expert number {number}",
        skills=tuple(f"skill {i}" for i in random.integers(0, 500, 6)),
        job_category=f"category {random.integers(_CATEGORIES)}",
        country=_COUNTRIES[random.integers(len(_COUNTRIES))],
        remote=bool(random.random() < 0.5),
        spoken_languages=("en", "fr") if random.random() < 0.5 else ("de",),
        daily_rate_eur=float(random.integers(150, 900)),
        latitude=latitude + float(random.normal()),
        longitude=longitude + float(random.normal()),
        mobility_radius_km=float(random.choice([20, 50, 100, 300])) if random.random() < 0.5 else None,
    )


def _build(
    config: Config, population: Population, result: SearchBenchmark, progress: Callable[[float, float, str], None]
) -> None:
    """Write what `skillmatch encode` would leave, and index it."""
    workspace = Workspace(config.workspace)
    rows, dim = population.vectors.shape
    fingerprint = hash_json(["benchmark", rows, dim, config.seed])
    model_dir, vectors_dir = workspace.models / "benchmark", workspace.vectors(fingerprint)
    write_json(model_dir / "config.json", {"format": FORMAT_VERSION, "fingerprint": fingerprint, "dim": dim})
    workspace.dataset.mkdir()
    with (workspace.dataset / "freelancers.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.model_dump(mode="json")) + "\n" for row in population.people)
    _write_vectors(vectors_dir, fingerprint, population)
    started = time.perf_counter()
    release = build_release(config, workspace, Dataset(workspace.dataset), model_dir, vectors_dir, progress=progress)
    activate(workspace, release.name, config)
    seconds = time.perf_counter() - started
    result.setting = {
        "rows": rows,
        "dim": dim,
        "queries": len(population.queries),
        "seed": config.seed,
        "backend": release.backend,
        "index": release.index,
        "versions": versions(),
    }
    result.build = {"seconds": round(seconds, 1), "rows_per_s": round(rows / seconds), "gate": release.validation}
    if release.kind == "lite":
        size = directory_bytes(ReleaseStore(workspace).directory(release.name))
        result.build["disk_mb"] = round(size / 2**20, 1)


def _write_vectors(root: Path, fingerprint: str, population: Population) -> None:
    open_vectors(root, fingerprint, population.vectors.shape[1])
    keys = [(row.id, row.content_hash(), row.row_hash()) for row in population.people]
    for start in range(0, len(keys), _ROWS_PER_PART):
        end = start + _ROWS_PER_PART
        write_part(root, keys[start:end], population.vectors[start:end])
    row_hash = {freelancer: value for freelancer, _, value in keys}
    write_manifest(root, {key: (place, row_hash[key.freelancer_id]) for key, place in stored_keys(root).items()})


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


def _measure(result: SearchBenchmark, population: Population, retriever: Retriever, graph: Any) -> None:
    result.workloads = {name: _workload(filters, population, retriever, graph) for name, filters in _SHARES.items()}
    result.distance = {name: _workload(filters, population, retriever, None) for name, filters in _DISTANCE.items()}
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


def _workload(filters: Filters, population: Population, retriever: Retriever, graph: Any) -> Workload:
    """Every contestant on every query, after one round that warms up.

    The order of each round is drawn: who comes after a scan with many threads finds them still spinning.
    """
    passing = population.passing(filters)
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
    exact = [_exact(population, passing, query, K) for query in population.queries]
    timings = {name: _timing(seconds[name], _recall(found[name], exact)) for name in contestants}
    deep = [contestants["retriever"](query, DEEP_K) for query in population.queries]
    exact = [_exact(population, passing, query, DEEP_K) for query in population.queries]
    plan = _plan(filters, population.queries[-1], retriever, K)
    return Workload(len(passing) / len(population.people), plan.as_dict(), timings, _recall(deep, exact))


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
    yield "numpy_exact", lambda query, k: _exact(population, passing, query, k)
    if graph is not None:
        yield "faiss_hnsw", lambda query, k: _navigate(graph, population, passing, query, k)


def _exact(population: Population, passing: Ids, query: Vectors, k: int) -> list[str]:
    everybody = len(passing) == len(population.people)
    scores = (population.vectors if everybody else population.vectors[passing]) @ query
    best = np.argsort(-scores)[:k] if len(scores) <= k else np.argpartition(-scores, k - 1)[:k]
    return [population.people[passing[i]].id for i in best]


def _navigate(graph: Any, population: Population, passing: Ids, query: Vectors, k: int) -> list[str]:
    import faiss

    everybody = len(passing) == len(population.people)
    selector = None if everybody else faiss.IDSelectorBatch(passing)
    wanted = faiss.SearchParametersHNSW(sel=selector, efSearch=GRAPH_EF)  # type: ignore[attr-defined]
    _, found = graph.search(query[None], k, params=wanted)
    return [population.people[i].id for i in found[0] if i >= 0]


def _timing(seconds: list[float], recall: float) -> Timing:
    p50, p99 = (float(np.percentile(seconds, q, method="higher")) * 1000 for q in (50, 99))
    return Timing(round(p50, 3), round(p99, 3), recall)


def _recall(found: list[list[str]], exact: list[list[str]]) -> float:
    hits = sum(len(set(ours) & set(truth)) for ours, truth in zip(found, exact, strict=True))
    total = sum(len(truth) for truth in exact)
    return round(hits / total, 4) if total else 1.0


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load": psutil.getloadavg()[0],
    }
