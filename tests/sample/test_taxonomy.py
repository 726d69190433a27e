"""The built-in taxonomy, the checks on any taxonomy, and the Parquet form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from taxonomy_form import write_taxonomy

from skillmatch_ray.config import SampleSettings
from skillmatch_ray.dataset import QRELS, Dataset
from skillmatch_ray.sample.generator import Recipe, write_sample
from skillmatch_ray.sample.parquet_taxonomy import MIN_CORE_SKILLS, read_taxonomy, split_label
from skillmatch_ray.sample.taxonomy import (
    BUILTIN_DIRECTORY,
    LANGUAGES,
    Taxonomy,
    TaxonomyError,
    builtin_taxonomy,
    taxonomy_from_yaml,
)

ESCO = Path(__file__).parents[3] / "shared" / "esco"


def test_builtin_counts() -> None:
    taxonomy = builtin_taxonomy()
    assert len(taxonomy.occupations) >= 150
    assert len(taxonomy.categories) >= 15
    assert len(taxonomy.skills) >= 1500


def test_builtin_labels_are_whole() -> None:
    taxonomy = builtin_taxonomy()
    named = [*taxonomy.skills.values(), *(o.titles for o in taxonomy.occupations)]
    assert all(all(labels[language]) and labels[language] for labels in named for language in LANGUAGES)
    assert all(len(o.tasks[language]) >= 3 for o in taxonomy.occupations for language in LANGUAGES)
    several = sum(len(labels[language]) > 1 for labels in taxonomy.skills.values() for language in LANGUAGES)
    assert several > 0.7 * len(LANGUAGES) * len(taxonomy.skills)


def test_builtin_occupations_are_confusable() -> None:
    """Every occupation shares core skills with another one."""
    for occupation in builtin_taxonomy().occupations:
        others = [o for o in builtin_taxonomy().occupations if o.id != occupation.id]
        assert any(set(occupation.skills) & set(other.skills + other.optional) for other in others), occupation.id


def _write_yaml(directory: Path, name: str, **changes: object) -> Path:
    source = min(BUILTIN_DIRECTORY.glob("*.yaml"))
    content = {**yaml.safe_load(source.read_text(encoding="utf-8")), **changes}
    path = directory / name
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def test_same_skill_in_two_files_is_one(tmp_path: Path) -> None:
    first = _write_yaml(tmp_path, "a.yaml")
    content = yaml.safe_load(first.read_text(encoding="utf-8"))
    skill = next(iter(content["skills"]))
    labels = {language: [f"another {language}"] for language in LANGUAGES}
    category = {"id": "second", "label": dict.fromkeys(LANGUAGES, "Second")}
    second = _write_yaml(tmp_path, "b.yaml", category=category, skills={skill: labels}, occupations=[])
    merged = taxonomy_from_yaml([first, second], "test")
    assert merged.skills[skill]["nl"] == (*content["skills"][skill]["nl"], "another nl")
    assert len(merged.skills) == len(content["skills"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skills": {}}, "unknown skill"),
        ({"occupations": [{"id": "x"}]}, "is not of the form"),
        ({"category": None}, "is not of the form"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TaxonomyError, match=message):
        taxonomy_from_yaml([_write_yaml(tmp_path, "broken.yaml", **changes)], "test")


def test_problems_name_the_entry() -> None:
    taxonomy = builtin_taxonomy()
    first = taxonomy.occupations[0]
    changed = replace(first, related=("nowhere",), category="none", titles={**first.titles, "nl": ()})
    broken = replace(taxonomy, occupations=(changed, *taxonomy.occupations[1:], taxonomy.occupations[1]))
    said = "\n".join(broken.problems())
    for part in ("'nowhere'", "'none'", "no label in 'nl'", "stands there twice", first.id):
        assert part in said


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Technischer Leiter für Bühne/Technische Leiterin für Bühne",
         ("Technischer Leiter für Bühne", "Technische Leiterin für Bühne")),
        ("acteur/actrice", ("acteur", "actrice")),
        ("gastheer/gastvrouw", ("gastheer", "gastvrouw")),
        ("conducteur de bus/conductrice de bus", ("conducteur de bus", "conductrice de bus")),
        ("leraar/lerares lager onderwijs", ("leraar lager onderwijs", "lerares lager onderwijs")),
        ("pirata informático/informática ético/ética", ("pirata informático ético", "pirata informática ética")),
        ("Ausbilder/in im Handwerk", ("Ausbilder im Handwerk", "Ausbilderin im Handwerk")),
        ("Im-/Exportleiter für Fleisch/Im-/Exportleiterin für Fleisch",
         ("Im-/Exportleiter für Fleisch", "Im-/Exportleiterin für Fleisch")),
        ("Im-/Exportleiter für Fleisch", ("Im-/Exportleiter für Fleisch",)),
        ("CA Datacom/DB", ("CA Datacom/DB",)),
        ("QA/RA officer", ("QA/RA officer",)),
        ("QA/RA-medewerker", ("QA/RA-medewerker",)),
        ("cortar azulejos/baldosas", ("cortar azulejos/baldosas",)),
        ("/vendedora especializada", ("vendedora especializada",)),
        ("a web developer", ("a web developer",)),
        (" / ", ()),
    ],
)  # fmt: skip
def test_split_label(label: str, expected: tuple[str, ...]) -> None:
    assert split_label(label) == expected


def test_parquet_round_trip(tmp_path: Path) -> None:
    taxonomy = _first_categories(builtin_taxonomy(), 3)
    write_taxonomy(taxonomy, tmp_path / "form")
    again = read_taxonomy(tmp_path / "form")
    by_id = {o.id: o for o in again.occupations}
    assert again.categories == taxonomy.categories
    for occupation in taxonomy.occupations:
        found = by_id[occupation.id]
        assert set(found.skills) == set(occupation.skills)
        assert found == occupation
    used = {skill for o in taxonomy.occupations for skill in (*o.skills, *o.optional)}
    assert again.skills == {skill: taxonomy.skills[skill] for skill in used}


def _first_categories(taxonomy: Taxonomy, count: int) -> Taxonomy:
    kept = list(taxonomy.categories)[:count]
    occupations = tuple(o for o in taxonomy.occupations if o.category in kept)
    return Taxonomy("part", {c: taxonomy.categories[c] for c in kept}, taxonomy.skills, occupations)


def test_related_without_statement_share_most_skills(tmp_path: Path) -> None:
    taxonomy = _first_categories(builtin_taxonomy(), 2)
    silent = replace(taxonomy, occupations=tuple(replace(o, related=()) for o in taxonomy.occupations))
    write_taxonomy(silent, tmp_path / "form")
    by_id = {o.id: o for o in read_taxonomy(tmp_path / "form").occupations}
    assert any(o.related for o in by_id.values())
    for occupation in by_id.values():
        shared = {
            other.id: len(set(occupation.skills) & {*other.skills, *other.optional})
            for other in by_id.values()
            if other.id != occupation.id and other.category == occupation.category
        }
        best = max(shared.values())
        assert not best or shared[occupation.related[0]] == best
        assert all(by_id[other].category == occupation.category for other in occupation.related)


def test_missing_parquet_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=r"concepts\.parquet is missing"):
        read_taxonomy(tmp_path)


def test_missing_column_is_named(tmp_path: Path) -> None:
    write_taxonomy(_first_categories(builtin_taxonomy(), 1), tmp_path / "form")
    path = tmp_path / "form" / "relations.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["relation"]), path)
    with pytest.raises(TaxonomyError, match=r"relations\.parquet lacks column 'relation'"):
        read_taxonomy(tmp_path / "form")


@pytest.fixture(scope="module")
def esco() -> Taxonomy:
    if not ESCO.is_dir():
        pytest.skip(f"the ESCO folder {ESCO} is not on this machine")
    return read_taxonomy(ESCO)


def test_esco_is_read(esco: Taxonomy) -> None:
    assert len(esco.occupations) > 1500
    assert all(len(o.skills) >= MIN_CORE_SKILLS for o in esco.occupations)
    assert all(len(category) == 2 and category.isdigit() for category in esco.categories)
    assert all(set(labels) >= set(LANGUAGES) for labels in esco.categories.values())
    slashes = sum("/" in label for o in esco.occupations for labels in o.titles.values() for label in labels)
    assert slashes < 0.01 * sum(len(labels) for o in esco.occupations for labels in o.titles.values())


def test_sample_of_esco(esco: Taxonomy, tmp_path: Path) -> None:
    """A large taxonomy still leaves every trade its colleagues and every project its near misses."""
    settings = SampleSettings(freelancers=400, projects=150, taxonomy=ESCO, judge="all")
    write_sample(tmp_path / "sample", settings, 5)
    dataset = Dataset(tmp_path / "sample")
    qrels = list(dataset.read(QRELS))
    assert len(dataset.freelancers()) == 400
    assert sum(j.grade >= 2 for j in qrels) > 2 * 150
    assert sum(j.grade == 1 for j in qrels) > 4 * 150
    world = Recipe(settings, 5).world
    assert {world.person(i).occupation.id for i in range(400)} <= {o.id for o in esco.occupations}
