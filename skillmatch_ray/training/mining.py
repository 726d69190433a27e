"""Hard negatives by the current model: a running top-k over shards of vectors on Ray, then guards, then a report.

Only numbers of rows and scores travel, never texts. Only training projects are mined; what is held out or
validates is never read.

Shapes: P projects, N freelancers, n of one shard, K candidates kept of each project, D dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.table import Table

from skillmatch_ray.config import Config, MiningSettings
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import write_json
from skillmatch_ray.model.matcher import Vectors
from skillmatch_ray.pipeline.vectors import read_manifest
from skillmatch_ray.relations import Relations
from skillmatch_ray.training.negatives import NEGATIVES_FILE, write_negatives
from skillmatch_ray.training.setup import History

REPORT_FILE: Final = "report.json"
QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Candidates:
    """The best freelancers of each project, best first.

    Attributes:
        rows: (P, K) int64 numbers of freelancers in the manifest; -1 where there are fewer.
        scores: (P, K) float32, minus infinity there.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def none(cls, projects: int, keep: int) -> Candidates:
        """Before the first shard."""
        return cls(np.full((projects, keep), -1), np.full((projects, keep), -np.inf, dtype=np.float32))

    def merge(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Candidates:
        """The K best of these and of (P, n) others; of equal scores the lower row first, in any order of shards."""
        every = np.concatenate([self.rows, rows], axis=1), np.concatenate([self.scores, scores], axis=1)
        order = np.lexsort((every[0], -every[1]))[:, : self.rows.shape[1]]
        return Candidates(*(np.take_along_axis(values, order, axis=1) for values in every))


@dataclass(frozen=True)
class MiningReport:
    """What was taken and what not.

    Attributes:
        projects: mined.
        freelancers: that they were ranked against.
        band: first and last rank of the band, counted from 1.
        taken: negatives written.
        starved: projects with fewer negatives than wanted.
        skipped: reason -> candidates of the band, or above it, that were not taken.
        scores: "positives", "taken", "above_margin" -> quantile -> score.
    """

    projects: int
    freelancers: int
    band: tuple[int, int]
    taken: int
    starved: int
    skipped: dict[str, int]
    scores: dict[str, dict[str, float]]

    def render(self) -> Table:
        """Scores of positives and negatives side by side, and what was skipped."""
        title = (
            f"{self.taken} negatives of {self.projects} projects, ranks {self.band[0]} to {self.band[1]} of "
            f"{self.freelancers} freelancers; {self.starved} projects have fewer than wanted"
        )
        table = Table(title=title, title_justify="left")
        for name in ("scores", *(f"{q:.0%}" for q in QUANTILES)):
            table.add_column(name, justify="left" if name == "scores" else "right")
        for name, values in self.scores.items():
            table.add_row(name, *(f"{value:.3f}" for value in values.values()))
        table.add_section()
        for reason, count in self.skipped.items():
            table.add_row(reason.replace("_", " "), f"{count:,}")
        return table


class ShardRanker:
    """Shards of vectors in, the best K of each shard for every project out. A plain callable.

    Args:
        projects: (P, D) vectors.
        keep: K.
        root: directory of the vectors.
    """

    def __init__(self, projects: Vectors, keep: int, root: Path) -> None:
        self.projects = projects
        self.keep = keep
        self.root = root

    def __call__(self, batch: pa.Table) -> pa.Table:
        """(part, rows of the part, their numbers) -> (numbers, scores), both (P, K) row by row."""
        ranked = [
            self.rank(*values) for values in zip(*(batch[c].to_pylist() for c in batch.column_names), strict=True)
        ]
        return pa.table({"rows": [r.ravel() for r, _ in ranked], "scores": [s.ravel() for _, s in ranked]})

    def rank(
        self, part: str, rows: Sequence[int], numbers: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(P, k) numbers and scores of the best k = min(K, n) of one shard."""
        scores = self.projects @ _read_rows(self.root / part, rows).T  # (P, n)
        numbered = np.broadcast_to(np.asarray(numbers, dtype=np.int64), scores.shape)
        best = Candidates.none(len(scores), min(self.keep, len(rows))).merge(numbered, scores)
        return best.rows, best.scores


def mine_negatives(
    config: Config, history: History, projects: Sequence[str], vectors: Vectors, root: Path, out: Path
) -> MiningReport:
    """Rank every encoded freelancer for each project, take negatives of the band, write them and the report.

    Args:
        config: mining and ray settings.
        history: whose positives and stated negatives are guarded.
        projects: P ids of training projects, each with a positive.
        vectors: (P, D) theirs, by the model that made the freelancers' vectors.
        root: directory of the freelancers' vectors.
        out: directory of `NEGATIVES_FILE` and `REPORT_FILE`.

    Raises:
        DatasetError: if there is nothing to mine.
    """
    manifest = read_manifest(root)
    if not projects or not len(manifest):
        raise DatasetError(
            f"nothing to mine: {len(projects)} training projects with a positive, {len(manifest)} vectors"
        )
    first, last = band(config.mining, len(manifest))
    best = Candidates.none(len(projects), last)
    for rows, scores in _ranked_shards(config, vectors, last, root, manifest):
        best = best.merge(rows, scores)
    picker = Picker(config.mining, history.relations, manifest, first)
    known = positive_scores(history, projects, vectors, manifest, root)
    found = zip(projects, best.rows, best.scores, known, strict=True)
    negatives = [row for project, rows, scores, own in found for row in picker.pick(project, rows, scores, own)]
    out.mkdir(parents=True, exist_ok=True)
    write_negatives(out / NEGATIVES_FILE, negatives)
    report = picker.report(len(projects), (first + 1, last))
    write_json(out / REPORT_FILE, asdict(report))
    return report


def band(settings: MiningSettings, freelancers: int) -> tuple[int, int]:
    """(first, end) of the ranks that are mined, counted from 0.

    Example:
        >>> band(MiningSettings(from_share=0.01, to_share=0.04), 1600)
        (16, 64)
    """
    end = min(freelancers, settings.most_candidates, max(1, round(settings.to_share * freelancers)))
    return min(end - 1, round(settings.from_share * freelancers)), end


def positive_scores(
    history: History, projects: Sequence[str], vectors: Vectors, manifest: pa.Table, root: Path
) -> list[list[float]]:
    """Scores of the known positives of each project, as far as they are encoded."""
    wanted = {f for p in projects for f in history.relations.positives(p)}
    ids, by_part = manifest["freelancer_id"].to_pylist(), _by_part(manifest)
    known: dict[str, NDArray[np.float32]] = {}
    for part, numbers in by_part.items():
        chosen = [number for number in numbers if ids[number] in wanted]
        if chosen:
            rows = manifest["row"].take(chosen).to_pylist()
            known |= zip((ids[n] for n in chosen), _read_rows(root / part, rows), strict=True)
    return [
        [float(vectors[i] @ known[f]) for f in history.relations.positives(p) if f in known]
        for i, p in enumerate(projects)
    ]


class Picker:
    """Takes negatives out of the candidates of projects, and counts what it leaves and why.

    Args:
        settings: band, margin and number.
        relations: what is known.
        manifest: of the vectors; its content hashes tell copies.
        first: rank, from 0, at which the band begins.
    """

    def __init__(self, settings: MiningSettings, relations: Relations, manifest: pa.Table, first: int) -> None:
        self.settings = settings
        self.relations = relations
        self.first = first
        self.ids: list[str] = manifest["freelancer_id"].to_pylist()
        self.contents: list[str] = manifest["content_hash"].to_pylist()
        self._content_of = dict(zip(self.ids, self.contents, strict=True))
        self.skipped: Counter[str] = Counter()
        self.scores: dict[str, list[float]] = defaultdict(list)
        self.starved = 0

    def pick(
        self, project: str, rows: NDArray[np.int64], scores: NDArray[np.float32], positives: Sequence[float]
    ) -> list[dict[str, Any]]:
        """Rows of the negatives of one project, hardest first."""
        limit = self._limit(positives)
        self.scores["positives"] += positives
        known = self.relations.signs.get(project, {})
        copies = {self._content_of[f] for f, sign in known.items() if sign > 0 and f in self._content_of}
        taken: list[dict[str, Any]] = []
        for rank, (number, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True)):
            if number < 0:
                break
            reason = self._reason(number, score, rank, known, copies, limit)
            if reason is None and len(taken) >= self.settings.per_project:
                reason = "enough_taken"
            if reason is not None:
                self.skipped[reason] += 1
                if reason == "above_margin":
                    self.scores[reason].append(score)
                continue
            copies.add(self.contents[number])
            self.scores["taken"].append(score)
            taken.append({"project_id": project, "freelancer_id": self.ids[number], "rank": rank + 1, "score": score})
        self.starved += len(taken) < self.settings.per_project
        return taken

    def _reason(
        self, number: int, score: float, rank: int, known: Mapping[str, int], copies: set[str], limit: float
    ) -> str | None:
        """Why a candidate is left, None where it is not."""
        sign = known.get(self.ids[number], 0)
        if sign:
            return "known_positive" if sign > 0 else "stated_negative"
        if self.contents[number] in copies:
            return "copy_of_a_positive_or_taken_one"
        if rank < self.first:
            return "before_the_band"
        return "above_margin" if score > limit else None

    def _limit(self, positives: Sequence[float]) -> float:
        """Score above which an unknown freelancer may well be a positive: the mean positive, less the margin."""
        if not positives:
            return float("inf")
        mean = sum(positives) / len(positives)
        return mean - self.settings.relative_margin * abs(mean)

    def report(self, projects: int, band: tuple[int, int]) -> MiningReport:
        """What was done so far."""
        return MiningReport(
            projects=projects,
            freelancers=len(self.ids),
            band=band,
            taken=len(self.scores["taken"]),
            starved=self.starved,
            skipped=dict(sorted(self.skipped.items())),
            scores={name: _quantiles(values) for name, values in self.scores.items() if values},
        )


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    found = np.quantile(values, QUANTILES)
    return {f"{q:.0%}": round(float(v), 4) for q, v in zip(QUANTILES, found, strict=True)}


def _by_part(manifest: pa.Table) -> dict[str, list[int]]:
    """Part -> numbers of its live rows in the manifest."""
    parts: dict[str, list[int]] = defaultdict(list)
    for number, part in enumerate(manifest["part"].to_pylist()):
        parts[part].append(number)
    return parts


def _read_rows(part: Path, rows: Sequence[int]) -> NDArray[np.float32]:
    """(n, D) vectors of some rows of a part."""
    column = pq.read_table(part, columns=["vector"]).take(rows)["vector"].combine_chunks()
    vectors: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return vectors


def _ranked_shards(
    config: Config, projects: Vectors, keep: int, root: Path, manifest: pa.Table
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(P, k) numbers and scores of each shard, as Ray finishes them."""
    import ray
    import ray.data

    from skillmatch_ray.pipeline.session import ensure_ray

    ensure_ray(config.ray)
    shards = [
        pa.table({"part": [part], "rows": [manifest["row"].take(numbers).to_pylist()], "numbers": [numbers]})
        for part, numbers in sorted(_by_part(manifest).items())
    ]
    ranked = ray.data.from_arrow(shards).map_batches(
        ShardRanker(projects, keep, root.resolve()), batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    for row in ranked.iter_rows():
        shape = (len(projects), -1)
        yield np.array(row["rows"]).reshape(shape), np.array(row["scores"], dtype=np.float32).reshape(shape)
