"""Metrics and ranks against arithmetic done by hand, a full sort and ranx; intervals against their theory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from skillmatch_ray.evaluation import metrics, ranking
from skillmatch_ray.evaluation.bootstrap import compare, holm, interval, interval_of, intervals, randomisation_p
from skillmatch_ray.evaluation.ranking import Judged, dense_scorer, matrix_scorer, rank_judged

NONE = np.array([], dtype=np.int64)


def test_metrics_by_hand():
    """Relevant at ranks 5, 1 and 2, given out of order: AP (1/1 + 2/2 + 3/5) / 3 = 13/15."""
    ranks = np.array([5, 1, 2])
    assert metrics.average_precision(ranks) == pytest.approx(13 / 15)
    assert metrics.recall_at(ranks, 2) == pytest.approx(2 / 3)
    assert metrics.recall_at(ranks, 100) == 1
    assert metrics.precision_at(ranks, 4) == pytest.approx(2 / 4)
    assert metrics.r_precision_at(ranks, 2) == 1  # min(2, 3) places, both right
    assert metrics.r_precision_at(ranks, 10) == 1  # min(10, 3) = 3 relevant, all within 10
    assert metrics.reciprocal_rank(np.array([4, 9])) == pytest.approx(1 / 4)


def test_ndcg_by_hand():
    """Grades 1 at rank 1 and 3 at rank 3: (1/log2 2 + 3/log2 4) / (3/log2 2 + 1/log2 3)."""
    ranks, grades = np.array([3, 1]), np.array([3, 1])
    ideal = 3 + 1 / math.log2(3)
    assert metrics.ndcg_at(ranks, grades, 10) == pytest.approx((1 + 3 / 2) / ideal)
    assert metrics.ndcg_at(ranks, grades, 1) == pytest.approx(1 / 3)  # the best first place would hold the 3


def test_without_relevant_freelancers_figures_are_zero():
    figures = [metrics.average_precision(NONE), metrics.recall_at(NONE, 5), metrics.reciprocal_rank(NONE)]
    assert [*figures, metrics.r_precision_at(NONE, 5), metrics.ndcg_at(NONE, NONE, 5)] == [0.0] * 5


def test_metrics_agree_with_ranx():
    from ranx import Qrels, Run, evaluate

    rng = np.random.default_rng(0)
    qrels, run, own = {}, {}, []
    for query in range(30):
        scores = rng.permutation(50).astype(float)
        grades = rng.choice(4, 50, p=[0.8, 0.08, 0.06, 0.06])
        grades[0] = 3
        rank = np.empty(50, dtype=np.int64)
        rank[np.argsort(-scores)] = np.arange(1, 51)
        graded = rank[grades > 0]
        qrels[f"q{query}"] = {f"f{j}": int(grades[j]) for j in range(50) if grades[j]}
        run[f"q{query}"] = {f"f{j}": scores[j] for j in range(50)}
        own.append(
            [
                metrics.average_precision(graded),
                metrics.recall_at(graded, 10),
                metrics.precision_at(graded, 5),
                metrics.reciprocal_rank(graded),
                metrics.ndcg_at(graded, grades[grades > 0], 10),
            ]
        )
    theirs = evaluate(Qrels(qrels), Run(run), ["map", "recall@10", "precision@5", "mrr", "ndcg@10"])
    assert list(theirs.values()) == pytest.approx(np.mean(own, axis=0), abs=1e-9)


@pytest.mark.parametrize("block", [1, 7, 8192])
def test_counted_ranks_equal_those_of_a_stable_sort(block, monkeypatch):
    """Few distinct scores, so that ties are everywhere; blocks cut the pool anywhere."""
    monkeypatch.setattr(ranking, "BLOCK", block)
    k = 9
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, (5, 40)).astype(np.float32)
    groups = rng.integers(0, 3, 40)
    judged = [Judged(np.sort(rng.choice(40, 6, replace=False)), np.ones(6, dtype=np.int64)) for _ in range(5)]
    for row, query, found in zip(scores, judged, rank_judged(matrix_scorer(scores), judged, groups, k), strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        assert found.top.tolist() == order[:k]
        assert found.overall.tolist() == [order.index(place) + 1 for place in query.places]
        for place, rank in zip(query.places, found.in_group, strict=True):
            own = [freelancer for freelancer in order if groups[freelancer] == groups[place]]
            assert rank == own.index(place) + 1
            assert found.top_in_group[groups[place]].tolist() == own[:k]


def test_memory_does_not_grow_with_the_product_of_queries_and_freelancers(monkeypatch):
    """200 x 100,000 scores would be 80 MB; a block of them is 4 MB."""
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 1 << 20)
    rng = np.random.default_rng(5)
    queries, corpus = (rng.normal(size=(n, 8)).astype(np.float32) for n in (200, 100_000))
    judged = [Judged(np.sort(rng.choice(100_000, 5, replace=False)), np.full(5, 2)) for _ in range(200)]
    groups = np.zeros(100_000, dtype=np.int32)
    tracemalloc.start()
    found = rank_judged(dense_scorer(queries, corpus), judged, groups, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20
    row = queries[7] @ corpus.T
    assert found[7].top.tolist() == np.argsort(-row, kind="stable")[:10].tolist()
    assert found[7].overall.tolist() == [1 + int((row > row[place]).sum()) for place in judged[7].places]


def test_interval_is_seeded_and_close_to_theory():
    """400 values of deviation 1: the 95 % interval of the mean is about 2 x 1.96 / 20 wide."""
    values = np.random.default_rng(3).normal(0.5, 1.0, 400)
    low, high = interval(values, seed=0)
    assert (low, high) == interval(values, seed=0)
    assert (low, high) != interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.12)


def test_intervals_of_columns_are_those_of_each_alone_and_skip_what_is_not_defined():
    rng = np.random.default_rng(6)
    values = rng.random((80, 3))
    values[:, 2] = np.nan
    values[40:, 1] = np.nan
    found = intervals(values, seed=0)
    assert tuple(found[0]) == pytest.approx(interval(values[:, 0], seed=0))
    assert np.isnan(found[2]).all()
    low, high = found[1]
    assert low < values[:40, 1].mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values[:40, 1].std() / 40**0.5, rel=0.2)


def test_interval_of_a_mean_is_the_usual_one_and_that_of_a_maximum_ends_at_it():
    values = np.random.default_rng(8).random(200)
    usual = interval(values, seed=0)
    assert interval_of(lambda drawn: float(drawn.mean()), values, seed=0) == pytest.approx(usual, abs=0.01)
    assert interval_of(np.max, values, seed=0)[1] == values.max()
    both = np.stack([values, values - 1])  # the second row is drawn with the first: their difference never varies
    assert interval_of(lambda drawn: float((drawn[0] - drawn[1]).mean()), both, seed=0) == pytest.approx((1, 1))


def test_holm_by_hand():
    """Sorted 0.001, 0.01, 0.04, 0.5 times 4, 3, 2, 1; never above 1, never below one before."""
    found = holm({"d": 0.5, "b": 0.01, "a": 0.001, "c": 0.04})
    assert found == pytest.approx({"a": 0.004, "b": 0.03, "c": 0.08, "d": 0.5})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_recall_curve_by_hand():
    """Relevant at ranks 1 and 4, and at 2: recall 1/2, then 1/2 and 1, then 1 and 1."""
    curve = metrics.recall_curve([np.array([4, 1]), np.array([2])], [1, 2, 4])
    assert curve.tolist() == [0.25, 0.75, 1.0]


def test_mean_of_the_best_places():
    worth = np.array([1.0, 0.5, 0.0, 1.0])
    assert metrics.mean_at(worth, 2) == 0.75
    assert metrics.mean_at(worth, 10) == pytest.approx(2.5 / 4)
    assert math.isnan(metrics.mean_at(worth[:0], 10))


def test_randomisation_p_by_enumeration():
    """Eight differences of 1: only the 2 of 2 ** 8 sign patterns without a mix are as far from 0."""
    assert randomisation_p(np.ones(8), seed=0) == pytest.approx(2 / 256, abs=0.003)


def test_comparison_of_equal_and_of_opposed_systems():
    first = np.random.default_rng(4).random(60)
    same = compare(first, first, seed=0)
    assert (same.difference, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    ahead, behind = compare(first + 0.1, first, seed=0), compare(first, first + 0.1, seed=0)
    assert ahead.difference == pytest.approx(-behind.difference)
    assert ahead.interval[0] > 0 > behind.interval[1]
    assert ahead.p == behind.p < 0.001
