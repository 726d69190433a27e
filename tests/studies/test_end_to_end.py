"""Every study from its first run to its page, with the tiny backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from study_helpers import shrunk

from skillmatch_ray.files import read_json
from skillmatch_ray.studies.page import write_page
from skillmatch_ray.studies.registry import STUDIES
from skillmatch_ray.studies.runner import Outcome, plan
from skillmatch_ray.studies.study import Variant

QUICK = ("cold-start", "label-noise")
"""Their runs are few, and cover trained, untrained and finished towers, subsets and changes of the history."""
TIMED = 2000
"""Rows beyond which a test does not measure time."""


def names():
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STUDIES]


def small_enough(variant: Variant) -> bool:
    """Neither more rows than a test should time, nor more layers than the tiny backbone has."""
    layers = variant.overrides.get("training", {}).get("trainable_backbone_layers", 0)
    return layers in {0, 2, "all"} and (variant.change is not None or variant.x is None or variant.x <= TIMED)


@pytest.mark.parametrize("name", names())
def test_a_study_runs_to_its_page(name, tiny_places, tiny_config, tmp_path):
    variants = [variant for variant in STUDIES[name].variants if small_enough(variant)]
    left = {variant.name for variant in variants}
    contrasts = [contrast for contrast in STUDIES[name].contrasts if {contrast.first, contrast.second} <= left]
    study = replace(STUDIES[name], variants=variants, contrasts=contrasts)
    config, places = shrunk(study, tiny_config), replace(tiny_places, out=tmp_path)
    runs = [job.execute() for job in plan(study, config, places, seeds=2)]
    page = write_page(Outcome(study, runs, config, places, seeds=2, full=False)).read_text(encoding="utf-8")
    figures = read_json(tmp_path / "figures.json")
    assert len(figures["conclusions"]) == len(study.contrasts)
    measured = {run.variant for run in runs if run.projects}
    assert set(figures["variants"]) == measured
    for variant in study.variants:
        assert variant.name not in measured or f"| {variant.label} |" in page
    assert page.count("![") == len(list(tmp_path.glob("*.png")))
    assert "nan" not in page.split("## Setting")[0].lower().split()
