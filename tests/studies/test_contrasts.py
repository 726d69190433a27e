"""What a study may say, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmatch_ray.evaluation.bootstrap import interval
from skillmatch_ray.studies.contrasts import (
    Difference,
    compare_runs,
    conclude,
    runs_interval,
    shared_confidence,
)


def found(low, high, seeds=3, agreeing=3):
    return Difference((low + high) / 2, (low, high), 0.95, 120, seeds, agreeing)


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [
        (0.02, 0.06, "A: higher MAP than B ("),
        (0.004, 0.06, "A: higher MAP than B, perhaps by as little as 0.004 ("),
        (0.002, 0.006, "A: higher MAP than B, by less than 0.01 ("),
        (-0.006, -0.002, "A: lower MAP than B, by less than 0.01 ("),
        (-0.06, -0.02, "A: lower MAP than B ("),
        (-0.06, -0.004, "A: lower MAP than B, perhaps by as little as 0.004 ("),
        (-0.004, 0.006, "A and B: no difference in MAP of 0.01 or more ("),
        (0.0, 0.0, "A and B: no difference in MAP of 0.01 or more ("),
        (-0.02, 0.05, "A against B: not told apart in MAP; a loss of 0.020 and a gain of 0.050 are both possible ("),
        (0.0, 0.05, "A against B: not told apart in MAP; a loss of 0.000 and a gain of 0.050 are both possible ("),
    ],
)
def test_the_words_follow_the_interval(low, high, start):
    assert conclude("A", "B", "MAP", found(low, high)).startswith(start)


def test_a_sentence_names_its_figures():
    sentence = conclude("A", "B", "MAP", found(0.02, 0.06))
    assert sentence.endswith("(+0.040 [+0.020, +0.060], 95.0% interval, 120 projects, 3 seeds).")


def test_one_seed_is_said_to_be_one_where_something_is_claimed():
    assert "not the luck of training" in conclude("A", "B", "MAP", found(0.02, 0.06, seeds=1, agreeing=1))
    assert "not the luck of training" in conclude("A", "B", "MAP", found(-0.001, 0.002, seeds=1, agreeing=1))
    assert "luck" not in conclude("A", "B", "MAP", found(-0.02, 0.06, seeds=1, agreeing=1))
    assert "luck" not in conclude("A", "B", "MAP", found(0.02, 0.06))


def test_seeds_that_disagree_are_told():
    assert "Only 2 of 3 seeds agree" in conclude("A", "B", "MAP", found(0.02, 0.06, agreeing=2))


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_nothing_is_higher_or_lower_unless_the_whole_interval_is(a, b):
    low, high = sorted((a, b))
    sentence = conclude("A", "B", "MAP", found(low, high))
    assert ("higher" in sentence) == (low > 0)
    assert ("lower" in sentence) == (high < 0)


def test_a_pair_by_hand():
    """Seeds x projects: differences (0.2, 0.0) and (0.4, 0.2): mean 0.2, both seeds above 0."""
    first = np.array([[0.5, 0.3], [0.6, 0.4]])
    second = np.array([[0.3, 0.3], [0.2, 0.2]])
    got = compare_runs(first, second, seed=0)
    assert got.mean == pytest.approx(0.2)
    assert (got.projects, got.seeds, got.agreeing) == (2, 2, 2)
    assert got.interval[0] < 0.2 < got.interval[1]


def test_projects_without_a_figure_on_either_side_are_left_out():
    first = np.array([[1.0, np.nan, 0.5]])
    second = np.array([[0.5, 0.5, np.nan]])
    got = compare_runs(first, second, seed=0)
    assert (got.mean, got.projects) == (0.5, 1)
    assert got.interval == (0.5, 0.5)


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(2, 2\)"):
        compare_runs(np.zeros((1, 2)), np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="no project"):
        compare_runs(np.array([[np.nan]]), np.zeros((1, 1)), seed=0)


def test_with_one_seed_the_interval_is_that_of_the_evaluation():
    """Two implementations and two streams of random numbers, so they agree to a few percent of the width."""
    values = np.random.default_rng(3).random(150)
    ours, theirs = runs_interval(values[None, :], seed=0), interval(values, seed=0)
    assert ours == pytest.approx(theirs, abs=0.15 * (theirs[1] - theirs[0]))


def test_seeds_that_differ_widen_the_interval_as_their_spread_says():
    """Three seeds at -d, 0, +d with equal projects: variance of the mean is d^2 / 3 (sample variance d^2), and the
    three-point bootstrap has its 2.5 % point at -d * sqrt(3/2): all three draws the lowest (1/27 > 2.5 %)."""
    values = np.array([[-0.1], [0.0], [0.1]]) + np.zeros((1, 50))
    low, high = runs_interval(values, seed=0)
    assert (low, high) == pytest.approx((-0.1 * 1.5**0.5, 0.1 * 1.5**0.5))


def test_intervals_of_equal_differences_have_no_width_and_a_seed_gives_the_same():
    values = np.full((3, 10), 0.25)
    assert runs_interval(values, seed=1) == pytest.approx((0.25, 0.25))
    noisy = np.random.default_rng(0).random((3, 40))
    assert runs_interval(noisy, seed=1) == runs_interval(noisy, seed=1)


def test_a_true_difference_of_zero_is_rarely_called_one():
    """Of 50 made-up comparisons without a difference 2 or 3 may fall outside; 8 would be a broken interval."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(50):
        low, high = runs_interval(rng.normal(size=(1, 60)), seed=0)
        wrong += low > 0 or high < 0
    assert wrong < 8


def test_more_contrasts_make_wider_intervals():
    assert shared_confidence(1) == pytest.approx(0.95)
    assert shared_confidence(5) == pytest.approx(0.99)
