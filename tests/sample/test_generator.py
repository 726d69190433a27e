"""The sample: valid, deterministic, honest about who has the skills, hard in the intended ways."""

from __future__ import annotations

import random
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from skillmatch_ray.config import SampleSettings
from skillmatch_ray.dataset import QRELS, TABLES, Dataset, TableReport
from skillmatch_ray.documents import Document
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import read_json
from skillmatch_ray.sample import generator, texts, world
from skillmatch_ray.sample.generator import Recipe, write_part, write_sample
from skillmatch_ray.sample.taxonomy import LANGUAGES

Content = Callable[[Path], dict[str, bytes]]
SMALL = SampleSettings(freelancers=300, projects=90)


def test_every_row_is_valid(sample: Dataset, recipe: Recipe) -> None:
    counts = read_json(sample.root / "sample.json")["counts"]
    for kind in TABLES:
        report = TableReport(kind.name)
        list(sample.read(kind, report))
        assert report.bad == 0, report.reasons
        assert report.rows == counts[kind.name]
    assert counts["freelancers"] == recipe.settings.freelancers
    assert counts["projects"] == recipe.settings.projects


def test_same_seed_same_bytes(tmp_path: Path, content: Content) -> None:
    write_sample(tmp_path / "a", SMALL, 3)
    write_sample(tmp_path / "b", SMALL, 3)
    write_sample(tmp_path / "c", SMALL, 4)
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b")
    other = content(tmp_path / "c")
    assert all(first[name] != other[name] for name in first)


def test_parts_do_not_depend_on_order_or_company(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part written by a world of its own, last one first, is what one world writes in order."""
    monkeypatch.setattr(generator, "PART_ROWS", 64)
    write_sample(tmp_path / "whole", SMALL, 3)
    (tmp_path / "apart").mkdir()
    for part in reversed(generator._parts(SMALL)):
        write_part(Recipe(SMALL, 3), tmp_path / "apart", part)
    whole = content(tmp_path / "whole")
    del whole["sample.json"]
    assert len(whole) == 2 * 5 + 2 * 2
    assert content(tmp_path / "apart") == whole


@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_ray_writes_the_same_bytes(tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "PART_ROWS", 64)
    here = write_sample(tmp_path / "here", SMALL, 3)
    monkeypatch.setattr(generator, "STREAM_FROM", 1)
    assert write_sample(tmp_path / "ray", SMALL, 3) == here
    assert content(tmp_path / "ray") == content(tmp_path / "here")


def test_memory_does_not_grow_with_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people and their rows hold after each part; taxonomy and libraries are not counted."""
    monkeypatch.setattr(generator, "PART_ROWS", 128)
    monkeypatch.setattr(world, "PEOPLE_KEPT", 256)
    recipe = Recipe(SampleSettings(freelancers=128 * 12, projects=20), 0)
    makers = [tracemalloc.Filter(inclusive=True, filename_pattern=m.__file__ or "") for m in (world, texts)]
    held = []
    recipe.world.person(0)
    tracemalloc.start()
    for part in generator._parts(recipe.settings)[:12]:
        assert part.table == "freelancers"
        write_part(recipe, tmp_path, part)
        if part.number in {2, 3, 11}:
            taken = tracemalloc.take_snapshot().filter_traces(makers)
            held.append(sum(trace.size for trace in taken.traces))
    tracemalloc.stop()
    assert held[2] < 1.2 * max(held[:2])


def test_grades_agree_with_an_oracle(sample: Dataset, recipe: Recipe) -> None:
    """Every pair graded again from its skills alone; pairs that qrels leave out have grade 0."""
    found = {(j.project_id, j.freelancer_id): j.grade for j in sample.read(QRELS)}
    people = [recipe.world.person(i) for i in range(recipe.settings.freelancers)]
    expected = {}
    for index in range(recipe.settings.projects):
        brief = recipe.world.brief(index)
        trades = {brief.occupation.id, *brief.occupation.related}
        for person in people:
            lacking = set(brief.must) - set(person.skills)
            if not lacking:
                welcome = len(set(brief.nice) & set(person.skills)) / len(brief.nice)
                expected[brief.id, person.id] = 3 if welcome >= 0.5 else 2
            elif len(lacking) < len(brief.must) and person.occupation.id in trades:
                expected[brief.id, person.id] = 1
    assert found == expected


def test_projects_have_answers_and_near_misses(sample: Dataset, recipe: Recipe) -> None:
    relevant: dict[str, int] = defaultdict(int)
    near = 0
    for judgement in sample.read(QRELS):
        relevant[judgement.project_id] += judgement.grade >= 2
        near += judgement.grade == 1
    count = recipe.settings.projects
    assert sum(n > 0 for n in relevant.values()) == count
    assert 3 <= sum(relevant.values()) / count <= 10
    assert near / count >= 5


def test_only_held_out_projects_are_judged_by_default(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", SMALL, 3)
    named = read_json(tmp_path / "sample" / "sample.json")["held_out_projects"]
    judged = {judgement.project_id for judgement in Dataset(tmp_path / "sample").read(QRELS)}
    assert judged == {*named["later"], *named["occupations"]}


def test_documents_tell_all_skills_and_claim_no_others(sample: Dataset, recipe: Recipe) -> None:
    labels = recipe.world.taxonomy.skills
    for index, freelancer in enumerate(sample.freelancers()):
        known = recipe.world.person(index).skills
        _check_claims(freelancer, known, labels)
        text = _text(freelancer)
        for skill in known:
            assert any(label.lower() in text for label in labels[skill][freelancer.language or ""]), skill
        names = {label for skill in known for label in labels[skill][freelancer.language or ""]}
        assert all(label in names for experience in freelancer.experiences for label in experience.skills)
    for index, project in enumerate(sample.projects()):
        brief = recipe.world.brief(index)
        _check_claims(project, (*brief.must, *brief.nice), labels)
        for skill in (*brief.must, *brief.nice):
            assert any(label.lower() in _text(project) for label in labels[skill][project.language or ""]), skill


def _check_claims(document: Document, skills: tuple[str, ...], labels: object) -> None:
    names = {label for skill in skills for label in labels[skill][document.language]}  # type: ignore[index]
    assert set(document.skills) <= names
    assert len(document.skills) < len(skills) or len(set(document.skills)) == len(document.skills)


def _text(document: Document) -> str:
    return "\n".join(section.text for section in document.sections()).lower()


def test_a_quarter_of_the_titles_tell_nothing(sample: Dataset, recipe: Recipe) -> None:
    """And nothing else in those documents names the trade: the skills must carry the match."""
    titles = {
        language: {title.lower() for o in recipe.world.taxonomy.occupations for title in o.titles[language]}
        for language in LANGUAGES
    }
    hidden = 0
    for index, freelancer in enumerate(sample.freelancers()):
        occupation = recipe.world.person(index).occupation
        language = freelancer.language or ""
        trades = (occupation, *(recipe.world.occupation(other) for other in occupation.related))
        spoken = [title.lower() for trade in trades for title in trade.titles[language]]
        if not any(title in freelancer.headline.lower() for title in spoken):
            hidden += 1
            assert not {e.title.lower() for e in freelancer.experiences if e.title} & titles[language]
    assert 0.18 < hidden / recipe.settings.freelancers < 0.32


def test_part_of_the_skills_is_told_in_prose_only(sample: Dataset, recipe: Recipe) -> None:
    listed = sum(len(project.skills) for project in sample.projects())
    briefs = [recipe.world.brief(i) for i in range(recipe.settings.projects)]
    wanted = sum(len(brief.must) + len(brief.nice) for brief in briefs)
    assert 0.5 < listed / wanted < 0.7


def test_every_bio_holds_a_sentence_of_another_category(sample: Dataset, recipe: Recipe) -> None:
    tasks: dict[str, dict[str, set[str]]] = {language: defaultdict(set) for language in LANGUAGES}
    for occupation in recipe.world.taxonomy.occupations:
        for language in LANGUAGES:
            tasks[language][occupation.category].update(task.lower() for task in occupation.tasks[language])
    for freelancer in random.Random(0).sample(sample.freelancers(), 100):
        bio = (freelancer.description or "").lower()
        others = (told for c, told in tasks[freelancer.language or ""].items() if c != freelancer.job_category)
        assert any(task in bio for told in others for task in told), bio


def test_languages_are_mixed(sample: Dataset) -> None:
    languages = {d.id: d.language for d in (*sample.freelancers(), *sample.projects())}
    for language in LANGUAGES:
        assert 0.12 < sum(x == language for x in languages.values()) / len(languages) < 0.28
    pairs = [(languages[j.project_id], languages[j.freelancer_id]) for j in sample.read(QRELS) if j.grade >= 2]
    assert sum(p != f for p, f in pairs) > 0.7 * len(pairs)


def test_outcomes_contradict_the_skills_as_often_as_told() -> None:
    for noise in (0.0, 0.2):
        recipe = Recipe(SampleSettings(freelancers=400, projects=300, label_noise=noise), 2)
        wrong = signed = 0
        for brief in map(recipe.world.brief, range(300)):
            for person, outcome, moment in recipe.world.contacts(brief):
                assert moment > brief.created_at
                if outcome.sign:
                    signed += 1
                    wrong += (outcome.sign > 0) != (set(brief.must) <= set(person.skills))
        assert signed > 1000
        assert abs(wrong / signed - noise) < (0.05 if noise else 1e-9)


def test_held_out_occupations_never_reach_training(sample: Dataset, recipe: Recipe) -> None:
    said = read_json(sample.root / "sample.json")
    held_out = set(said["held_out_occupations"])
    later, cold = (set(said["held_out_projects"][name]) for name in ("later", "occupations"))
    assert held_out
    assert later
    assert cold
    assert not later & cold
    trade = {p.id: p.occupation.id for p in map(recipe.world.person, range(recipe.settings.freelancers))}
    training = [i for i in sample.interactions() if i.project_id not in later | cold]
    assert len(training) > 1000
    assert not [i for i in training if trade[i.freelancer_id] in held_out]
    for brief in map(recipe.world.brief, range(recipe.settings.projects)):
        assert (brief.occupation.id in held_out) == (brief.id in cold)
    created = {p.id: p.created_at for p in sample.projects()}
    first_cold = min(created[p] for p in cold)  # type: ignore[type-var]
    assert first_cold >= world.FIRST_DAY + world.COLD_START * world.PERIOD  # type: ignore[operator]
    assert abs(len(held_out) / (recipe.settings.freelancers // world.COLLEAGUES) - 0.12) < 0.03


def test_created_later_comes_later(sample: Dataset) -> None:
    moments = [project.created_at for project in sample.projects()]
    assert moments == sorted(moments)  # type: ignore[type-var]


def test_places_are_real(sample: Dataset) -> None:
    by_city = {f.city: (f.country, f.latitude, f.longitude) for f in sample.freelancers()}
    assert len(by_city) > 40
    assert len({country for country, _, _ in by_city.values()}) > 8
    assert all(35 < (latitude or 0) < 60 and -10 < (longitude or 0) < 25 for _, latitude, longitude in by_city.values())


@pytest.mark.parametrize(("freelancers", "projects"), [(1, 1), (2, 3), (17, 5)])
def test_tiny_samples_are_valid(tmp_path: Path, freelancers: int, projects: int) -> None:
    counts = write_sample(tmp_path / "sample", SampleSettings(freelancers=freelancers, projects=projects), 1)
    dataset = Dataset(tmp_path / "sample")
    assert (counts["freelancers"], counts["projects"]) == (freelancers, projects)
    assert len(dataset.freelancers()) == freelancers
    assert len(dataset.projects()) == projects


def test_only_samples_are_replaced(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", SampleSettings(freelancers=5, projects=2), 1)
    write_sample(tmp_path / "sample", SampleSettings(freelancers=7, projects=2), 1)
    assert len(Dataset(tmp_path / "sample").freelancers()) == 7
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "freelancers.jsonl").write_text("{}\n")
    with pytest.raises(DatasetError, match="not a sample"):
        write_sample(tmp_path / "mine", SMALL, 1)
    assert (tmp_path / "mine" / "freelancers.jsonl").read_text() == "{}\n"
