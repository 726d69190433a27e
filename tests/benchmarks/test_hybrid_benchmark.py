"""The benchmark of BM25 beside the vectors: every system, every pair of languages."""

from __future__ import annotations

import json

import pytest

from skillmatch_ray.benchmarks.hybrid import _recommended, benchmark_hybrid
from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import Dataset

pytestmark = pytest.mark.e2e


def test_every_system_is_measured_for_every_pair_of_languages(tiny_workspace, tmp_path):
    config = load_config(tiny_workspace.config, [f"workspace={tiny_workspace.root}"])
    before = {path: path.stat().st_mtime for path in (tiny_workspace.root / "releases").iterdir()}
    found = benchmark_hybrid(config, Dataset(tiny_workspace.root / "dataset"), report=tmp_path / "r.json").content
    assert json.loads((tmp_path / "r.json").read_text())["map"] == found["map"]
    # The vectors alone, through the index, are what `skillmatch evaluate` computed without one.
    assert found["map"]["dense"] == pytest.approx(tiny_workspace.report["evaluation"]["model"]["map"], abs=1e-3)
    assert {pair.split("-")[0] for pair in found["per_pair"]} == set(found["per_language"])
    assert sum(block["projects"] for block in found["per_language"].values()) == found["projects"]
    assert before == {path: path.stat().st_mtime for path in (tiny_workspace.root / "releases").iterdir()}


def test_only_what_is_surely_better_is_recommended():
    language = {"map": {"dense": 0.5, "rrf": 0.6, "weighted": 0.7}}
    sure = {**language, "against_dense": {"rrf": (0.01, 0.2), "weighted": (0.02, 0.3)}}
    unsure = {**language, "against_dense": {"rrf": (-0.01, 0.2), "weighted": (-0.02, 0.3)}}
    one = {**language, "against_dense": {"rrf": (0.01, 0.2), "weighted": (-0.02, 0.3)}}
    assert _recommended({"fr": sure, "de": unsure, "en": one, "?": sure}) == {"fr": "weighted", "en": "rrf"}
