"""A frozen backbone against one whose last layers, or all, learn with the head."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from skillmatch_ray.config import Config
from skillmatch_ray.evaluation.alignment import pair_alignments
from skillmatch_ray.evaluation.language_gap import translated_pool
from skillmatch_ray.evaluation.ranking import Judged
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.measure import Encoder, Ranked, encoder_of, material_of, rank
from skillmatch_ray.studies.study import Contrast, Places, Run, Study, Variant, table

ItemT = TypeVar("ItemT")

TRANSLATED: Final = 20
"""Freelancers, written in every language, whose translations are looked for."""
TRANSLATION_SEED: Final = 1000
"""Another than that of samples: nobody has learned from these people."""
ALIGNMENT: Final = "translation rank "


@dataclass(frozen=True)
class FewDocuments:
    """A part of the dataset that a fine-tuned backbone reads in minutes; the same for every seed.

    Attributes:
        training: projects that are learned from.
        judged: projects that are measured on.
        pool: freelancers that these are ranked against; those judged for them are always among them.
    """

    training: int = 200
    judged: int = 60
    pool: int = 300

    def __call__(self, material: Material, seed: int) -> Material:
        """Both parts smaller; grades are kept."""
        del seed
        chosen = spread(range(len(material.projects)), self.judged)
        wanted = {int(place) for q in chosen for place in material.judged[q].places}
        others = [place for place in range(len(material.freelancers)) if place not in wanted]
        kept = sorted({*wanted, *spread(others, max(0, self.pool - len(wanted)))})
        place = {old: new for new, old in enumerate(kept)}
        history = material.history
        train = frozenset(spread(sorted(history.split.train), self.training))
        return replace(
            material,
            history=replace(history, split=replace(history.split, train=train)),
            projects=[material.projects[q] for q in chosen],
            freelancers=[material.freelancers[old] for old in kept],
            judged=[
                Judged(np.array([place[int(old)] for old in one.places], dtype=np.int64), one.grades)
                for one in (material.judged[q] for q in chosen)
            ],
        )


def spread(items: Sequence[ItemT], count: int) -> list[ItemT]:
    """At most `count` items at even distances.

    Example:
        >>> spread(range(10), 4)
        [0, 3, 6, 9]
    """
    if count >= len(items):
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count).round()]


def measure(study: Study, variant: Variant, config: Config, seed: int, places: Places) -> Run:
    """The usual measure, and where translations stand under the same encoder."""
    del study
    started = time.perf_counter()
    material = material_of(variant, config, seed, places)
    encoder = encoder_of(variant, config, material, places)
    projects, pool = encoder("project", material.projects), encoder("freelancer", material.freelancers)
    figures = {**encoder.figures, **alignment(encoder)}
    ranks = rank(projects, pool, material)
    return Ranked(material, ranks, figures, time.perf_counter() - started).run(variant, seed)


def alignment(encoder: Encoder) -> dict[str, float]:
    """Mean rank of a freelancer's translation among all of its language, for each pair of languages."""
    written = translated_pool(TRANSLATED, 1, TRANSLATION_SEED).freelancers
    found = pair_alignments({language: encoder("freelancer", people) for language, people in written.items()})
    return {ALIGNMENT + pair: values.mean_rank for pair, values in found.items()}


def by_language_pair(runs: Sequence[Run], out: Path) -> list[str]:
    """MAP of every variant for each language pair, and a heat map of what training everything changed."""
    found = {run.variant: run for run in reversed(runs)}  # of each variant the first seed
    first = {name: found[name] for name in STUDY.by_name if name in found}
    pairs = sorted({pair for run in first.values() for pair in run.pairs})
    rows = [
        (pair, str(len(first["frozen"].pairs.get(pair, {}))), *(_mean(first[name], pair) for name in first))
        for pair in pairs
    ]
    names = [STUDY.by_name[name].label for name in first]
    _heat_map(first["frozen"], first["all"], out / "pairs.png")
    note = "MAP by pair of languages (project, pool cut to freelancers of one language), first seed; few projects each."
    return [
        f"## By language pair\n\n{note}\n\n" + table(("pair", "projects", *names), rows),
        "![What training all layers changed, by language pair](pairs.png)",
        _alignment(first, names),
    ]


def _alignment(first: Mapping[str, Run], names: Sequence[str]) -> str:
    """Ranks of translations by pair of languages, and their mean."""
    keys = [key for key in first["frozen"].figures if key.startswith(ALIGNMENT)]
    rows = [(key.removeprefix(ALIGNMENT), *(f"{run.figures[key]:.2f}" for run in first.values())) for key in keys]
    mean = ("mean", *(f"{np.mean([run.figures[key] for key in keys]):.2f}" for run in first.values()))
    note = f"Mean rank of a freelancer's translation among {TRANSLATED} of its language (1: always first), first seed."
    return f"## Language alignment\n\n{note}\n\n" + table(("pair", *names), [*rows, mean])


def _mean(run: Run, pair: str) -> str:
    values = list(run.pairs.get(pair, {}).values())
    return f"{np.mean(values):.3f}" if values else "-"


def _heat_map(before: Run, after: Run, path: Path) -> None:
    """Difference of MAP, projects' languages down, freelancers' across."""
    from matplotlib.figure import Figure

    shared = sorted(before.pairs.keys() & after.pairs.keys())
    own, theirs = (sorted({pair.split("-")[side] for pair in shared}) for side in (0, 1))
    grid = np.full((len(own), len(theirs)), np.nan)
    for pair in shared:
        row, column = pair.split("-")
        change = np.mean(list(after.pairs[pair].values())) - np.mean(list(before.pairs[pair].values()))
        grid[own.index(row), theirs.index(column)] = change
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="RdBu", vmin=-0.3, vmax=0.3)
    axes.set_xticks(range(len(theirs)), theirs)
    axes.set_yticks(range(len(own)), own)
    axes.set_xlabel("language of the freelancers")
    axes.set_ylabel("language of the project")
    figure.colorbar(image, label="MAP, all layers - frozen")
    figure.savefig(path, dpi=110)


_FEW: Final = FewDocuments()
_OTHER: Final = "map other languages"


def _tuned(layers: int | str, name: str, label: str) -> Variant:
    return Variant(name, label, {"training": {"trainable_backbone_layers": layers}}, change=_FEW)


STUDY = Study(
    name="backbone",
    summary="frozen against fine-tuned backbone (last 2, last 6, all layers), by language pair; indicative",
    question=(
        "Does it pay to train the backbone too? The same head learns on frozen token states, and with the last two, "
        "six, or all layers of the backbone learning; quality is told in all, and for projects and freelancers of the "
        "same and of different languages, and so is how near a document's translation stands."
    ),
    variants=(
        Variant("frozen", "frozen backbone", change=_FEW),
        _tuned(2, "last-2", "last 2 layers trained"),
        _tuned(6, "last-6", "last 6 layers trained"),
        _tuned("all", "all", "all layers trained"),
    ),
    contrasts=(
        *(Contrast(name, "frozen") for name in ("last-2", "last-6", "all")),
        Contrast("last-2", "frozen", metric=_OTHER),
        Contrast("all", "frozen", metric=_OTHER),
        Contrast("all", "frozen", metric="map same language"),
    ),
    base={"training": {"steps": 24, "projects_per_step": 8, "backbone_learning_rate": 5e-5}},
    notes=(
        "Indicative only: 200 training projects, 24 steps, one seed, 60 judged projects, a pool of about 300; a",
        "backbone may need more of all to show what it can gain or lose.",
    ),
    measure=measure,
    more=by_language_pair,
)
