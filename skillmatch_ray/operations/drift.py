"""How two releases differ in what they answer: embedding shift, scores, empty results, category mix."""

from __future__ import annotations

import hashlib
import heapq
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from skillmatch_ray.config import Config, NightlySettings
from skillmatch_ray.documents import Project
from skillmatch_ray.files import atomic_file, read_json, write_json
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.pipeline.vectors import read_vectors
from skillmatch_ray.workspace import Workspace

Vectors = NDArray[np.float32]

TOP: Final = 10
UNKNOWN: Final = "unknown"
_SAME: Final = 1 - 1e-5
"""Cosine of a vector with itself, encoded anew in bfloat16."""


@dataclass(frozen=True)
class Probe:
    """What one project got.

    Attributes:
        ids: of the best freelancers, best first, at most `TOP`.
        scores: of the same.
        categories: of the same.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """What a release answered at one time.

    Attributes:
        release: its name.
        fingerprint: of its space.
        rows: freelancers in it.
        probes: project id -> what it got.
        pool: share of each category among all freelancers, from a sample.
        vectors: freelancer id -> (D,) vector, of a fixed sample of people.
        source: hash of what the release was built from, where that is known.
    """

    release: str
    fingerprint: str
    rows: int
    probes: Mapping[str, Probe]
    pool: Mapping[str, float]
    vectors: Mapping[str, Vectors] = field(repr=False)
    source: str = ""


def take_snapshot(config: Config, release: Release, projects: Sequence[Project]) -> Snapshot:
    """Ask a release for the freelancers of some projects, under the projects' own wishes.

    Raises:
        LockedError: if another process holds its embedded database.
        MilvusError: if its server does not answer.
    """
    matcher = load_matcher(release.model_dir)
    queries = matcher.encode_projects(projects)
    with Retriever(config, release) as retriever:
        probes = {
            project.id: _probe(retriever, query, Filters.from_project(project), matcher.fingerprint)
            for project, query in zip(projects, queries, strict=True)
        }
    sample = ReleaseStore(Workspace(config.workspace)).sample_file(release.name)
    pool = shares(pq.read_table(sample, columns=["category"])["category"].to_pylist())
    vectors = _fixed_people(release.vectors_dir, config.nightly.sampled_freelancers)
    return Snapshot(release.name, release.fingerprint, release.rows, probes, pool, vectors)


def _probe(retriever: Retriever, query: Vectors, filters: Filters, fingerprint: str) -> Probe:
    found = retriever.search(query, filters, TOP, fingerprint=fingerprint).candidates
    categories = tuple(candidate.payload.get("job_category", UNKNOWN) for candidate in found)
    return Probe(tuple(c.freelancer_id for c in found), tuple(c.score for c in found), categories)


def _fixed_people(vectors_dir: Path, count: int) -> dict[str, Vectors]:
    """The same people every night as long as they are there: those whose hashed ids come first."""

    def order() -> Iterable[tuple[str, str, Vectors]]:
        for table in read_vectors(vectors_dir):
            rows = zip(table["freelancer_id"].to_pylist(), table["vector"].to_pylist(), strict=True)
            for freelancer, vector in rows:
                yield hashlib.sha256(freelancer.encode()).hexdigest(), freelancer, np.asarray(vector, np.float32)

    return {freelancer: vector for _, freelancer, vector in heapq.nsmallest(count, order(), operator.itemgetter(0))}


def shares(values: Iterable[str | None]) -> dict[str, float]:
    """Share of each value.

    Example:
        >>> shares(["a", "b", "a", None])
        {'a': 0.5, 'b': 0.25, 'unknown': 0.25}
    """
    counts = Counter(value or UNKNOWN for value in values)
    return {name: count / counts.total() for name, count in counts.items()}


def save_snapshot(snapshot: Snapshot, directory: Path) -> None:
    """Keep a snapshot beside others, under its release's name."""
    values = asdict(snapshot)
    vectors = values.pop("vectors")
    with atomic_file(directory / f"{snapshot.release}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, ids=np.array([*vectors], dtype=str), vectors=np.array([*vectors.values()], dtype=np.float32))
    write_json(directory / f"{snapshot.release}.json", values)


def load_snapshot(directory: Path, release: str) -> Snapshot | None:
    """A snapshot that was kept, or None."""
    path = directory / f"{release}.json"
    if not path.is_file():
        return None
    values = read_json(path)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
        values["vectors"] = dict(zip(stored["ids"].tolist(), stored["vectors"], strict=True))
    values["probes"] = {name: Probe(*map(tuple, probe.values())) for name, probe in values["probes"].items()}
    return Snapshot(**values)


@dataclass(frozen=True)
class Drift:
    """How the new release differs from the one before.

    Attributes:
        before: release.
        after: release.
        projects: compared.
        embedding_shift: 1 - mean cosine of the same people's vectors; None where the space is another.
        changed_share: of those people whose vector is another now; None likewise.
        score_shift: greatest difference between the two distributions of best scores (Kolmogorov-Smirnov), 0 to 1.
        best_scores: 10 %, 50 % and 90 % quantile of best scores, before and after.
        overlap_at_10: mean share of the ten best that stayed.
        empty_share: of projects that got nobody, before and after.
        short_share: of projects that got fewer than ten, before and after.
        pool_shift: total variation distance of the category mix of all freelancers, 0 to 1.
        result_shift: likewise of those found.
        categories: that changed most among those found: name -> (share before, share after).
    """

    before: str
    after: str
    projects: int
    embedding_shift: float | None
    changed_share: float | None
    score_shift: float
    best_scores: tuple[tuple[float, ...], tuple[float, ...]]
    overlap_at_10: float
    empty_share: tuple[float, float]
    short_share: tuple[float, float]
    pool_shift: float
    result_shift: float
    categories: Mapping[str, tuple[float, float]]

    def excesses(self, limits: NightlySettings) -> list[str]:
        """Why a new release should not answer before somebody looked at it; empty where it may."""
        grown = self.empty_share[1] - self.empty_share[0]
        measured = {
            "max_embedding_shift": self.embedding_shift or 0.0,
            "max_score_shift": self.score_shift,
            "max_empty_growth": grown,
            "max_category_shift": max(self.pool_shift, self.result_shift),
        }
        return [
            f"{name.removeprefix('max_').replace('_', ' ')} {value:.3f} is above nightly.{name} {getattr(limits, name)}"
            for name, value in measured.items()
            if value > getattr(limits, name)
        ]


def compare(before: Snapshot, after: Snapshot) -> Drift:
    """Every figure, over the projects that both were asked for."""
    common = [name for name in after.probes if name in before.probes]
    pairs = [(before.probes[name], after.probes[name]) for name in common]
    old, new = ([pair[side] for pair in pairs] for side in (0, 1))
    best_old, best_new = ([probe.scores[0] for probe in probes if probe.scores] for probes in (old, new))
    found_old, found_new = (shares(name for probe in probes for name in probe.categories) for probes in (old, new))
    shift, changed = _embedding(before, after)
    return Drift(
        before=before.release,
        after=after.release,
        projects=len(common),
        embedding_shift=shift,
        changed_share=changed,
        score_shift=greatest_gap(best_old, best_new),
        best_scores=(_quantiles(best_old), _quantiles(best_new)),
        overlap_at_10=_mean(
            [len({*a.ids} & {*b.ids}) / max(len(a.ids), len(b.ids), 1) for a, b in pairs if a.ids or b.ids]
        ),
        empty_share=(_mean([not probe.ids for probe in old]), _mean([not probe.ids for probe in new])),
        short_share=(_mean([len(p.ids) < TOP for p in old]), _mean([len(p.ids) < TOP for p in new])),
        pool_shift=total_variation(before.pool, after.pool),
        result_shift=total_variation(found_old, found_new),
        categories=_most_changed(found_old, found_new),
    )


def _embedding(before: Snapshot, after: Snapshot) -> tuple[float | None, float | None]:
    """(1 - mean cosine, share changed) of the people in both; of two spaces there is none."""
    same = [name for name in after.vectors if name in before.vectors]
    if before.fingerprint != after.fingerprint or not same:
        return None, None
    cosines = np.array([float(before.vectors[name] @ after.vectors[name]) for name in same])
    return max(0.0, 1 - float(cosines.mean())), float((cosines < _SAME).mean())


def greatest_gap(first: Sequence[float], second: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance of two samples; 1 where just one of them is empty.

    Example:
        >>> greatest_gap([1.0, 2.0], [2.0, 3.0])
        0.5
    """
    if not first or not second:
        return float(len(first) != len(second))
    return float(ks_2samp(first, second).statistic)


def total_variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Half the sum of differences of two distributions.

    Example:
        >>> total_variation({"a": 1.0}, {"a": 0.75, "b": 0.25})
        0.25
    """
    return sum(abs(first.get(name, 0.0) - second.get(name, 0.0)) for name in {*first, *second}) / 2


def _most_changed(
    first: Mapping[str, float], second: Mapping[str, float], count: int = 5
) -> dict[str, tuple[float, float]]:
    pairs = {name: (first.get(name, 0.0), second.get(name, 0.0)) for name in {*first, *second}}
    ranked = sorted(pairs, key=lambda name: (-abs(pairs[name][0] - pairs[name][1]), name))
    return {name: pairs[name] for name in ranked[:count]}


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in np.quantile(values, [0.1, 0.5, 0.9])) if values else ()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
