"""Validation figures while training: over all validation projects, and apart by time and by cold start.

Names of figures: "map", "ndcg@10", "recall@10", "recall@100", "mrr" over all validation projects, and the same with
"later/" or "unseen_skills/" before them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.documents import Document
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.metrics import average_precision, ndcg_at, recall_at, reciprocal_rank
from skillmatch_ray.evaluation.ranking import Judged, dense_scorer, rank_judged
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.training.loop import TrainingModel
from skillmatch_ray.training.setup import History
from skillmatch_ray.training.source import StateSource

POOL: Final = 400
"""Freelancers that the validation projects are ranked against, at least where the history has them."""
METRICS: Final = ("map", "ndcg@10", "recall@10", "recall@100", "mrr")
LATER: Final = "later"
UNSEEN_SKILLS: Final = "unseen_skills"
ALL_NAMES: Final = (*METRICS, *(f"{part}/{metric}" for part in (LATER, UNSEEN_SKILLS) for metric in METRICS))


@dataclass(frozen=True)
class Validator:
    """Ranks a pool of freelancers of the history for every validation project that has a positive.

    The pool holds every freelancer with a relation to a validation project, filled up with others in the
    order of their ids.

    Args:
        history: what training reads.
        source: token states.
    """

    history: History
    source: StateSource

    @cached_property
    def queries(self) -> list[str]:
        """Validation projects with a positive, sorted."""
        return [p for p in sorted(self.history.split.validation) if self.history.relations.positives(p)]

    @cached_property
    def sets(self) -> dict[str, list[int]]:
        """Name -> positions in `queries`; only sets that are not empty."""
        projects = [self.history.projects[p] for p in self.queries]
        last, seen = self.history.last_training_moment, self._training_skills
        later = [i for i, p in enumerate(projects) if last and p.created_at and p.created_at > last]
        unseen = [i for i, p in enumerate(projects) if not _skills([p]) <= seen]
        return {name: rows for name, rows in ((LATER, later), (UNSEEN_SKILLS, unseen)) if rows}

    @property
    def _training_skills(self) -> set[str]:
        """Every skill label that a training project or a freelancer of its history names."""
        training = [p for p in self.history.split.train if p in self.history.projects]
        people = {f for p in training for f in self.history.relations.signs.get(p, ())}
        projects = (self.history.projects[p] for p in training)
        return _skills(projects) | _skills(self.history.freelancers[f] for f in people)

    @property
    def names(self) -> list[str]:
        """Figures that this history has."""
        if not self.queries:
            return []
        return [*METRICS, *(f"{part}/{metric}" for part in self.sets for metric in METRICS)]

    def check(self, name: str) -> None:
        """Whether this history gives a figure of this name.

        Raises:
            ConfigError: if not; names the nearest one that it gives.
        """
        if self.names:
            check_name(name, self.names)

    def __call__(self, model: TrainingModel) -> dict[str, float]:
        """Figures of a model by name; none where no validation project has a positive."""
        if not self.queries:
            return {}
        values = self._values(model)
        rows = {"": list(range(len(self.queries))), **{f"{name}/": found for name, found in self.sets.items()}}
        return {
            prefix + metric: round(float(values[metric][chosen].mean()), 6)
            for prefix, chosen in rows.items()
            for metric in METRICS
        }

    def _values(self, model: TrainingModel) -> dict[str, NDArray[np.float64]]:
        """Metric -> (Q,)."""
        relations, history = self.history.relations, self.history
        projects = model.encode("project", self.source([history.projects[p] for p in self.queries]))
        freelancers = model.encode("freelancer", self.source([history.freelancers[f] for f in self.pool]))
        relevant = relations.matrix(self.queries, self.pool) > 0
        judged = [Judged(row.nonzero()[0], np.full(row.sum(), RELEVANT_GRADE)) for row in relevant]
        ranks = rank_judged(dense_scorer(projects, freelancers), judged, np.zeros(len(self.pool), dtype=np.int64))
        found = [_figures(query, rank.overall) for query, rank in zip(judged, ranks, strict=True)]
        return {metric: np.array([figures[metric] for figures in found]) for metric in METRICS}

    @cached_property
    def pool(self) -> list[str]:
        """Ids of the freelancers that are ranked."""
        related = dict.fromkeys(f for p in self.queries for f in self.history.relations.signs[p])
        return list(dict.fromkeys([*related, *sorted(self.history.freelancers)]))[: max(POOL, len(related))]


def check_name(name: str, known: Sequence[str] = ALL_NAMES) -> None:
    """Whether `training.stop_metric` names a known figure.

    Raises:
        ConfigError: if not; names the nearest one.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"training.stop_metric {name!r} is no validation figure of this dataset: did you mean {near!r}? "
            f"(there are {', '.join(known)})"
        )


def _figures(query: Judged, ranks: NDArray[np.int64]) -> Mapping[str, float]:
    return {
        "map": average_precision(ranks),
        "ndcg@10": ndcg_at(ranks, query.grades, 10),
        "recall@10": recall_at(ranks, 10),
        "recall@100": recall_at(ranks, 100),
        "mrr": reciprocal_rank(ranks),
    }


def _skills(documents: Iterable[Document]) -> set[str]:
    return {skill.casefold() for document in documents for skill in document.skills}
