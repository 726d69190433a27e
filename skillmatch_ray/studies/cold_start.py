"""What a model makes of projects, skills and job categories that its training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from skillmatch_ray.documents import Document
from skillmatch_ray.evaluation.bootstrap import Values
from skillmatch_ray.relations import Relations
from skillmatch_ray.studies.contrasts import compare_groups, conclude, shared_confidence
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.study import Contrast, Run, Study, Variant, table
from skillmatch_ray.training.setup import History

LEFT_OUT: Final = "left-out categories"
EVERY: Final = 3
"""One job category in so many is left out of training."""


@dataclass(frozen=True)
class LeaveOut:
    """Train without some job categories, or without as many projects of the others.

    Attributes:
        unseen: whether the left-out categories themselves are missing; else the control.
    """

    unseen: bool

    def __call__(self, material: Material, seed: int) -> Material:
        """The judged projects of those categories become the subset `LEFT_OUT`."""
        left_out = left_out_categories(material)
        judged = frozenset(p.id for p in material.projects if p.job_category in left_out)
        history = _without(material.history, left_out) if self.unseen else _control(material.history, left_out, seed)
        return replace(material, history=history, subsets={**material.subsets, LEFT_OUT: judged})


def left_out_categories(material: Material) -> frozenset[str]:
    """Every third category, in the order of their names: the same for every seed."""
    named = {project.job_category for project in material.history.projects.values() if project.job_category}
    return frozenset(sorted(named)[::EVERY])


def _without(history: History, left_out: frozenset[str]) -> History:
    """Neither the projects of these categories nor their freelancers, not even as somebody's negatives."""
    people = {key: freelancer for key, freelancer in history.freelancers.items() if not _is_of(freelancer, left_out)}
    signs = {p: {f: s for f, s in known.items() if f in people} for p, known in history.relations.signs.items()}
    train = frozenset(p for p in history.split.train if not _is_of(history.projects[p], left_out))
    return replace(history, split=replace(history.split, train=train), relations=Relations(signs), freelancers=people)


def _control(history: History, left_out: frozenset[str], seed: int) -> History:
    """As many projects less, none of them of these categories."""
    train = sorted(history.split.train)
    others = [p for p in train if not _is_of(history.projects[p], left_out)]
    count = min(len(train) - len(others), len(others))
    dropped = np.random.default_rng([seed, 12]).permutation(len(others))[:count]
    kept = history.split.train - {others[i] for i in dropped}
    return replace(history, split=replace(history.split, train=kept))


def _is_of(document: Document, categories: frozenset[str]) -> bool:
    return document.job_category in categories


GROUPS: Final = {"later": "new projects of known trades", "occupations": "trades without history", "new_skills":
    "mostly skills that no earlier project asked for", "new_category": "categories without history"}  # fmt: skip
"""Subsets that evaluation names, in words."""


def gains(runs: Sequence[Run], out: Path) -> list[str]:
    """A table of the groups, and whether the model gains less over the floor where it starts cold."""
    del out
    model, floor = ({run.variant: run for run in runs}[name] for name in ("model", "floor"))
    difference = np.array(model.values["map"], dtype=np.float64) - np.array(floor.values["map"], dtype=np.float64)
    rows = {name: _rows(model, name) for name in GROUPS if model.subsets.get(name)}
    lines = [
        (f"{GROUPS[name]} (`{name}`)", str(len(places)), *_cells(model, floor, places)) for name, places in rows.items()
    ]
    return [
        "## Gain over the floor\n\n" + table(("projects", "number", "model MAP", "floor MAP", "gain"), lines),
        "\n".join(f"- {sentence}" for sentence in _colder(difference, rows)),
    ]


def _rows(run: Run, subset: str) -> list[int]:
    members = set(run.subsets[subset])
    return [q for q, project in enumerate(run.projects) if project in members]


def _cells(model: Run, floor: Run, places: Sequence[int]) -> tuple[str, str, str]:
    ours, theirs = (float(np.mean([run.values["map"][q] or 0.0 for q in places])) for run in (model, floor))
    return f"{ours:.3f}", f"{theirs:.3f}", f"{ours - theirs:+.3f}"


def _colder(difference: Values, rows: dict[str, list[int]]) -> list[str]:
    """Each cold group against the projects outside of it."""
    cold = [name for name in rows if name != "later" and len(rows[name]) < len(difference)]
    confidence = shared_confidence(len(cold))
    sentences = []
    for name in cold:
        others = np.setdiff1d(np.arange(len(difference)), rows[name])
        found = compare_groups(difference[rows[name]], difference[others], 0, confidence)
        label = GROUPS[name]
        sentences.append(
            conclude(label[:1].upper() + label[1:], "all other projects", "gain in MAP over the floor", found)
        )
    return sentences


STUDY = Study(
    name="cold-start",
    summary="new projects, trades and skills without history, and job categories left out of training",
    question=(
        "What does a model make of what it never saw? The workspace's model is compared with the untrained floor (E5 "
        "tokens weighted by inverse section length) on later projects, on trades without history and on skills without "
        "history. Then a third of the job categories is left out of training, and the projects of these categories "
        "are ranked by heads that saw them and by heads that did not, both from equally many projects."
    ),
    variants=(
        Variant("model", "the workspace's model", towers="model"),
        Variant("floor", "untrained floor", {"model": {"learned_section_weights": False}}, towers="untrained"),
        Variant("unseen", "trained without the categories", headline=True, change=LeaveOut(unseen=True)),
        Variant("seen", "trained with the categories", headline=True, change=LeaveOut(unseen=False)),
    ),
    contrasts=(
        *(Contrast("model", "floor", subset=name) for name in ("later", "occupations", "new_skills")),
        Contrast("unseen", "seen", subset=LEFT_OUT),
        Contrast("unseen", "floor", subset=LEFT_OUT),
    ),
    more=gains,
)
