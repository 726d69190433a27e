"""Batches of relations: coverage, hardness, determinism."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from skillmatch_ray.config import TrainingSettings
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.relations import Relations
from skillmatch_ray.training.sampler import RelationSampler


def sampler(projects=40, per_step=8, groups=2, seed=0, **settings):
    signs = {f"p{j}": {f"f{j}a": 1, f"f{j}b": 1, f"f{j}c": -1, "common": 1 if j % 2 else -1} for j in range(projects)}
    categories = {f"p{j}": f"c{j % 5}" for j in range(projects)}
    people = {f: f"c{int(f[1:-1]) % 5}" for known in signs.values() for f in known if f != "common"}
    training = TrainingSettings(projects_per_step=per_step, groups_per_step=groups, **settings)
    return RelationSampler(Relations(signs), categories, people, training, seed)


def test_an_epoch_draws_every_project_once():
    drawn = sampler()
    for epoch in range(3):
        steps = range(epoch * drawn.steps_per_epoch, (epoch + 1) * drawn.steps_per_epoch)
        counts = Counter(p for step in steps for p in drawn.batch(step).project_ids)
        assert counts == Counter(drawn.projects)


def test_a_batch_comes_from_few_categories():
    drawn = sampler()
    for step in range(2 * drawn.steps_per_epoch):
        batch = drawn.batch(step)
        assert len({drawn.project_categories[p] for p in batch.project_ids}) <= 2
        assert len(batch.project_ids) <= 8


def test_any_step_can_be_asked_for_in_any_order():
    one, other = sampler(), sampler()
    forward = [one.batch(step) for step in range(12)]
    backward = [other.batch(step) for step in reversed(range(12))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.project_ids == b.project_ids
        assert a.freelancer_ids == b.freelancer_ids
        np.testing.assert_array_equal(a.signs, b.signs)


def test_epochs_and_seeds_differ():
    drawn = sampler()
    first, second = drawn.batch(0), drawn.batch(drawn.steps_per_epoch)
    assert set(first.project_ids) != set(second.project_ids)
    assert sampler(seed=1).batch(0).project_ids != first.project_ids


def test_freelancers_are_unique_and_relations_are_extracted_for_all_pairs():
    drawn = sampler(positives_per_project=2, negatives_per_project=2)
    for step in range(drawn.steps_per_epoch):
        batch = drawn.batch(step)
        assert len(set(batch.freelancer_ids)) == len(batch.freelancer_ids)
        expected = drawn.relations.matrix(batch.project_ids, batch.freelancer_ids)
        np.testing.assert_array_equal(batch.signs, expected)
        assert (batch.signs > 0).any(axis=1).all()
        assert not (batch.weak & (batch.signs != 0)).any()


def test_weak_negatives_are_unknown_pairs_of_other_categories():
    drawn = sampler()
    batch = drawn.batch(0)
    for i, project in enumerate(batch.project_ids):
        for j, freelancer in enumerate(batch.freelancer_ids):
            category = drawn.freelancer_categories.get(freelancer)
            differs = category is not None and category != drawn.project_categories[project]
            assert batch.weak[i, j] == (differs and batch.signs[i, j] == 0)


def test_a_history_without_positives_is_refused():
    with pytest.raises(DatasetError, match="selected or accepted"):
        RelationSampler(Relations({"p": {"f": -1}}), {"p": None}, {}, TrainingSettings(), 0)
