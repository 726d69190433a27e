"""What the variants of the other studies change, and what they must leave."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from skillmatch_ray.config import changed
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import SECTION_TYPES
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.alignment import pair_alignments
from skillmatch_ray.evaluation.language_gap import translated_pool
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.studies.backbone import FewDocuments, alignment, spread
from skillmatch_ray.studies.cold_start import LEFT_OUT, LeaveOut, left_out_categories
from skillmatch_ray.studies.contrasts import compare_groups
from skillmatch_ray.studies.glossary import LinkConcepts
from skillmatch_ray.studies.label_noise import FlipOutcomes
from skillmatch_ray.studies.measure import encoder_of, material_of, train_and_rank
from skillmatch_ray.studies.scale import GrowPool, fit_line, time_scan
from skillmatch_ray.studies.sections import STUDY as SECTIONS
from skillmatch_ray.studies.sections import AddSection, extra_text
from skillmatch_ray.studies.study import Variant

EMPTY = {"skills": (), "description": None}


def pairs(material):
    return {(p, f): sign for p, known in material.history.relations.signs.items() for f, sign in known.items()}


def test_flipped_outcomes_are_nested_and_near_their_share(tiny_material):
    before, flipped = pairs(tiny_material), {}
    for share in (0.0, 0.2, 0.5, 1.0):
        after = pairs(FlipOutcomes(share)(tiny_material, seed=4))
        assert after.keys() == before.keys()
        flipped[share] = {key for key in before if after[key] == -before[key]}
        assert {key for key in before if after[key] != before[key]} == flipped[share]
    assert flipped[0.0] < flipped[0.2] < flipped[0.5] < flipped[1.0] == set(before)
    spread = math.sqrt(0.25 / len(before))
    assert len(flipped[0.5]) / len(before) == pytest.approx(0.5, abs=4 * spread)


def test_flipping_leaves_what_is_judged(tiny_material):
    noisy = FlipOutcomes(0.5)(tiny_material, seed=4)
    assert noisy.judged is tiny_material.judged
    assert noisy.projects is tiny_material.projects


def test_left_out_categories_are_nowhere_in_training_but_judged(tiny_material):
    left_out = left_out_categories(tiny_material)
    unseen = LeaveOut(unseen=True)(tiny_material, seed=0)
    assert left_out
    trained = [unseen.history.projects[p] for p in unseen.history.split.train]
    assert trained
    assert not {p.job_category for p in trained} & left_out
    related = {f for p in unseen.history.split.train for f in unseen.history.relations.signs.get(p, {})}
    assert not {unseen.history.freelancers[f].job_category for f in related} & left_out
    assert unseen.subsets[LEFT_OUT] == {p.id for p in tiny_material.projects if p.job_category in left_out}


def test_the_control_trains_on_as_many_projects_and_keeps_the_categories(tiny_material):
    unseen, seen = (LeaveOut(unseen=flag)(tiny_material, seed=0) for flag in (True, False))
    assert len(seen.history.split.train) == len(unseen.history.split.train)
    kept = {tiny_material.history.projects[p].job_category for p in seen.history.split.train}
    assert left_out_categories(tiny_material) <= kept
    assert seen.subsets == unseen.subsets


@pytest.mark.parametrize("section_type", ["category", "place", "languages", "roles"])
def test_a_new_section_comes_last_and_changes_no_other(section_type, tiny_material):
    extended = AddSection(section_type)(tiny_material, seed=0)
    documents = zip(
        [*tiny_material.projects, *tiny_material.freelancers, *tiny_material.history.projects.values()],
        [*extended.projects, *extended.freelancers, *extended.history.projects.values()],
        strict=True,
    )
    added = 0
    for before, after in documents:
        usual, now = before.sections(), after.sections()
        assert now[: len(usual)] == usual
        assert [s.type for s in now[len(usual) :]] == [section_type] * (len(now) - len(usual))
        assert bool(extra_text(section_type, before)) == (len(now) == len(usual) + 1)
        assert (before.id, before.language, before.job_category) == (after.id, after.language, after.job_category)
        added += len(now) - len(usual)
    assert added


def test_a_whole_glossary_tells_more_than_half_of_it(tiny_material):
    whole, half = (LinkConcepts(share)(tiny_material, seed=0) for share in (1.0, 0.5))
    assert half == LinkConcepts(0.5)(tiny_material, seed=0) != LinkConcepts(0.5)(tiny_material, seed=1)
    told = 0
    for before, some, more in zip(tiny_material.freelancers, half.freelancers, whole.freelancers, strict=True):
        assert (before.id, before.concepts) == (some.id, ())
        told += len(some.concepts) < len(more.concepts)
    assert told > len(tiny_material.freelancers) / 2
    assert all(project.concepts for project in whole.history.projects.values())


def test_concepts_are_looked_for_after_a_change(tiny_places, tiny_config):
    """A brief whose skills were taken away names fewer of them: what stood there before must not be told."""
    config = changed(tiny_config, {"glossary": ["builtin"]})
    silent = Variant("s", "s", change=lambda material, _: material.with_projects(lambda p: p.model_copy(update=EMPTY)))
    plain, quiet = (material_of(variant, config, 0, tiny_places) for variant in (Variant("p", "p"), silent))
    assert all(project.concepts for project in plain.projects)
    assert sum(len(project.concepts) for project in quiet.projects) < sum(len(p.concepts) for p in plain.projects) / 2
    assert quiet.freelancers == plain.freelancers
    assert all(freelancer.concepts for freelancer in quiet.history.freelancers.values())


def test_an_unknown_section_type_is_told(tiny_material):
    with pytest.raises(ValueError, match="'hobby'"):
        extra_text("hobby", tiny_material.projects[0])


def test_variants_without_a_section_read_the_others_in_their_order():
    for variant in SECTIONS.variants:
        types = variant.overrides.get("model", {}).get("section_types", list(SECTION_TYPES))
        assert [name for name in types if name in SECTION_TYPES] == [name for name in SECTION_TYPES if name in types]
    assert SECTIONS.by_name["no-title"].overrides["model"]["section_types"] == list(SECTION_TYPES[2:])


def test_a_new_section_is_computed_once_and_read_by_the_towers(tiny_places, tiny_config):
    variant = SECTIONS.by_name["new-category"]
    config = changed(tiny_config, variant.overrides)
    with_category = train_and_rank(SECTIONS, variant, config, 0, tiny_places)
    parts = sorted(tiny_places.store.iterdir())
    assert train_and_rank(SECTIONS, variant, config, 0, tiny_places).values == with_category.values
    assert sorted(tiny_places.store.iterdir()) == parts
    without = train_and_rank(SECTIONS, replace(variant, change=None), config, 0, tiny_places)
    assert without.values != with_category.values


def test_a_smaller_dataset_keeps_grades_and_everybody_judged(tiny_material):
    few = FewDocuments(training=10, judged=4, pool=30)(tiny_material, 0)
    assert (len(few.projects), len(few.history.split.train)) == (4, 10)
    place = {project.id: q for q, project in enumerate(tiny_material.projects)}
    for project, one in zip(few.projects, few.judged, strict=True):
        before = tiny_material.judged[place[project.id]]
        ids = [few.freelancers[p].id for p in one.places]
        assert ids == [tiny_material.freelancers[p].id for p in before.places]
        assert (one.grades == before.grades).all()
    assert len(few.freelancers) == max(30, len({p for one in few.judged for p in one.places}))
    assert few.history.split.train < tiny_material.history.split.train


def test_the_backbones_study_looks_for_translations_with_the_variants_own_encoder(
    tiny_places, tiny_config, tiny_material, tiny_backbone, monkeypatch
):
    """The workspace's model, from cached states, against the same model read from its directory."""
    monkeypatch.setattr("skillmatch_ray.studies.backbone.TRANSLATED", 6)
    variant = Variant("m", "m", towers="model")
    found = alignment(encoder_of(variant, tiny_config, tiny_material, tiny_places))
    matcher = load_matcher(tiny_places.model, backbone=tiny_backbone)
    written = translated_pool(6, 1, 1000).freelancers
    vectors = {language: matcher.encode_freelancers(people) for language, people in written.items()}
    expected = pair_alignments(vectors)
    assert {pair.removeprefix("translation rank ") for pair in found} == set(expected)
    assert len({*found.values()}) > 1
    for pair, values in expected.items():  # the store holds half precision: a close rank may fall the other way
        assert found["translation rank " + pair] == pytest.approx(values.mean_rank, abs=1 / 6 + 1e-3)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_items_at_even_distances(count, expected):
    assert spread(range(10), count) == expected


def test_pools_grow_at_their_end_and_all_who_suit_are_judged(tiny_material):
    small, large = (GrowPool(size, largest=120)(tiny_material, 0) for size in (60, 120))
    assert [f.id for f in small.freelancers] == [f.id for f in large.freelancers[:60]]
    assert [p.id for p in small.projects] == [p.id for p in large.projects]
    for few, many in zip(small.judged, large.judged, strict=True):
        inside = many.places < 60
        assert (many.places[inside] == few.places).all()
        assert (many.grades[inside] == few.grades).all()
    assert any((one.grades >= RELEVANT_GRADE).any() for one in small.judged)


def test_a_world_of_the_datasets_own_size_is_the_dataset(tiny_material):
    grown = GrowPool(60, largest=60)(tiny_material, 0)
    assert [f.row_hash() for f in grown.freelancers] == [f.row_hash() for f in tiny_material.freelancers]
    assert [p.row_hash() for p in grown.projects] == [p.row_hash() for p in tiny_material.projects]
    for ours, theirs in zip(grown.judged, tiny_material.judged, strict=True):
        assert (ours.places == theirs.places).all()
        assert (ours.grades == theirs.grades).all()


def test_only_a_sample_can_grow(tiny_material, tmp_path):
    with pytest.raises(DatasetError, match="generated sample"):
        GrowPool(10)(replace(tiny_material, dataset=Dataset(tmp_path)), 0)


def test_a_line_by_hand():
    """y = 2x + 1 but for the last point, 2 too high. Through the first three the line is exact, so it misses by 2."""
    fit = fit_line([0, 1, 2, 3], [1, 3, 5, 9])
    assert fit.missed == pytest.approx(2)
    assert (fit.slope, fit.intercept) == pytest.approx((2.6, 0.6))  # least squares over all four
    assert fit.r2 == pytest.approx(1 - 1.2 / 35)
    with pytest.raises(ValueError, match="2 points"):
        fit_line([1, 2], [1, 2])


def test_a_scan_is_timed_unless_memory_is_short(monkeypatch):
    assert time_scan(500, seed=0)["p50_ms"] > 0
    monkeypatch.setattr("skillmatch_ray.studies.scale.MEMORY_SHARE", 0)
    assert time_scan(500, seed=0) == {}


def test_groups_of_different_projects_are_compared_unpaired():
    """Means 1 and 0, each group with spread 1 and 100 projects: standard error sqrt(2 / 100) = 0.141."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 100))
    first, second = (first - first.mean()) / first.std() + 1, (second - second.mean()) / second.std()
    found = compare_groups(first, second, seed=0)
    assert found.mean == pytest.approx(1)
    assert found.interval == pytest.approx((1 - 1.96 * 0.141, 1 + 1.96 * 0.141), abs=0.03)


def test_a_variant_without_a_change_reads_the_dataset(tiny_places, tiny_config, tiny_material):
    plain = material_of(Variant("a", "a"), tiny_config, 0, tiny_places)
    assert [p.id for p in plain.projects] == [p.id for p in tiny_material.projects]
    assert len(plain.freelancers) == 60
