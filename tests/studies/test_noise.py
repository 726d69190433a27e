"""Noise is decided by its seed, grows with its strength, and strikes nothing else."""

from __future__ import annotations

import difflib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmatch_ray.studies.measure import ranked
from skillmatch_ray.studies.noise import (
    BRIEFS,
    STUDY,
    STUFFED_SKILLS,
    Noise,
    draws_of,
    measure,
    misspell,
    stuffers_of,
)
from skillmatch_ray.studies.study import Variant

STRENGTHS = (0.0, 0.2, 0.5, 0.8, 1.0)
KINDS = (*BRIEFS, "stuffing")


def units(material):
    """Every text that noise may strike: (document, field, position) -> text."""
    found = {}
    for document in (*material.projects, *material.freelancers):
        found[document.id, "title", 0] = getattr(document, "title", None) or getattr(document, "headline", None)
        found[document.id, "description", 0] = document.description
        found |= {(document.id, "skills", i): skill for i, skill in enumerate(document.skills)}
    return found


def struck(clean, noisy):
    """Units that differ, lost and added ones included."""
    before, after = units(clean), units(noisy)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_struck_stays_struck_at_every_greater_strength(kind, tiny_material):
    before = set()
    for strength in STRENGTHS:
        now = struck(tiny_material, Noise(kind, strength)(tiny_material, seed=3))
        assert before <= now
        before = now
    assert not struck(tiny_material, Noise(kind, 0.0)(tiny_material, seed=3))
    assert before


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_strike_alike_and_others_do_not(kind, tiny_material):
    first, again, other = (units(Noise(kind, 0.5)(tiny_material, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", BRIEFS)
def test_briefs_are_struck_and_what_was_learned_from_and_judged_is_not(kind, tiny_material):
    noisy = Noise(kind, 1.0)(tiny_material, seed=0)
    assert noisy.freelancers is tiny_material.freelancers
    assert noisy.history is tiny_material.history
    assert noisy.judged is tiny_material.judged
    assert [project.id for project in noisy.projects] == [project.id for project in tiny_material.projects]


def test_no_noise_is_the_material_itself(tiny_material):
    assert Noise("none", 0.0)(tiny_material, 0) is tiny_material


def test_stuffing_adds_skills_of_others_to_a_twentieth(tiny_material):
    noisy = Noise("stuffing", 0.5)(tiny_material, seed=0)
    stuffers = stuffers_of(tiny_material, 0)
    assert len(stuffers) == 3  # of 60
    for before, after in zip(tiny_material.freelancers, noisy.freelancers, strict=True):
        added = len(after.skills) - len(before.skills)
        assert added == (STUFFED_SKILLS // 2 if before.id in stuffers else 0)
        assert after.skills[: len(before.skills)] == before.skills


def test_full_strength_vague_titles_name_no_trade_and_wrong_ones_come_from_another_category(tiny_material):
    vague = Noise("vague-titles", 1.0)(tiny_material, seed=0)
    wrong = Noise("wrong-titles", 1.0)(tiny_material, seed=0)
    categories = {}
    for project in tiny_material.projects:
        categories.setdefault(project.title, set()).add(project.job_category)
    for before, unclear, misleading in zip(tiny_material.projects, vague.projects, wrong.projects, strict=True):
        assert unclear.title != before.title or categories[before.title]
        assert categories[misleading.title] != {before.job_category}


def test_mixing_changes_names_of_skills_into_other_languages_only(tiny_material):
    """Skill labels of the sample come from the taxonomy, so at full strength most of them change."""
    mixed = Noise("mixed-languages", 1.0)(tiny_material, seed=0)
    pairs = [
        (a, b)
        for before, after in zip(tiny_material.projects, mixed.projects, strict=True)
        for a, b in zip(before.skills, after.skills, strict=True)
    ]
    assert np.mean([a != b for a, b in pairs]) > 0.6  # some names are the same in several languages


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.floats(0, 1), st.integers(0, 99))
def test_a_slip_changes_a_word_by_at_most_two_letters(text, strength, seed):
    noisy = misspell(text, strength, draws_of(seed, "x"))
    assert abs(len(noisy) - len(text)) <= len(text) / 4
    before, after = text.split(" "), noisy.split(" ")
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        if len(a) < 4:
            assert a == b
        edits = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        touched = sum(max(end - start, to - at) for tag, start, end, at, to in edits if tag != "equal")
        assert touched <= 2 * max(1, len(a) // 4)


def test_short_words_and_numbers_are_left_alone():
    assert misspell("SEO and C++ in 2024 2024 12345", 1.0, draws_of(0, "x")) == "SEO and C++ in 2024 2024 12345"


def test_the_study_measures_stuffers_among_the_best(tiny_places, tiny_config):
    runs = {}
    for name in ("clean", "stuffing-100"):
        variant = STUDY.by_name[name]
        runs[name] = measure(STUDY, variant, tiny_config, 0, tiny_places)
        best = ranked(variant, tiny_config, 0, tiny_places, top=10)
        stuffers = stuffers_of(best.material, 0)
        expected = [np.mean([best.material.freelancers[p].id in stuffers for p in r.top]) for r in best.ranks]
        assert runs[name].values["stuffers@10"] == pytest.approx(expected, abs=1e-6)


def test_a_pool_that_is_kept_gives_the_figures_of_one_encoded_anew(tiny_places, tiny_config):
    kept = ranked(STUDY.by_name["clean"], tiny_config, 0, tiny_places)
    changed = Variant("anew", "anew", towers="model", change=Noise("stuffing", 0.0))
    anew = ranked(changed, tiny_config, 0, tiny_places)
    assert anew.material.freelancers is not kept.material.freelancers
    for a, b in zip(kept.ranks, anew.ranks, strict=True):
        assert (a.overall == b.overall).all()
