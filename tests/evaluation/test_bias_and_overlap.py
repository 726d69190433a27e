"""Language bias, overlaps, cold start: against arithmetic done by hand on a pool whose ranking is dictated."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.evaluation.baselines import FLOORS
from skillmatch_ray.evaluation.bias import language_bias, rank_gap
from skillmatch_ray.evaluation.overlap import overlaps, skills_at
from skillmatch_ray.evaluation.ranking import matrix_scorer, rank_judged
from skillmatch_ray.evaluation.skills import listed_skills, skill_ids, skill_share
from skillmatch_ray.evaluation.summary import figures_of, summarise
from skillmatch_ray.evaluation.task import Labels, read_task


def write(root, **tables):
    root.mkdir(exist_ok=True)
    for name, rows in tables.items():
        (root / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return Dataset(root)


FREELANCERS = [
    {"freelancer_id": "a", "headline": "x", "language": "en", "job_category": "it", "skills": ["React", "Go"]},
    {"freelancer_id": "b", "headline": "x", "language": "fr", "job_category": "it", "skills": ["go"]},
    {"freelancer_id": "c", "headline": "x", "language": "en", "job_category": "law", "skills": []},
    {"freelancer_id": "d", "headline": "x", "experiences": [{"skills": ["REACT", "sql"]}]},
]
PROJECTS = [
    {"project_id": "p", "title": "x", "language": "en", "job_category": "it", "skills": ["react", "go"]},
    {"project_id": "q", "title": "x", "skills": []},
]
QRELS = [
    {"project_id": "p", "freelancer_id": "a", "grade": 3},
    {"project_id": "p", "freelancer_id": "b", "grade": 3},
    {"project_id": "p", "freelancer_id": "d", "grade": 2},
    {"project_id": "q", "freelancer_id": "c", "grade": 2},
]
SCORES = np.array([[0.9, 0.2, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
"""Project p ranks a, d, c, b."""


@pytest.fixture
def task(tmp_path):
    return read_task(write(tmp_path / "d", freelancers=FREELANCERS, projects=PROJECTS, qrels=QRELS))


def rank(task, scores=SCORES):
    return rank_judged(matrix_scorer(scores), task.judged, task.pool.languages.codes, 10)


def test_rank_gap_by_hand():
    """Grade 3: same 1 and 4, other 6: 6 - 2.5. Grade 2: same 2, other 3 and 7: 5 - 2. Grade 1 has no other."""
    ranks = np.array([1.0, 4, 6, 2, 3, 7, 9])
    grades = np.array([3, 3, 3, 2, 2, 2, 1])
    same = np.array([True, True, False, True, False, False, True])
    assert rank_gap(ranks, grades, same) == pytest.approx((3.5 + 3) / 2)
    assert rank_gap(ranks, grades, ~same) == pytest.approx(-(3.5 + 3) / 2)
    assert math.isnan(rank_gap(ranks[6:], grades[6:], same[6:]))


def test_language_bias_of_a_dictated_ranking(task):
    """p: grade 3 has a (English) at 1, b (French) at 4; English are two of four in the pool, one of three relevant."""
    found = {name: values[0] for name, values in language_bias(task, rank(task)).items()}
    assert found["rank_gap"] == 3
    assert found["log2_rank_gap"] == 2
    assert found["same_language_share@10"] == found["same_language_share_of_pool"] == 0.5
    assert found["same_language_share_of_relevant"] == pytest.approx(1 / 3)


def test_a_project_of_unknown_language_has_no_bias(task):
    assert all(np.isnan(values[1]) for values in language_bias(task, rank(task)).values())


def test_overlaps_of_a_dictated_ranking(task):
    """p ranks a, d, c, b: category it, none, law, it; has 2, 1, 0, 1 of its two skills."""
    ranking = rank(task)
    found = overlaps(task, ranking, skills_at(task.pool, [ranking]))
    assert found["category_overlap@10"][0] == pytest.approx(2 / 4)
    assert found["skill_overlap@10"][0] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert np.isnan(found["category_overlap@10"][1])
    assert np.isnan(found["skill_overlap@10"][1])


def test_overlaps_by_language_pair_look_at_freelancers_of_that_language_only(task):
    """p: English ones a (its category, both skills) and c (neither), French b (category, half), unknown d (half).

    q says neither category nor skills; its best English one is c.
    """
    ranking = rank(task)
    assert {code: best.tolist() for code, best in ranking[0].top_in_group.items()} == {0: [0, 2], 1: [1], 2: [3]}
    rankings = dict.fromkeys(FLOORS, ranking)
    skills = skills_at(task.pool, rankings.values())
    pairs = summarise(task, rankings, figures_of(task, rankings, skills), skills, 0)["per_language_pair"]
    found = {
        pair: (block["category_overlap@10"]["bm25"], block["skill_overlap@10"]["bm25"]) for pair, block in pairs.items()
    }
    assert found == {"en-en": (1 / 2, 2 / 4), "en-fr": (1, 1 / 2), "en-?": (0, 1 / 2), "?-en": (None, None)}


def test_labels_of_one_skill_in_two_languages_are_one_skill(task):
    from skillmatch_ray.sample.taxonomy import builtin_taxonomy

    labels = next(found for found in builtin_taxonomy().skills.values() if found["en"][0] != found["fr"][0])
    assert skill_ids(labels["en"][0]) & skill_ids(labels["fr"][0].upper())
    assert skill_ids("Nobody's skill") == {"nobody's skill"}
    project = task.projects[0].model_copy(update={"skills": (labels["en"][0], "unheard of")})
    person = task.pool.at([1])[1].model_copy(update={"skills": (labels["fr"][0],)})
    assert skill_share(project, listed_skills(person)) == 0.5


def test_pool_tells_positions_and_people(task):
    assert task.pool.size == 4
    assert task.pool.places == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert {place: person.id for place, person in task.pool.at([3, 0]).items()} == {0: "a", 3: "d"}
    assert task.pool.languages.names == ["en", "fr", "?"]


def test_labels_are_numbered_by_first_sight():
    labels = Labels.of(["b", None, "a", "b"])
    assert labels.codes.tolist() == [0, 1, 2, 0]
    assert (labels.code("a"), labels.code(None), labels.code("zz")) == (2, -1, -1)


def history(count):
    days = [f"2024-01-{i + 1:02d}" for i in range(count)]
    return [
        {"project_id": f"p{i:02d}", "title": "x", "job_category": "it", "skills": ["go", "sql"], "created_at": day}
        for i, day in enumerate(days)
    ]


def test_cold_start_is_what_the_history_never_asked_for(tmp_path):
    """Of 20 projects the last 3 are held out: one as ever, one of a new category, one with one new skill of two."""
    projects = history(20)
    projects[18]["job_category"] = "law"
    projects[19]["skills"] = ["go", "violin"]
    contacts = [{"project_id": p["project_id"], "freelancer_id": "a", "outcome": "selected"} for p in projects]
    task = read_task(write(tmp_path / "d", freelancers=FREELANCERS, projects=projects, interactions=contacts))
    assert {name: set(ids) for name, ids in task.truth.subsets.items() if name != "later"} == {
        "new_category": {"p18"},
        "new_skills": {"p19"},
    }
