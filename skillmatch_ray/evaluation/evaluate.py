"""Evaluate a model beside five untrained floors and its peers, with intervals, on one dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore, holds_states_of
from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Document, Project
from skillmatch_ray.evaluation.baselines import POOLING_FLOORS, Bm25, random_scorer
from skillmatch_ray.evaluation.encoders import Encoder, TowerEncoder, encode_all, encoded_corpus
from skillmatch_ray.evaluation.metrics import Values
from skillmatch_ray.evaluation.overlap import TOP, skills_at
from skillmatch_ray.evaluation.peers import with_peers
from skillmatch_ray.evaluation.ranking import QueryRanks, Scorer, dense_scorer, rank_judged
from skillmatch_ray.evaluation.short_queries import ShortQueries
from skillmatch_ray.evaluation.summary import MODEL, Figures, figures_of, query_values, summarise
from skillmatch_ray.evaluation.task import Pool, Task, read_task
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.model.matcher import Towers, Vectors, load_matcher, read_model_config

Advance = Callable[[float, float, str], None]

KEY_METRICS: Final = ("map", "ndcg@10", "recall@10", "recall@100", "mrr")
PAIR_METRICS: Final = (
    "map",
    "r_precision@5",
    "r_precision@10",
    "mrr",
    f"category_overlap@{TOP}",
    f"skill_overlap@{TOP}",
)
"""Shown in the terminal: those of the public benchmark, and the paper's overlaps."""
SHOWN_PAIRS: Final = 8
"""More pairs of languages than these are left to the JSON report and the page."""
MAP_POINTS: Final = 1200
"""Freelancers whose vectors are kept for the embedding map."""


@dataclass(frozen=True)
class Detail:
    """What a report is drawn from, beside its figures.

    Attributes:
        task: what was asked.
        rankings: where each system put whom.
        figures: query by query.
        points: (n,) positions of freelancers drawn for the embedding map.
        vectors: (n, D) theirs, under `system`.
        system: the model, or the last of the floors where there is none.
    """

    task: Task
    rankings: Mapping[str, list[QueryRanks]]
    figures: Figures
    points: Any
    vectors: Vectors
    system: str


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured.

    Attributes:
        content: the `evaluation` block of a report.
        detail: for plots and examples.
    """

    content: dict[str, Any]
    detail: Detail

    def as_dict(self) -> dict[str, Any]:
        """The block as JSON values."""
        return self.content

    def render(self) -> Group:
        """Model, peers and floors side by side; of few pairs of languages also what the model does in each."""
        few = self.content[MODEL] and len(self.content["per_language_pair"]) <= SHOWN_PAIRS
        return Group(self._systems_table(), *([self._pairs_table()] if few else []))

    def _pairs_table(self) -> Table:
        table = Table(title="model, pool cut to one language", title_justify="left")
        for name in ("project-freelancer", "projects", *PAIR_METRICS):
            table.add_column(name, justify="left" if name == "project-freelancer" else "right")
        for pair, block in self.content["per_language_pair"].items():
            cells = (_figure(block[metric][MODEL]) for metric in PAIR_METRICS)
            table.add_row(pair, str(block["projects"]), *cells)
        return table

    def _systems_table(self) -> Table:
        table = Table(title=self._title(), title_justify="left")
        table.add_column("system")
        for name in (*KEY_METRICS, "skills@10", "language gap"):
            table.add_column(name, justify="right")
        for name, values in self.systems().items():
            table.add_row(name, *self._cells(name, values))
        for name, block in self.content["subsets"].items():
            maps = ", ".join(f"{system} {values['map']:.3f}" for system, values in block["systems"].items())
            table.add_section()
            table.add_row(f"{name} ({block['projects']})", maps)
        short = self.content["short_queries"]
        if short["projects"]:
            maps = ", ".join(f"{system} {found['map']:.3f}" for system, found in short["systems"].items())
            table.add_section()
            table.add_row(f"short queries ({short['projects']})", maps)
        return table

    def systems(self) -> dict[str, dict[str, Any]]:
        """Means of every system, the model first."""
        model = {MODEL: self.content[MODEL]} if self.content[MODEL] else {}
        return {**model, **self.content["peers"], **self.content["baselines"]}

    def _title(self) -> str:
        counts, settings = self.content["counts"], self.content["settings"]
        return (
            f"{counts['projects']} projects, {counts['freelancers']} freelancers, truth: {settings['truth']}, "
            f"seed {settings['seed']}, [95 % bootstrap interval]"
        )

    def _cells(self, name: str, values: Mapping[str, Any]) -> list[str]:
        low, high = self.content["intervals"][name]["map"]
        cells = [f"{values[metric]:.3f}" for metric in KEY_METRICS]
        gap = self.content["language_bias"][name]["log2_rank_gap"]
        overlap = values[f"skill_overlap@{TOP}"]
        more = [_figure(overlap), "-" if gap is None else f"{2**gap:.2f} x"]
        return [f"{cells[0]} [{low:.3f}, {high:.3f}]", *cells[1:], *more]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def evaluate_directory(
    config: Config,
    dataset: Dataset,
    model_dir: Path | None,
    *,
    peers: Sequence[str] = (),
    progress: Advance = lambda *_: None,
) -> EvaluationReport:
    """Evaluate a model directory (or just the floors) beside the floors of its own backbone.

    Token states that the workspace has are used.

    Raises:
        DatasetError: if nothing can be judged.
        ModelError: if the model or a peer cannot be loaded.
    """
    settings = BackboneSettings(**read_model_config(model_dir)["backbone"]) if model_dir else config.backbone
    backbone = Backbone.load(settings)
    matcher = load_matcher(model_dir, backbone=backbone) if model_dir else None
    # A model with fine-tuned layers of the backbone reads its own token states, not those of the floors.
    glossary = matcher.glossary if matcher else NO_GLOSSARY
    own = matcher.backbone if matcher and matcher.backbone.tuned else None
    tuned = [TowerEncoder(own, {MODEL: matcher.towers}, glossary=glossary)] if matcher and own else []
    towers = {MODEL: matcher.towers} if matcher and not tuned else {}
    store = open_if_of(config.workspace / "token_states", backbone)
    return evaluate(
        dataset,
        backbone,
        towers,
        seed=config.seed,
        store=store,
        glossary=glossary,
        peers=peers,
        more=tuned,
        progress=progress,
    )


def open_if_of(directory: Path, backbone: Backbone) -> TokenStateStore | None:
    """The token states in `directory` if they are this backbone's; None where there are none, or another's."""
    if not holds_states_of(directory, backbone.fingerprint):
        return None
    return TokenStateStore(directory, backbone.fingerprint, backbone.dim)


def evaluate(
    dataset: Dataset,
    backbone: Backbone,
    towers: Mapping[str, Towers],
    *,
    seed: int = 0,
    store: TokenStateStore | None = None,
    glossary: Glossary = NO_GLOSSARY,
    peers: Sequence[str] = (),
    more: Sequence[TowerEncoder] = (),
    progress: Advance = lambda *_: None,
) -> EvaluationReport:
    """Rank the whole pool for every judged project by each system, exactly, and sum up.

    The pool is read in blocks and its vectors lie in temporary files (4 bytes x D a freelancer and system), so that
    memory grows with the projects, not with the freelancers.

    Args:
        dataset: with projects, freelancers, and qrels or interactions.
        backbone: of the floors and of all towers.
        towers: "model" and, under other names, peers on the same backbone.
        seed: of the random floor and of resampling.
        store: token states to use where it has them.
        glossary: of the towers; the floors are told the same concepts, so that none is ahead by what it may read.
        peers: model directories of ours, hub names or paths of sentence-transformers models.
        more: towers on other backbones.
        progress: called with (documents done, documents, note).

    Raises:
        DatasetError: if no project has a relevant freelancer.
        ModelError: if a peer cannot be loaded.
    """
    floors = {name: Towers(s, backbone.dim).to(backbone.device).eval() for name, s in POOLING_FLOORS.items()}
    encoders = with_peers(TowerEncoder(backbone, {**towers, **floors}, store, glossary), peers) + list(more)
    task = read_task(dataset)
    short = ShortQueries.of(task.projects)
    asked = [*task.projects, *short.projects]
    judged = [*task.judged, *(task.judged[q] for q in short.rows)]
    with _encoded(asked, task.pool, encoders, glossary, progress) as (queries, corpus, bm25):
        scorers = {name: dense_scorer(queries[name], corpus[name]) for name in queries}
        scorers["random"] = random_scorer(len(asked), task.pool.size, seed)
        scorers["bm25"] = bm25
        languages = task.pool.languages.codes
        ranked = {name: rank_judged(scorer, judged, languages, TOP) for name, scorer in scorers.items()}
        system = MODEL if MODEL in corpus else [*POOLING_FLOORS][-1]
        points = _draw(task.pool.size, seed)
        vectors = np.array(corpus[system][points])
    briefs = len(task.projects)
    rankings = {name: ranks[:briefs] for name, ranks in ranked.items()}
    skills = skills_at(task.pool, rankings.values())
    figures = figures_of(task, rankings, skills)
    typed = (
        {name: query_values(judged[briefs:], ranks[briefs:]) for name, ranks in ranked.items()} if short.rows else {}
    )
    content = {
        **summarise(task, rankings, figures, skills, seed),
        "short_queries": short.summarise(_maps(typed), _maps(figures), seed),
        "settings": _settings(task, dataset, seed),
    }
    return EvaluationReport(content, Detail(task, rankings, figures, points, vectors, system))


def _maps(figures: Figures) -> dict[str, Values]:
    return {name: table["map"] for name, table in figures.items()}


@contextmanager
def _encoded(
    projects: Sequence[Project], pool: Pool, encoders: Sequence[Encoder], glossary: Glossary, progress: Advance
) -> Iterator[tuple[dict[str, Vectors], dict[str, Vectors], Scorer]]:
    """Vectors of projects and pool under every encoder, and BM25 over the same documents."""
    total, done = len(projects) + pool.size, 0
    bm25 = Bm25([glossary.read(project) for project in projects])

    def advance(block: Sequence[Document]) -> None:
        nonlocal done
        done += len(block)
        progress(done, total, "documents encoded")

    def count(block: Sequence[Document]) -> None:
        bm25.add(glossary.read(document) for document in block)
        advance(block)

    queries = encode_all(encoders, "project", projects, advance)
    with encoded_corpus(encoders, "freelancer", pool.everybody(), count) as corpus:
        yield queries, corpus, bm25.scorer()


def _draw(size: int, seed: int) -> Any:
    chosen = np.random.default_rng([seed, 3]).choice(size, size=min(size, MAP_POINTS), replace=False)
    return np.sort(chosen)


def _settings(task: Task, dataset: Dataset, seed: int) -> dict[str, Any]:
    return {
        "dataset": str(dataset.root),
        "truth": task.truth.source,
        "relevant_grade": RELEVANT_GRADE,
        "seed": seed,
        "pool": "all freelancers of the dataset, exact search",
        "skill_overlap": "listed skills by label; labels that the built-in taxonomy knows as one skill are one",
    }
