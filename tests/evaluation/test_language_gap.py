"""What a foreign language costs: by hand, and with people who are the same in every pool."""

from __future__ import annotations

import numpy as np
import pytest

from skillmatch_ray.config import SampleSettings
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.evaluation.language_gap import language_gap, translated_pool
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.sample.generator import Recipe
from skillmatch_ray.sample.taxonomy import LANGUAGES, builtin_taxonomy


def test_by_hand() -> None:
    """Project 0 (en) finds its one freelancer first in English, second in French; project 1 (fr) the reverse."""
    projects = np.eye(2, dtype=np.float32)
    english = np.array([[1.0, 0.6], [0.0, 0.5]], dtype=np.float32)
    french = np.array([[0.2, 0.0], [0.9, 1.0]], dtype=np.float32)
    relevant = np.array([[True, False], [False, True]])
    found = language_gap(projects, {"en": english, "fr": french}, ["en", "fr"], relevant, seed=0)
    assert (found.own, found.other, found.gap) == (1.0, 0.5, 0.5)
    assert found.interval == (0.5, 0.5)
    assert found.pairs == {"en-en": 1.0, "en-fr": 0.5, "fr-en": 0.5, "fr-fr": 1.0}


def test_the_other_languages_count_alike_and_the_interval_is_of_projects() -> None:
    projects = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    good, bad = np.array([[1.0, 0], [0, 0]], dtype=np.float32), np.array([[0, 0], [1.0, 0]], dtype=np.float32)
    relevant = np.array([[True, False], [True, False]])
    found = language_gap(projects, {"de": good, "en": good, "fr": bad}, ["de", "fr"], relevant, seed=0)
    assert (found.own, found.other) == (0.75, pytest.approx((0.75 + 1.0) / 2))
    assert found.gap == pytest.approx(-0.125)
    assert found.interval == (-0.5, 0.25)  # the gaps of the two projects


def test_who_reads_all_languages_alike_pays_nothing() -> None:
    rng = np.random.default_rng(0)
    projects, people = rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    languages = [LANGUAGES[i % 5] for i in range(30)]
    found = language_gap(projects, dict.fromkeys(LANGUAGES, people), languages, rng.random((30, 50)) < 0.1, seed=0)
    assert (found.gap, found.interval) == (0.0, (0.0, 0.0))
    assert found.own == found.other > 0


def test_all_pools_hold_the_same_people_who_are_right_for_the_same_projects() -> None:
    pool = translated_pool(40, 12, seed=7)
    assert set(pool.freelancers) == set(LANGUAGES)
    assert len({tuple(one.id for one in people) for people in pool.freelancers.values()}) == 1
    assert pool.relevant.shape == (12, 40)
    assert pool.relevant.any(axis=1).all(), "each has an anchor"
    assert {project.language for project in pool.projects} > {"en"}
    skills = {
        label: skill
        for skill, labels in builtin_taxonomy().skills.items()
        for names in labels.values()
        for label in names
    }
    for row, project in zip(pool.relevant, pool.projects, strict=True):
        asked = {skills[label] for label in project.skills if label in skills}
        assert asked, "skills are named in the words of the taxonomy"
        right = pool.freelancers["de"][int(np.flatnonzero(row)[0])]
        assert right.language == "de"


def test_a_dataset_of_the_same_seed_has_these_people_and_calls_the_same_ones_relevant() -> None:
    """Each freelancer stands in the dataset in one language: as in the pool of that language."""
    pool = translated_pool(40, 12, seed=7)
    recipe = Recipe(SampleSettings(freelancers=40, projects=12, judge="all"), 7)
    for place, row in enumerate(recipe.freelancer_rows(range(40))):
        assert pool.freelancers[row["language"]][place] == Freelancer.model_validate(row)
    graded = {(row["project_id"], row["freelancer_id"]): row["grade"] for row in recipe.judgement_rows(range(40))}
    for project, relevant in zip(pool.projects, pool.relevant, strict=True):
        for freelancer, right in zip(pool.freelancers["en"], relevant, strict=True):
            assert right == (graded.get((project.id, freelancer.id), 0) >= RELEVANT_GRADE)
