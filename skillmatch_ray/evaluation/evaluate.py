"""Evaluate a model beside five untrained floors, with intervals, on one dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import STORE_HEADER, TokenStateStore
from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.baselines import FLOORS, POOLING_FLOORS, bm25_scorer, random_scorer
from skillmatch_ray.evaluation.bootstrap import compare, interval
from skillmatch_ray.evaluation.encoders import encode_all
from skillmatch_ray.evaluation.metrics import (
    average_precision,
    ndcg_at,
    precision_at,
    r_precision_at,
    recall_at,
    reciprocal_rank,
)
from skillmatch_ray.evaluation.ranking import Judged, QueryRanks, Scorer, dense_scorer, rank_judged
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE, Truth, read_truth
from skillmatch_ray.files import read_json
from skillmatch_ray.model.matcher import Towers, load_matcher, read_model_config

Values = NDArray[np.float64]
Advance = Callable[[float, float, str], None]

KEY_METRICS: Final = ("map", "ndcg@10", "recall@10", "recall@100", "mrr")
MODEL: Final = "model"


@dataclass(frozen=True)
class Task:
    """Queries, corpus and truth of one evaluation.

    Attributes:
        projects: Q of them, each with a relevant freelancer in the corpus.
        freelancers: N, the whole pool.
        judged: for each query.
        left_out: projects without a relevant freelancer.
        truth: where the grades come from.
    """

    projects: list[Project]
    freelancers: list[Freelancer]
    judged: list[Judged]
    left_out: int
    truth: Truth

    @property
    def languages(self) -> list[str]:
        """Language of each freelancer, "?" where unknown."""
        return [freelancer.language or "?" for freelancer in self.freelancers]


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured.

    Attributes:
        content: the `evaluation` block of a report.
    """

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The block as JSON values."""
        return self.content

    def render(self) -> Table:
        """Model and floors side by side."""
        counts, settings = self.content["counts"], self.content["settings"]
        title = (
            f"{counts['projects']} projects, {counts['freelancers']} freelancers, truth: {settings['truth']}, "
            f"seed {settings['seed']}, [95 % bootstrap interval]"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("system")
        for name in KEY_METRICS:
            table.add_column(name, justify="right")
        systems = {MODEL: self.content[MODEL]} if self.content[MODEL] else {}
        for name, values in (systems | self.content["baselines"]).items():
            low, high = self.content["intervals"][name]["map"]
            cells = [f"{values[metric]:.3f}" for metric in KEY_METRICS]
            table.add_row(name, f"{cells[0]} [{low:.3f}, {high:.3f}]", *cells[1:])
        for name, block in self.content["subsets"].items():
            maps = ", ".join(f"{system} {values['map']:.3f}" for system, values in block["systems"].items())
            table.add_section()
            table.add_row(f"{name} ({block['projects']})", maps)
        return table


def evaluate_directory(
    config: Config, dataset: Dataset, model_dir: Path | None, *, progress: Advance = lambda *_: None
) -> EvaluationReport:
    """Evaluate a model directory (or just the floors) beside the floors of its own backbone.

    Token states that the workspace has are used.

    Raises:
        DatasetError: if nothing can be judged.
    """
    settings = BackboneSettings(**read_model_config(model_dir)["backbone"]) if model_dir else config.backbone
    backbone = Backbone.load(settings)
    towers = {MODEL: load_matcher(model_dir, backbone=backbone).towers} if model_dir else {}
    store = open_if_of(config.workspace / "token_states", backbone)
    return evaluate(dataset, backbone, towers, seed=config.seed, store=store, progress=progress)


def open_if_of(directory: Path, backbone: Backbone) -> TokenStateStore | None:
    """The token states in `directory` if they are this backbone's; None where there are none, or another's."""
    header = directory / STORE_HEADER
    if not header.is_file() or read_json(header)["fingerprint"] != backbone.fingerprint:
        return None
    return TokenStateStore(directory, backbone.fingerprint, backbone.dim)


def evaluate(
    dataset: Dataset,
    backbone: Backbone,
    towers: Mapping[str, Towers],
    *,
    seed: int = 0,
    store: TokenStateStore | None = None,
    progress: Advance = lambda *_: None,
) -> EvaluationReport:
    """Rank the whole pool for every judged project by each system, exactly, and sum up.

    Args:
        dataset: with projects, freelancers, and qrels or interactions.
        backbone: of the floors and of all towers.
        towers: "model" and, under other names, peers on the same backbone.
        seed: of the random floor and of resampling.
        store: token states to use where it has them.
        progress: called with (documents done, documents, note).

    Raises:
        DatasetError: if no project has a relevant freelancer.
    """
    task = read_task(dataset)
    scorers = _scorers(task, backbone, towers, seed, store, progress)
    groups = np.unique(task.languages, return_inverse=True)[1]
    ranks = {name: rank_judged(scorer, task.judged, groups) for name, scorer in scorers.items()}
    return EvaluationReport(_content(task, ranks, dataset, seed))


def read_task(dataset: Dataset) -> Task:
    """Projects that can be judged, and the pool.

    Raises:
        DatasetError: if there is none.
    """
    projects = {project.id: project for project in dataset.projects()}
    freelancers = dataset.freelancers()
    place = {freelancer.id: i for i, freelancer in enumerate(freelancers)}
    truth = read_truth(dataset, projects)
    queries, judged = [], []
    for project_id, grades in sorted(truth.grades.items()):
        known = sorted((place[f], grade) for f, grade in grades.items() if f in place)
        if any(grade >= RELEVANT_GRADE for _, grade in known):
            places, levels = zip(*known, strict=True)
            judged.append(Judged(np.array(places, dtype=np.int64), np.array(levels, dtype=np.int64)))
            queries.append(projects[project_id])
    if not queries:
        raise DatasetError(
            f"dataset {dataset.root}: no project has a relevant freelancer in the table (grade >= {RELEVANT_GRADE}, "
            "or a selected or accepted one among the held-out projects)"
        )
    return Task(queries, freelancers, judged, len(truth.grades) - len(queries), truth)


def _scorers(
    task: Task,
    backbone: Backbone,
    towers: Mapping[str, Towers],
    seed: int,
    store: TokenStateStore | None,
    progress: Advance,
) -> dict[str, Scorer]:
    floors = {name: Towers(s, backbone.dim).to(backbone.device).eval() for name, s in POOLING_FLOORS.items()}
    systems = {**towers, **floors}
    total, done = len(task.projects) + len(task.freelancers), 0

    def on_block(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total, "documents encoded")

    queries = encode_all(backbone, systems, "project", task.projects, store, on_block)
    corpus = encode_all(backbone, systems, "freelancer", task.freelancers, store, on_block)
    scorers = {name: dense_scorer(queries[name], corpus[name]) for name in systems}
    scorers["random"] = random_scorer(len(task.projects), len(task.freelancers), seed)
    scorers["bm25"] = bm25_scorer(task.projects, task.freelancers)
    return scorers


def _content(task: Task, ranks: Mapping[str, list[QueryRanks]], dataset: Dataset, seed: int) -> dict[str, Any]:
    values = {name: query_values(task.judged, [r.overall for r in found]) for name, found in ranks.items()}
    peers = [name for name in ranks if name not in (MODEL, *FLOORS)]
    model = values.get(MODEL)
    return {
        "model": _means(model) if model else None,
        "baselines": {name: _means(values[name]) for name in FLOORS},
        "peers": {name: _means(values[name]) for name in peers},
        "per_language_pair": _per_language_pair(task, ranks),
        "per_language": _per_group(values, [p.language or "?" for p in task.projects]),
        "per_category": _per_group(values, [p.job_category or "?" for p in task.projects]),
        "intervals": {name: {m: interval(v[m], seed) for m in KEY_METRICS} for name, v in values.items()},
        "comparisons": {
            name: asdict(compare(model["map"], values[name]["map"], seed)) for name in (*FLOORS, *peers) if model
        },
        "subsets": _per_subset(task, values),
        "counts": {
            "projects": len(task.projects),
            "projects_without_relevant": task.left_out,
            "freelancers": len(task.freelancers),
            "relevant_pairs": int(sum((j.grades >= RELEVANT_GRADE).sum() for j in task.judged)),
        },
        "settings": {
            "dataset": str(dataset.root),
            "truth": task.truth.source,
            "relevant_grade": RELEVANT_GRADE,
            "seed": seed,
            "pool": "all freelancers of the dataset, exact search",
        },
    }


def query_values(judged: Sequence[Judged], ranks: Sequence[NDArray[np.int64]]) -> dict[str, Values]:
    """Metric -> (Q,) values."""
    rows = [_one_query(query, found) for query, found in zip(judged, ranks, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _one_query(query: Judged, ranks: NDArray[np.int64]) -> dict[str, float]:
    relevant = ranks[query.grades >= RELEVANT_GRADE]
    return {
        "map": average_precision(relevant),
        "ndcg@10": ndcg_at(ranks, query.grades, 10),
        "recall@10": recall_at(relevant, 10),
        "recall@100": recall_at(relevant, 100),
        "mrr": reciprocal_rank(relevant),
        "precision@5": precision_at(relevant, 5),
        "precision@10": precision_at(relevant, 10),
        "r_precision@5": r_precision_at(relevant, 5),
        "r_precision@10": r_precision_at(relevant, 10),
    }


def _means(values: Mapping[str, Values]) -> dict[str, float]:
    return {name: round(float(found.mean()), 6) for name, found in values.items()}


def _per_group(values: Mapping[str, Mapping[str, Values]], names: Sequence[str]) -> dict[str, Any]:
    """MAP of every system for each group of projects."""
    groups: dict[str, list[int]] = defaultdict(list)
    for q, name in enumerate(names):
        groups[name].append(q)
    return {name: _block(values, rows) for name, rows in sorted(groups.items())}


def _per_subset(task: Task, values: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    """All metrics of every system for each held-out set."""
    result = {}
    for name, ids in task.truth.subsets.items():
        rows = [q for q, project in enumerate(task.projects) if project.id in ids]
        if rows:
            systems = {s: _means({m: v[rows] for m, v in found.items()}) for s, found in values.items()}
            result[name] = {"projects": len(rows), "systems": systems}
    return result


def _block(values: Mapping[str, Mapping[str, Values]], rows: Iterable[int]) -> dict[str, Any]:
    chosen = list(rows)
    maps = {name: round(float(found["map"][chosen].mean()), 6) for name, found in values.items()}
    return {"projects": len(chosen), "map": maps}


def _per_language_pair(task: Task, ranks: Mapping[str, list[QueryRanks]]) -> dict[str, Any]:
    """MAP of every system by pair: "en-fr" = English projects, the pool cut to French freelancers."""
    languages = np.array(task.languages)
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, found in ranks.items():
        for project, query, rank in zip(task.projects, task.judged, found, strict=True):
            relevant = query.grades >= RELEVANT_GRADE
            spoken = languages[query.places]
            for language in np.unique(spoken[relevant]):
                own = rank.in_group[relevant & (spoken == language)]
                cells[f"{project.language or '?'}-{language}"][name].append(average_precision(own))
    return {
        pair: {
            "projects": len(next(iter(systems.values()))),
            "map": {name: round(float(np.mean(values)), 6) for name, values in systems.items()},
        }
        for pair, systems in sorted(cells.items())
    }
