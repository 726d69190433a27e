"""Which projects and freelancers meet in which step: a pure function of seed and step.

Nothing has to be saved or sent for a resume or between workers; each can compute any batch of ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from skillmatch_ray.config import TrainingSettings
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.relations import RelationBatch, Relations, weak_negatives


@dataclass
class RelationSampler:
    """Draws batches of projects from few job categories, with their freelancers.

    In each epoch every trainable project is drawn once. A batch holds the projects of
    `groups_per_step` chunks, a chunk being projects of one job category, so that most negatives of a
    batch are of the anchor's own category.

    Args:
        relations: the history.
        project_categories: job category of each trainable project (None where unknown).
        freelancer_categories: job category of each freelancer.
        settings: sizes of a batch.
        seed: decides every draw.
        mined: project id -> freelancers that a model took for good ones, `training.mining`.

    Raises:
        DatasetError: if fewer than two projects have a positive.
    """

    relations: Relations
    project_categories: Mapping[str, str | None]
    freelancer_categories: Mapping[str, str | None]
    settings: TrainingSettings
    seed: int
    mined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _plans: dict[int, list[list[str]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.projects = [p for p in self.relations.trainable_projects() if p in self.project_categories]
        if len(self.projects) < 2:
            raise DatasetError(
                f"training needs 2 or more projects with a selected or accepted freelancer, not {len(self.projects)}: "
                "check the outcomes in the interactions table"
            )
        self._groups: dict[str, list[str]] = defaultdict(list)
        for project in self.projects:
            self._groups[self.project_categories[project] or ""].append(project)

    @property
    def chunk(self) -> int:
        """Projects of one category that are drawn together."""
        return max(1, self.settings.projects_per_step // self.settings.groups_per_step)

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch and on every worker."""
        return len(self._plan(0))

    def batch(self, step: int) -> RelationBatch:
        """Ids and relations of one step (counted from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        projects = self._plan(epoch)[index]
        rng = np.random.default_rng([self.seed, 2, step])
        freelancers = self._draw_freelancers(projects, rng)
        signs = self.relations.matrix(projects, freelancers)
        weak = weak_negatives(
            signs,
            [self.project_categories[p] for p in projects],
            [self.freelancer_categories.get(f) for f in freelancers],
        )
        return RelationBatch(tuple(projects), tuple(freelancers), signs, weak)

    def _draw_freelancers(self, projects: Sequence[str], rng: np.random.Generator) -> list[str]:
        drawn: dict[str, None] = {}
        for project in projects:
            for pool, count in (
                (self.relations.positives(project), self.settings.positives_per_project),
                (self.relations.negatives(project), self.settings.negatives_per_project),
                (self.mined.get(project, ()), self.settings.mined_per_project),
            ):
                for i in rng.permutation(len(pool))[:count]:
                    drawn[pool[i]] = None
        return list(drawn)

    def _plan(self, epoch: int) -> list[list[str]]:
        """Project ids of each step of an epoch."""
        if epoch not in self._plans:
            self._plans = {epoch: self._make_plan(np.random.default_rng([self.seed, 1, epoch]))}
        return self._plans[epoch]

    def _make_plan(self, rng: np.random.Generator) -> list[list[str]]:
        chunks: list[list[str]] = []
        for _, group in sorted(self._groups.items()):
            shuffled = [group[i] for i in rng.permutation(len(group))]
            chunks += [shuffled[i : i + self.chunk] for i in range(0, len(shuffled), self.chunk)]
        # The number of batches must not depend on the draw, so chunks are dealt out, not packed.
        order = rng.permutation(len(chunks))
        batches = -(-len(chunks) // self.settings.groups_per_step)
        return [[p for c in order[i::batches] for p in chunks[c]] for i in range(batches)]
