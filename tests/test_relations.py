"""Outcomes, relation matrices, weak negatives, transitivity: by hand and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from skillmatch_ray.relations import (
    Interaction,
    Judgement,
    Outcome,
    Relations,
    freelancer_relations,
    weak_negatives,
)


def contact(project, freelancer, outcome):
    return Interaction(project_id=project, freelancer_id=freelancer, outcome=outcome)


def test_only_skills_speak():
    assert {outcome.value: outcome.sign for outcome in Outcome} == {
        "selected": 1,
        "accepted": 1,
        "company_declined_skills": -1,
        "freelancer_declined_skills": -1,
        "declined_price": 0,
        "declined_dates": 0,
        "declined_other": 0,
        "no_answer": 0,
    }


def test_relations_of_a_history():
    relations = Relations.from_interactions(
        [
            contact("p1", "a", "selected"),
            contact("p1", "b", "company_declined_skills"),
            contact("p1", "c", "declined_price"),
            contact("p2", "b", "freelancer_declined_skills"),
            contact("p3", "a", "no_answer"),
            contact("p0", "c", "accepted"),
        ]
    )
    assert relations.positives("p1") == ["a"]
    assert relations.negatives("p1") == ["b"]
    assert relations.positives("p3") == relations.negatives("p3") == relations.positives("nobody") == []
    assert relations.trainable_projects() == ["p0", "p1"]
    matrix = relations.matrix(["p2", "p1", "p9"], ["b", "a", "c", "d"])
    assert matrix.dtype == np.int8
    assert matrix.tolist() == [[-1, 0, 0, 0], [-1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("order", list(itertools.permutations(["selected", "company_declined_skills", "no_answer"])))
def test_once_selected_the_skills_were_there(order):
    relations = Relations.from_interactions(contact("p", "f", outcome) for outcome in order)
    assert relations.positives("p") == ["f"]
    assert relations.negatives("p") == []


signs = st.integers(1, 5).flatmap(
    lambda p: st.integers(1, 6).flatmap(
        lambda f: st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=f, max_size=f), min_size=p, max_size=p)
    )
)


@settings(max_examples=80, deadline=None)
@given(signs)
def test_transitivity_against_brute_force(rows):
    matrix = np.array(rows, dtype=np.int8)
    found = freelancer_relations(matrix)
    count = matrix.shape[1]
    assert found.shape == (count, count)
    for i, j in itertools.product(range(count), repeat=2):
        pairs = {(row[i], row[j]) for row in rows}
        expected = 1 if (1, 1) in pairs else -1 if pairs & {(1, -1), (-1, 1)} else 0
        assert found[i, j] == (expected if i != j else 0)


@settings(max_examples=60, deadline=None)
@given(signs, st.randoms(use_true_random=False))
def test_weak_negatives_against_brute_force(rows, random):
    matrix = np.array(rows, dtype=np.int8)
    names = ["it", "law", "", None]
    projects = [random.choice(names) for _ in range(matrix.shape[0])]
    freelancers = [random.choice(names) for _ in range(matrix.shape[1])]
    found = weak_negatives(matrix, projects, freelancers)
    for (i, p), (j, f) in itertools.product(enumerate(projects), enumerate(freelancers)):
        assert found[i, j] == (matrix[i, j] == 0 and bool(p) and bool(f) and p != f)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("abcd"), st.sampled_from(list(Outcome)))))
def test_the_matrix_of_a_batch_is_the_part_of_the_whole(history):
    relations = Relations.from_interactions(contact(*event) for event in history)
    whole = relations.matrix(list("pqr"), list("abcd"))
    np.testing.assert_array_equal(relations.matrix(["r", "p"], ["d", "a"]), whole[np.ix_([2, 0], [3, 0])])
    for i, p in enumerate("pqr"):
        said = {f: {Outcome(o).sign for q, g, o in history if (q, g) == (p, f)} for f in "abcd"}
        assert whole[i].tolist() == [1 if 1 in said[f] else -1 if -1 in said[f] else 0 for f in "abcd"]


@pytest.mark.parametrize("grade", [-1, 4, 1.5, "high", None])
def test_grades_go_from_none_to_three(grade):
    with pytest.raises(ValidationError, match="grade"):
        Judgement(project_id="p", freelancer_id="f", grade=grade)


def test_unknown_outcomes_are_refused():
    with pytest.raises(ValidationError, match="outcome"):
        contact("p", "f", "liked")
