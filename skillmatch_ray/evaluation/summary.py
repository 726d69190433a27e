"""Figures of all systems, query by query, summed up as the JSON of a report.

Shapes: Q queries. NaN marks a query for which a figure is not defined; a mean over none is null.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from skillmatch_ray.evaluation.baselines import FLOORS
from skillmatch_ray.evaluation.bias import BIAS_FIGURES, language_bias
from skillmatch_ray.evaluation.bootstrap import compare, holm, intervals
from skillmatch_ray.evaluation.metrics import Values, column_table, ranking_metrics, recall_curve
from skillmatch_ray.evaluation.overlap import overlap_of, overlaps
from skillmatch_ray.evaluation.ranking import Judged, QueryRanks
from skillmatch_ray.evaluation.skills import Skills
from skillmatch_ray.evaluation.task import UNKNOWN, Task
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE

MODEL: Final = "model"
LEAST_TO_RESAMPLE: Final = 5
"""Of fewer projects a group has no intervals: resampling one project says that nothing varies."""
CURVE_PLACES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

Figures = Mapping[str, Mapping[str, Values]]
"""System -> metric -> (Q,) values."""
Rankings = Mapping[str, list[QueryRanks]]


def figures_of(task: Task, rankings: Rankings, skills: Mapping[int, Skills]) -> dict[str, dict[str, Values]]:
    """Every figure of every system for every project; `skills` as `skills_at` finds them."""
    return {
        name: {
            **query_values(task.judged, ranking),
            **overlaps(task, ranking, skills),
            **language_bias(task, ranking),
        }
        for name, ranking in rankings.items()
    }


def query_values(judged: Sequence[Judged], ranking: Sequence[QueryRanks]) -> dict[str, Values]:
    """Ranking metric -> (Q,) values."""
    pairs = zip(judged, ranking, strict=True)
    return column_table([ranking_metrics(ranks.overall, query.grades, RELEVANT_GRADE) for query, ranks in pairs])


def summarise(
    task: Task, rankings: Rankings, figures: Figures, skills: Mapping[int, Skills], seed: int
) -> dict[str, Any]:
    """The `evaluation` block, without its settings."""
    ranked = {name: {m: v for m, v in table.items() if m not in BIAS_FIGURES} for name, table in figures.items()}
    peers = [name for name in ranked if name not in (MODEL, *FLOORS)]
    everywhere = list(range(len(task.projects)))
    return {
        "model": _means(ranked[MODEL], everywhere) if MODEL in ranked else None,
        "baselines": {name: _means(ranked[name], everywhere) for name in FLOORS},
        "peers": {name: _means(ranked[name], everywhere) for name in peers},
        "per_language_pair": _per_language_pair(task, rankings, skills, seed),
        "per_language": _per_group(ranked, task.rows_of(lambda project: project.language), seed),
        "per_category": _per_group(ranked, task.rows_of(lambda project: project.job_category), seed),
        "intervals": _intervals(ranked, everywhere, seed),
        "comparisons": _comparisons(ranked, (*FLOORS, *peers), seed),
        "subsets": _per_subset(task, ranked, seed),
        "language_bias": _bias(figures, seed),
        "recall_curves": _recall_curves(task, rankings),
        "counts": {
            "projects": len(task.projects),
            "projects_without_relevant": task.left_out,
            "freelancers": task.pool.size,
            "relevant_pairs": int(sum((j.grades >= RELEVANT_GRADE).sum() for j in task.judged)),
        },
    }


def _means(table: Mapping[str, Values], rows: Sequence[int]) -> dict[str, float | None]:
    return {name: _mean(values[rows]) for name, values in table.items()}


def _mean(values: Values) -> float | None:
    defined = values[~np.isnan(values)]
    return round(float(defined.mean()), 6) if len(defined) else None


def _intervals(figures: Figures, rows: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    """System -> metric -> [low, high]; null where the figure is never defined."""
    keys = [(system, metric) for system, table in figures.items() for metric in table]
    found = intervals(np.stack([figures[system][metric][rows] for system, metric in keys], axis=1), seed)
    result: dict[str, dict[str, Any]] = defaultdict(dict)
    for (system, metric), bounds in zip(keys, found.round(6).tolist(), strict=True):
        result[system][metric] = None if np.isnan(bounds[0]) else bounds
    return dict(result)


def _comparisons(figures: Figures, others: Sequence[str], seed: int) -> dict[str, Any]:
    """MAP of the model against each other system, paired; p also adjusted for their number."""
    if MODEL not in figures:
        return {}
    found = {name: asdict(compare(figures[MODEL]["map"], figures[name]["map"], seed)) for name in others}
    adjusted = holm({name: comparison["p"] for name, comparison in found.items()})
    return {name: {**comparison, "p_holm": adjusted[name]} for name, comparison in found.items()}


def _per_group(figures: Figures, groups: Mapping[str, Sequence[int]], seed: int) -> dict[str, Any]:
    """Metric -> system -> mean, and intervals, for each group of projects."""
    return {name: _group(figures, rows, seed) for name, rows in groups.items()}


def _group(figures: Figures, rows: Sequence[int], seed: int) -> dict[str, Any]:
    metrics = next(iter(figures.values()))
    return {
        "projects": len(rows),
        **{metric: {system: _mean(table[metric][rows]) for system, table in figures.items()} for metric in metrics},
        "intervals": _group_intervals(figures, rows, seed),
    }


def _group_intervals(figures: Figures, rows: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    if len(rows) < LEAST_TO_RESAMPLE:
        return {system: dict.fromkeys(table) for system, table in figures.items()}
    return _intervals(figures, rows, seed)


def _per_subset(task: Task, figures: Figures, seed: int) -> dict[str, Any]:
    """All metrics of every system for each held-out or cold-start set."""
    result = {}
    for name, ids in task.truth.subsets.items():
        rows = [q for q, project in enumerate(task.projects) if project.id in ids]
        if rows:
            systems = {system: _means(table, rows) for system, table in figures.items()}
            result[name] = {
                "projects": len(rows),
                "systems": systems,
                "intervals": _group_intervals(figures, rows, seed),
            }
    return result


def _bias(figures: Figures, seed: int) -> dict[str, Any]:
    """Language bias of every system, with intervals."""
    tables = {system: {name: table[name] for name in BIAS_FIGURES} for system, table in figures.items()}
    everywhere = list(range(len(next(iter(tables.values()))[BIAS_FIGURES[0]])))
    bounds = _intervals(tables, everywhere, seed)
    return {s: {**_means(table, everywhere), "intervals": bounds[s]} for s, table in tables.items()}


def _recall_curves(task: Task, rankings: Rankings) -> dict[str, dict[str, float]]:
    """System -> k -> mean recall@k, for k up to the size of the pool."""
    places = [k for k in CURVE_PLACES if k <= max(task.pool.size, CURVE_PLACES[0])]
    return {
        name: dict(zip(map(str, places), recall_curve(_relevant_ranks(task, ranking), places).round(6), strict=True))
        for name, ranking in rankings.items()
    }


def _relevant_ranks(task: Task, ranking: Sequence[QueryRanks]) -> list[Any]:
    pairs = zip(task.judged, ranking, strict=True)
    return [ranks.overall[query.grades >= RELEVANT_GRADE] for query, ranks in pairs]


def _per_language_pair(task: Task, rankings: Rankings, skills: Mapping[int, Skills], seed: int) -> dict[str, Any]:
    """Figures of every system by pair: "en-fr" = English projects, the pool cut to French freelancers."""
    cells: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    languages = task.pool.languages
    for name, ranking in rankings.items():
        for project, query, ranks in zip(task.projects, task.judged, ranking, strict=True):
            spoken = languages.codes[query.places]
            for code in np.unique(spoken[query.grades >= RELEVANT_GRADE]).tolist():
                own = spoken == code
                row = ranking_metrics(ranks.in_group[own], query.grades[own], RELEVANT_GRADE)
                row |= overlap_of(task.pool, project, ranks.top_in_group[code], skills)
                cells[f"{project.language or UNKNOWN}-{languages.names[code]}"][name].append(row)
    return {pair: _pair(systems, seed) for pair, systems in sorted(cells.items())}


def _pair(systems: Mapping[str, Sequence[dict[str, float]]], seed: int) -> dict[str, Any]:
    tables = {name: column_table(rows) for name, rows in systems.items()}
    return _group(tables, range(len(next(iter(systems.values())))), seed)
