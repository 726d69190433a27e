"""Which projects are trained on, validated on, and held out for the final figure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.files import read_json

SAMPLE_FILE = "sample.json"
HELD_OUT_SHARE = 0.15
"""Share of the latest projects that are held out where the dataset does not name them."""

_LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class Split:
    """Disjoint sets of project ids.

    Attributes:
        train: what the head learns from.
        validation: the latest of the rest; decides when to stop.
        held_out: name -> ids that training never sees ("later"; for samples also "occupations").
    """

    train: frozenset[str]
    validation: frozenset[str]
    held_out: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def test(self) -> frozenset[str]:
        """All held-out projects."""
        return frozenset().union(*self.held_out.values())


def split_projects(dataset: Dataset, projects: Iterable[Project], validation_share: float) -> Split:
    """Split by time: the latest projects are held out, those before them validate, the rest train.

    A generated sample names its held-out projects in sample.json: later ones, and all those of some
    occupations (cold start). Projects without a date count as old.
    """
    by_time = sorted(projects, key=lambda project: (project.created_at or _LONG_AGO, project.id))
    held_out = _named_by_sample(dataset) or {"later": _latest(by_time, HELD_OUT_SHARE)}
    test = frozenset().union(*held_out.values())
    rest = [project for project in by_time if project.id not in test]
    validation = _latest(rest, validation_share)
    return Split(frozenset(p.id for p in rest) - validation, validation, held_out)


def _latest(by_time: list[Project], share: float) -> frozenset[str]:
    count = round(share * len(by_time))
    return frozenset(project.id for project in by_time[len(by_time) - count :])


def _named_by_sample(dataset: Dataset) -> dict[str, frozenset[str]]:
    path = dataset.root / SAMPLE_FILE
    if not path.is_file():
        return {}
    return {name: frozenset(ids) for name, ids in read_json(path)["held_out_projects"].items() if ids}
