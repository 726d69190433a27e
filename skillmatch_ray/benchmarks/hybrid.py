"""`skillmatch benchmark hybrid`: does BM25 beside the vectors help, and for briefs in which language?

The model's vectors, indexed once more with a BM25 column in a directory of its own, are searched for every
judged project without filters: by vector alone, and by both fused. Figures are MAP over the whole pool, and
by pair of languages with the pool cut to the freelancer's language.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
from rich.table import Table

from skillmatch_ray.config import Config, Fusion
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.bootstrap import compare
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.evaluation.ranking import QueryRanks, Scores, matrix_scorer, rank_judged
from skillmatch_ray.evaluation.task import UNKNOWN, Task, read_task
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.files import write_json
from skillmatch_ray.index.backend import MAX_RESULTS
from skillmatch_ray.index.plan import parameters
from skillmatch_ray.index.releases import activate, active_release, build_release
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.index.schema import document_words
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.workspace import Workspace

DENSE: Final = "dense"
SYSTEMS: Final[tuple[str, ...]] = (DENSE, *get_args(Fusion))

Rankings = Mapping[str, Sequence[QueryRanks]]
Advance = Callable[[float, float, str], None]


@dataclass(frozen=True)
class HybridReport:
    """What was measured.

    Attributes:
        content: `map` of each system, `per_language` with paired intervals, `per_pair`, and `recommended`, the
            value of `milvus.hybrid` that names the languages where a fusion is surely better (95 %).
    """

    content: dict[str, Any]

    def render(self) -> Table:
        """MAP by pair of languages, then by language of the brief, then over all."""
        title = "MAP of dense alone and of fusions with BM25: brief-freelancer languages, briefs, all"
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in SYSTEMS:
            table.add_column(name, justify="right")
        for pair, found in self.content["per_pair"].items():
            table.add_row(pair, *(f"{found[name]:.3f}" for name in SYSTEMS))
        table.add_section()
        for language, found in self.content["per_language"].items():
            table.add_row(f"{language} ({found['projects']})", *(f"{found['map'][name]:.3f}" for name in SYSTEMS))
        table.add_section()
        table.add_row("all", *(f"{self.content['map'][name]:.3f}" for name in SYSTEMS))
        return table


def benchmark_hybrid(
    config: Config, dataset: Dataset, *, report: Path | None = None, progress: Advance = lambda *_: None
) -> HybridReport:
    """Measure fusion with BM25 on the judged projects of a dataset whose vectors the active release was built from.

    Args:
        config: workspace and milvus settings; `milvus.uri` picks the backend.
        dataset: freelancers, projects, and qrels or interactions.
        report: where the figures go as JSON.
        progress: called with (searches done, searches to do, note).

    Raises:
        DatasetError: if nothing can be judged, or the pool is larger than one search can return.
        MilvusError: if the backend has no BM25.
        ReleaseError: if there is no release, or the dataset has changed since its vectors were made.
    """
    task = read_task(dataset)
    if task.pool.size > MAX_RESULTS:
        raise DatasetError(
            f"dataset {dataset.root} has {task.pool.size} freelancers; whole rankings of at most {MAX_RESULTS} are read"
        )
    release = active_release(Workspace(config.workspace))
    matcher = load_matcher(release.model_dir)
    vectors = matcher.encode_projects(task.projects)
    with tempfile.TemporaryDirectory() as directory:
        milvus = config.milvus.model_copy(update={"bm25": True, "hybrid": {}, "alias": "skillmatch_benchmark"})
        apart = config.model_copy(update={"workspace": Path(directory), "milvus": milvus})
        workspace = Workspace(apart.workspace)
        built = build_release(apart, workspace, dataset, release.model_dir, release.vectors_dir)
        activate(workspace, built.name, apart)
        rankings = _rankings(apart, task, vectors, progress)
    found = HybridReport(_content(task, rankings, config.seed))
    if report is not None:
        write_json(report, found.content)
    return found


def _rankings(config: Config, task: Task, vectors: Scores, progress: Advance) -> dict[str, list[QueryRanks]]:
    places = {freelancer.id: i for i, freelancer in enumerate(task.pool.dataset.read(FREELANCERS))}
    scores = {name: np.full((len(task.projects), len(places)), -np.inf, dtype=np.float32) for name in SYSTEMS}
    with Retriever(config) as retriever:
        for q, (project, vector) in enumerate(zip(task.projects, vectors, strict=True)):
            for name in SYSTEMS:
                for place, key in enumerate(_ranking(retriever, name, vector, document_words(project), len(places))):
                    scores[name][q, places[key]] = -place
            progress(q + 1, len(task.projects), "projects searched")
    groups = task.pool.languages.codes
    return {name: rank_judged(matrix_scorer(scores[name]), task.judged, groups) for name in SYSTEMS}


def _ranking(retriever: Retriever, system: str, vector: Scores, words: str, limit: int) -> list[str]:
    """Ids of the best, by the calls that the retriever issues; no profile is read."""
    release, backend, ef = retriever.release, retriever.backend, retriever.config.milvus.ef
    search = parameters(release.index_type, limit, ef, filtered=False)
    if system == DENSE:
        (hits,) = backend.search(release.collection, vector[None], "", limit, search, [])
    else:
        hits = backend.fuse(
            release.collection,
            vector,
            words,
            fusion=cast("Fusion", system),
            expression="",
            limit=limit,
            parameters=search,
            fields=[],
        )
    return [hit.id for hit in hits]


def _content(task: Task, rankings: Rankings, seed: int) -> dict[str, Any]:
    relevant = [query.grades >= RELEVANT_GRADE for query in task.judged]
    values = {
        name: np.array([average_precision(r.overall[mask]) for r, mask in zip(ranks, relevant, strict=True)])
        for name, ranks in rankings.items()
    }
    per_language = {}
    for language, rows in task.rows_of(lambda project: project.language).items():
        per_language[language] = {
            "projects": len(rows),
            "map": {name: round(float(found[rows].mean()), 4) for name, found in values.items()},
            "against_dense": {
                name: compare(values[name][rows], values[DENSE][rows], seed).interval for name in SYSTEMS[1:]
            },
        }
    return {
        "map": {name: round(float(found.mean()), 4) for name, found in values.items()},
        "per_language": per_language,
        "per_pair": _per_pair(task, rankings),
        "recommended": _recommended(per_language),
        "projects": len(task.projects),
        "freelancers": task.pool.size,
        "seed": seed,
    }


def _per_pair(task: Task, rankings: Rankings) -> dict[str, dict[str, float]]:
    """MAP of every system: "en-fr" = English briefs, the pool cut to French freelancers."""
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, ranks in rankings.items():
        for project, query, found in zip(task.projects, task.judged, ranks, strict=True):
            relevant = query.grades >= RELEVANT_GRADE
            codes = task.pool.languages.codes[query.places]
            for code in np.unique(codes[relevant]):
                pair = f"{project.language or UNKNOWN}-{task.pool.languages.names[code]}"
                cells[pair][name].append(average_precision(found.in_group[relevant & (codes == code)]))
    return {
        pair: {name: round(float(np.mean(found)), 4) for name, found in cell.items()}
        for pair, cell in sorted(cells.items())
    }


def _recommended(per_language: Mapping[str, Any]) -> dict[str, str]:
    """The best fusion of each language in which one is better than dense alone with 95 % confidence."""
    chosen = {}
    for language, found in per_language.items():
        better = [name for name, (low, _) in found["against_dense"].items() if low > 0]
        if better and language != UNKNOWN:
            chosen[language] = max(better, key=lambda name: found["map"][name])
    return chosen
