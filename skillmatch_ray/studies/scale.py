"""Accuracy and latency as the pool of freelancers grows, with the fits that carry them further."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from skillmatch_ray.config import Config, SampleSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.ranking import Judged
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.files import read_json
from skillmatch_ray.sample.generator import Recipe
from skillmatch_ray.split import SAMPLE_FILE
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.measure import train_and_rank
from skillmatch_ray.studies.study import Contrast, Places, Run, Study, Variant, table

POOLS: Final = (1000, 1400, 2000, 2800)
"""Real documents, each pool the beginning of the next; the greatest decides the world that they are taken from."""
SEARCHED: Final = (1_000, 3_200, 10_000, 32_000, 100_000, 320_000, 1_000_000)
INDEXED: Final = (1_000, 3_200, 10_000, 32_000)
"""Rows of the indexes that are built; the exact scan goes on beyond them."""
TARGETS: Final = (100_000, 1_000_000)
DIM: Final = 384
QUERIES: Final = 40
MEMORY_SHARE: Final = 0.4
"""Of the free memory, that vectors may take."""


@dataclass(frozen=True)
class GrowPool:
    """The first freelancers of a larger sample from the same seed as the dataset's.

    Attributes:
        size: of the pool.
        largest: of the world; the projects and what they are relevant to come from it.
    """

    size: int
    largest: int = POOLS[-1]

    def __call__(self, material: Material, seed: int) -> Material:
        """Judged are the held-out projects of that world that a freelancer of the smallest pool suits.

        Raises:
            DatasetError: if the dataset is not a generated sample.
        """
        del seed
        people, projects, grades = world_of(material.dataset, self.largest)
        judged = [Judged(*_judgements(grades[project.id], self.size)) for project in projects]
        return replace(material, projects=projects, freelancers=people[: self.size], judged=judged, subsets={})


World = tuple[list[Freelancer], list[Project], dict[str, dict[int, int]]]


@lru_cache(maxsize=1)
def world_of(dataset: Dataset, largest: int) -> World:
    """Freelancers, projects, and project id -> position of a freelancer -> grade.

    Raises:
        DatasetError: if the dataset is not a generated sample.
    """
    path = dataset.root / SAMPLE_FILE
    if not path.is_file():
        raise DatasetError(
            f"dataset {dataset.root} is no generated sample, so its pool can not grow: leave out --dataset"
        )
    described = read_json(path)
    settings = SampleSettings.model_validate({**described["settings"], "freelancers": largest})
    recipe = Recipe(settings, described["seed"])
    people = [Freelancer.model_validate(row) for row in recipe.freelancer_rows(range(largest))]
    place = {freelancer.id: i for i, freelancer in enumerate(people)}
    grades: dict[str, dict[int, int]] = {}
    for row in recipe.judgement_rows(range(largest)):
        grades.setdefault(row["project_id"], {})[place[row["freelancer_id"]]] = row["grade"]
    wanted = [p for p, known in sorted(grades.items()) if _suited(known, min(POOLS[0], largest))]
    rows = recipe.project_rows(range(settings.projects))
    projects = {row["project_id"]: Project.model_validate(row) for row in rows if row["project_id"] in set(wanted)}
    return people, [projects[p] for p in wanted], grades


def _suited(grades: Mapping[int, int], size: int) -> bool:
    return any(grade >= RELEVANT_GRADE for place, grade in grades.items() if place < size)


def _judgements(grades: Mapping[int, int], size: int) -> tuple[Any, Any]:
    known = sorted((place, grade) for place, grade in grades.items() if place < size)
    return tuple(np.array(column, dtype=np.int64) for column in zip(*known, strict=True))  # type: ignore[return-value]


def measure(study: Study, variant: Variant, config: Config, seed: int, places: Places) -> Run:
    """Accuracy on real documents, or the time of a search among made-up vectors."""
    if variant.change is not None:
        return train_and_rank(study, variant, config, seed, places)
    started, rows = time.perf_counter(), int(variant.x or 0)
    timing = time_index(config, rows) if variant.curve == "index" else time_scan(rows, seed)
    seconds = round(time.perf_counter() - started, 2)
    return Run(variant.name, seed, [], {}, figures={"rows": rows, **timing}, seconds=seconds)


def time_scan(rows: int, seed: int) -> dict[str, float]:
    """Milliseconds of one exact top-100 search among (rows, DIM) float32 vectors; nothing where memory is short."""
    if rows * DIM * 4 > MEMORY_SHARE * psutil.virtual_memory().available:
        return {}
    rng = np.random.default_rng([seed, 13])
    vectors = rng.standard_normal((rows, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(rows, size=QUERIES)]
    seconds = []
    for query in queries:
        started = time.perf_counter()
        scores = vectors @ query
        best = np.argpartition(-scores, min(100, rows - 1))[:100]
        best = best[np.argsort(-scores[best])]
        seconds.append(time.perf_counter() - started)
    return _percentiles(seconds)


def time_index(config: Config, rows: int) -> dict[str, float]:
    """The same through the retriever: filters looked at, ids and payload fetched, k = 10."""
    from skillmatch_ray.benchmarks.search import benchmark_search

    found = benchmark_search(config, rows=rows, queries=QUERIES)
    timing = found.workloads["100%"].timings["retriever"]
    return {"p50_ms": timing.p50_ms, "p99_ms": timing.p99_ms, "recall_at_10": timing.recall_at_10}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = (float(np.percentile(seconds, q, method="higher")) * 1000 for q in (50, 99))
    return {"p50_ms": round(p50, 4), "p99_ms": round(p99, 4)}


@dataclass(frozen=True)
class Fit:
    """A straight line through (x, y), and what it is worth.

    Attributes:
        slope: of the line.
        intercept: of the line.
        r2: share of the variance of y that it explains.
        missed: y of the greatest x minus what the line through the others says there.
    """

    slope: float
    intercept: float
    r2: float
    missed: float

    def at(self, x: float) -> float:
        """The line's value."""
        return self.slope * x + self.intercept


def fit_line(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares; needs three points, for one is held back to see how far the line carries.

    Raises:
        ValueError: if there are fewer.

    Example:
        >>> fit_line([1, 2, 3], [2, 4, 6])
        Fit(slope=2.0, intercept=0.0, r2=1.0, missed=0.0)
    """
    if len(x) < 3:
        raise ValueError(f"{len(x)} points are too few for a fit that can be checked")
    slope, intercept = (round(float(v), 12) for v in np.polyfit(x, y, 1))
    residual = np.array(y) - (slope * np.array(x) + intercept)
    spread = float(((np.array(y) - np.mean(y)) ** 2).sum())
    r2 = 1 - float((residual**2).sum()) / spread if spread else 1.0
    others = np.polyval(np.polyfit(x[:-1], y[:-1], 1), x[-1])
    return Fit(slope, intercept, round(r2, 6), round(float(y[-1] - others), 12))


ACCURACY: Final = ("map", "ndcg@10", "recall@100")


def growth(runs: Sequence[Run], out: Path) -> list[str]:
    """Tables of both, their fits, and a plot of latency."""
    by_name = {run.variant: run for run in runs}
    accuracy = [(size, by_name[f"pool-{size}"]) for size in POOLS if f"pool-{size}" in by_name]
    timed = {
        curve: [(run.figures["rows"], run.figures) for size in SEARCHED if (run := by_name.get(f"{curve}-{size}"))]
        for curve in ("scan", "index")
    }
    timed = {curve: [(rows, f) for rows, f in points if "p50_ms" in f] for curve, points in timed.items()}
    _plot_latency(timed, out / "latency.png")
    return [
        "## Accuracy carried further\n\n" + _accuracy(accuracy),
        "## Latency of one search\n\n" + _latency(timed) + "\n\n![Latency by rows](latency.png)",
    ]


def _accuracy(points: Sequence[tuple[int, Run]]) -> str:
    x = [math.log10(size) for size, _ in points]
    lines = []
    for metric in ACCURACY:
        y = [float(np.mean([v or 0.0 for v in run.values[metric]])) for _, run in points]
        fit = fit_line(x, y)
        far = (f"{min(1.0, max(0.0, fit.at(math.log10(target)))):.2f}" for target in TARGETS)
        lines.append((metric, f"{fit.slope:+.3f}", f"{fit.r2:.2f}", f"{fit.missed:+.3f}", *far))
    header = ("metric", "change for 10 times the pool", "R2", "greatest pool, measured - foretold by the others")
    return table((*header, *(f"at {target:,} (extrapolated)" for target in TARGETS)), lines)


def _latency(timed: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]]) -> str:
    measured = [
        (name, f"{rows:,.0f}", f"{figures['p50_ms']:.2f}", f"{figures['p99_ms']:.2f}")
        for name, points in timed.items()
        for rows, figures in points
    ]
    fits = [_latency_fit(name, points) for name, points in timed.items() if len(points) >= 3]
    header = ("search", "exponent of rows", "R2", "greatest, measured / foretold by the others")
    return "\n\n".join(
        [
            table(("search", "freelancers", "p50 ms", "p99 ms"), measured),
            table((*header, *(f"p50 ms at {target:,} (fit)" for target in TARGETS)), fits),
        ]
    )


def _latency_fit(name: str, points: Sequence[tuple[float, Mapping[str, float]]]) -> tuple[str, ...]:
    """A power law: a line in the logarithms."""
    x, y = [math.log10(rows) for rows, _ in points], [math.log10(figures["p50_ms"]) for _, figures in points]
    fit = fit_line(x, y)
    far = (f"{10 ** fit.at(math.log10(target)):.1f}" for target in TARGETS)
    return (name, f"{fit.slope:.2f}", f"{fit.r2:.2f}", f"{10**fit.missed:.2f}", *far)


def _plot_latency(timed: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in timed.items():
        rows, p50 = [r for r, _ in points], [f["p50_ms"] for _, f in points]
        axes.loglog(rows, p50, marker="o", label=f"{name}, p50")
        if len(points) >= 3:
            fit = fit_line(np.log10(rows).tolist(), np.log10(p50).tolist())
            far = np.array([rows[0], TARGETS[-1]])
            axes.loglog(far, 10 ** np.array([fit.at(v) for v in np.log10(far)]), linestyle=":", label=f"{name}, fit")
    axes.set_xlabel("freelancers")
    axes.set_ylabel("milliseconds of one search")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


STUDY = Study(
    name="scale",
    summary="accuracy and search latency from 1,000 freelancers on, as far as the machine goes, and fits beyond",
    question=(
        "What happens as the pool grows? Accuracy: the workspace's model on pools of real documents, each the start "
        "of the next, with the same projects; a greater pool holds more who suit a project, too. Latency: one "
        "search among made-up vectors, by an exact scan (numpy) and through the product's own retriever."
    ),
    variants=(
        *(
            Variant(f"pool-{n}", f"{n:,} freelancers", towers="model", change=GrowPool(n), curve="MAP", x=math.log10(n))
            for n in POOLS
        ),
        *(Variant(f"scan-{n}", f"exact scan of {n:,}", curve="scan", x=n) for n in SEARCHED),
        *(Variant(f"index-{n}", f"index of {n:,}", curve="index", x=n) for n in INDEXED),
    ),
    contrasts=tuple(Contrast(f"pool-{POOLS[-1]}", f"pool-{POOLS[0]}", metric=metric) for metric in ACCURACY),
    notes=(
        "Latencies are measured one after another, on a machine that may do other things; encoding is not in them.",
        "Extrapolated figures are straight lines (accuracy or log latency over log rows) through few points; how far",
        "they carry is told beside them.",
    ),
    axis="log10 of the number of freelancers",
    measure=measure,
    alone=True,
    more=growth,
)
