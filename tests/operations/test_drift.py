"""Drift between two releases, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmatch_ray.config import NightlySettings
from skillmatch_ray.operations.drift import (
    Probe,
    Snapshot,
    compare,
    greatest_gap,
    load_snapshot,
    save_snapshot,
    total_variation,
)

PEOPLE = {"f1": np.array([1, 0], np.float32), "f2": np.array([0, 1], np.float32)}


def snapshot(name="old", *, probes=None, pool=None, vectors=None, fingerprint="space"):
    probes = probes or {
        "p1": Probe(("f1", "f2"), (0.9, 0.8), ("it", "art")),
        "p2": Probe(("f2", "f3"), (0.7, 0.6), ("art", "art")),
        "p3": Probe((), (), ()),
        "p4": Probe(tuple(f"f{i}" for i in range(10)), (0.5,) * 10, ("it",) * 10),
    }
    return Snapshot(name, fingerprint, 10, probes, pool or {"it": 0.5, "art": 0.5}, vectors or PEOPLE)


def test_a_release_does_not_drift_from_itself():
    drift = compare(snapshot(), snapshot("new"))
    assert (drift.embedding_shift, drift.changed_share, drift.score_shift) == (0.0, 0.0, 0.0)
    assert (drift.pool_shift, drift.result_shift, drift.overlap_at_10) == (0.0, 0.0, 1.0)
    assert drift.empty_share == (0.25, 0.25)
    assert drift.short_share == (0.75, 0.75)
    assert not drift.excesses(NightlySettings())


def test_every_figure_by_hand():
    """f2 turns by 60 degrees: cosines 1 and 0.5, shift 0.25, half of the people changed.

    Best scores {0.9, 0.7, 0.5} -> {0.9, 0.2, 0.5}: below 0.5 and at 0.7 the distributions differ by 1/3.
    Overlaps 1, 1/2 and 1 of three projects; p2 loses f3, which was art: results 11 it + 3 art -> 12 it + 2 art.
    """
    turned = {"f1": PEOPLE["f1"], "f2": np.array([np.sqrt(0.75), 0.5], np.float32)}
    before = snapshot()
    probes = {**before.probes, "p2": Probe(("f2", "f4"), (0.2, 0.1), ("art", "it"))}
    after = snapshot("new", probes=probes, pool={"it": 0.75, "art": 0.15, "law": 0.1}, vectors=turned)
    drift = compare(before, after)
    assert drift.embedding_shift == pytest.approx(0.25)
    assert drift.changed_share == 0.5
    assert drift.score_shift == pytest.approx(1 / 3)
    assert drift.overlap_at_10 == pytest.approx((1 + 0.5 + 1) / 3)
    assert drift.pool_shift == pytest.approx(0.35)
    assert drift.result_shift == pytest.approx(1 / 14)
    assert drift.best_scores[0] == (0.54, 0.7, 0.86)
    assert drift.categories["it"] == pytest.approx((11 / 14, 12 / 14))
    reasons = drift.excesses(NightlySettings())
    assert [reason.split(" is above")[0] for reason in reasons] == [
        "embedding shift 0.250", "score shift 0.333", "category shift 0.350",
    ]  # fmt: skip


def test_projects_that_find_nobody_any_more_hold_a_release_back():
    before = snapshot()
    after = snapshot("new", probes={**before.probes, "p1": Probe((), (), ())})
    drift = compare(before, after)
    assert drift.empty_share == (0.25, 0.5)
    assert any("empty growth 0.250" in reason for reason in drift.excesses(NightlySettings(max_score_shift=1)))


def test_vectors_of_two_spaces_are_not_compared():
    drift = compare(snapshot(), snapshot("new", fingerprint="another"))
    assert drift.embedding_shift is None
    assert drift.changed_share is None


def test_only_projects_that_both_were_asked_for_count():
    before, after = snapshot(), snapshot("new")
    fewer = snapshot("new", probes={"p1": after.probes["p1"], "p9": Probe((), (), ())})
    assert compare(before, fewer).projects == 1
    assert compare(before, fewer).empty_share == (0.0, 0.0)


def test_a_snapshot_survives_saving(tmp_path):
    saved = snapshot()
    save_snapshot(saved, tmp_path)
    found = load_snapshot(tmp_path, "old")
    assert found is not None
    assert found.probes == saved.probes
    assert found.pool == saved.pool
    assert {name: vector.tolist() for name, vector in found.vectors.items()} == {"f1": [1, 0], "f2": [0, 1]}
    assert load_snapshot(tmp_path, "none") is None


def test_the_gap_where_nobody_found_anything():
    assert greatest_gap([], []) == 0
    assert greatest_gap([], [0.5]) == 1


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1), min_size=1))
def test_total_variation_is_a_distance(weights):
    total = sum(weights.values())
    distribution = {name: weight / total for name, weight in weights.items()}
    assert total_variation(distribution, distribution) == 0
    assert total_variation(distribution, {"z": 1.0}) == pytest.approx(1.0)
