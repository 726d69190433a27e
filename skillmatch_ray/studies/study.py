"""What a study is: variants that differ in one thing, and the contrasts that it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from skillmatch_ray.config import Config

if TYPE_CHECKING:
    from skillmatch_ray.studies.material import Material

Change = Callable[["Material", int], "Material"]
"""What a variant reads instead: (material, seed) -> material; a pure function."""

METRICS: Final = ("map", "ndcg@10", "recall@10", "recall@100", "mrr")

_BATCH: Final = {"groups_per_step": 8, "positives_per_project": 2, "negatives_per_project": 2, "validation_share": 0.0}

SMALL: Final[Mapping[str, Any]] = {
    "model": {"layers": 0},
    "training": {"steps": 60, "projects_per_step": 24, "learning_rate": 1e-3, **_BATCH},
}
"""Defaults of a study: all but the transformer blocks learns, in seconds; steps are fixed, nothing is validated.

Batches are named here so that the figures of a study do not change with the defaults of training.
"""

FULL: Final[Mapping[str, Any]] = {
    "model": {"layers": 4},
    "training": {"steps": 600, "projects_per_step": 64, "learning_rate": 1e-4, **_BATCH},
}
"""Defaults of `--full`: the paper's head, for a GPU."""

HEADLINE_SEEDS: Final = 3


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves things; paths that all workers see.

    Attributes:
        dataset: directory of tables.
        store: token states.
        model: the model that a study looks at; None where every variant trains its own.
        out: of the study.
    """

    dataset: Path
    store: Path
    model: Path | None
    out: Path


@dataclass(frozen=True)
class Variant:
    """One arm of a study.

    Attributes:
        name: of its files; letters, digits, hyphens.
        label: for tables, plots and sentences.
        overrides: settings that differ from the study's base.
        headline: takes part in a headline contrast, so it runs with several seeds.
        towers: "trained" from scratch, "untrained", or the "model" of the workspace.
        change: of what it reads.
        curve: line of the plot that it belongs to, at `x`.
        x: its strength or size.
    """

    name: str
    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    headline: bool = False
    towers: Literal["trained", "untrained", "model"] = "trained"
    change: Change | None = None
    curve: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Contrast:
    """First against second variant.

    Attributes:
        first: name of a variant.
        second: name of another.
        metric: that is compared.
        subset: of the judged projects; "" for all.
    """

    first: str
    second: str
    metric: str = "map"
    subset: str = ""


@dataclass(frozen=True)
class Run:
    """What one variant with one seed gave; one JSON file.

    Attributes:
        variant: its name.
        seed: of training and changes.
        projects: Q ids of the judged projects.
        values: metric -> Q figures; None where a project has none.
        pairs: "en-fr" -> project id -> MAP, English projects, pool cut to French freelancers.
        subsets: name -> ids of some of the projects.
        figures: whatever else was measured.
        seconds: of the run.
    """

    variant: str
    seed: int
    projects: list[str]
    values: dict[str, list[float | None]]
    pairs: dict[str, dict[str, float]] = field(default_factory=dict)
    subsets: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


Measure = Callable[["Study", Variant, Config, int, Places], Run]


@dataclass(frozen=True)
class Study:
    """One question, and the runs that answer it.

    Attributes:
        name: as given on the command line.
        summary: one line for the list.
        question: what it asks, and how, for the page.
        variants: first of them the one that others are compared with, by custom.
        contrasts: that the page concludes on.
        base: settings that differ from `SMALL`, by default and in full.
        notes: what must be known to read the figures.
        axis: meaning of `Variant.x`.
        measure: one run; None trains and evaluates.
        alone: runs one at a time, since it measures time.
        more: Markdown from all runs, and files beside the page.
    """

    name: str
    summary: str
    question: str
    variants: Sequence[Variant]
    contrasts: Sequence[Contrast] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    axis: str = ""
    measure: Measure | None = None
    alone: bool = False
    more: Callable[[Sequence[Run], Path], list[str]] | None = None

    @cached_property
    def by_name(self) -> dict[str, Variant]:
        """Variants by name."""
        return {variant.name: variant for variant in self.variants}

    @property
    def needs_model(self) -> bool:
        """Whether a variant looks at a finished model."""
        return any(variant.towers == "model" for variant in self.variants)

    def seeds_of(self, variant: Variant, first: int, count: int) -> range:
        """Seeds of one variant: `count` for a headline, else one."""
        return range(first, first + (count if variant.headline else 1))
