"""From the figures of two variants to a sentence that claims no more than its interval allows.

Shapes: S seeds, Q projects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skillmatch_ray.evaluation.bootstrap import CONFIDENCE, Values

SAMPLES = 10_000
MARGIN = 0.01
"""A difference below this is too small to choose a model by."""


@dataclass(frozen=True)
class Difference:
    """First variant - second variant, project by project.

    Attributes:
        mean: over projects and seeds.
        interval: (low, high) of the mean.
        confidence: of the interval.
        projects: Q, those that both variants have a figure for.
        seeds: S, training runs of each variant.
        agreeing: seeds whose own mean has the sign of `mean`.
    """

    mean: float
    interval: tuple[float, float]
    confidence: float
    projects: int
    seeds: int
    agreeing: int


def compare_runs(first: Values, second: Values, seed: int, confidence: float = CONFIDENCE) -> Difference:
    """Paired difference of (S, Q) figures; projects that either side has no figure (NaN) for are left out.

    Raises:
        ValueError: if the shapes differ, or no project has figures on both sides.
    """
    if first.shape != second.shape:
        raise ValueError(f"runs of {first.shape} and {second.shape} (seeds, projects) are no pairs")
    difference = first - second
    difference = difference[:, ~np.isnan(difference).any(axis=0)]
    if not difference.size:
        raise ValueError("no project has a figure on both sides")
    mean = float(difference.mean())
    agreeing = int((np.sign(difference.mean(axis=1)) == np.sign(mean)).sum())
    bounds = runs_interval(difference, seed, confidence)
    return Difference(mean, bounds, confidence, difference.shape[1], len(difference), agreeing)


def compare_groups(first: Values, second: Values, seed: int, confidence: float = CONFIDENCE) -> Difference:
    """Difference of the means of (Q1,) and (Q2,) figures of different projects, each drawn again on its own."""
    rng = np.random.default_rng([seed, 6])
    means = _resampled(first, rng) - _resampled(second, rng)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = float(first.mean() - second.mean())
    return Difference(mean, (float(low), float(high)), confidence, len(first) + len(second), 1, 1)


def runs_interval(values: Values, seed: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile interval of the mean of (S, Q) figures, over projects drawn again and, of several, seeds.

    The spread of seed means is widened by sqrt(S / (S - 1)), the bootstrap's bias for so few. With one
    seed the interval covers the choice of projects only.
    """
    rng = np.random.default_rng([seed, 5])
    seeds = len(values)
    means = _resampled(values.mean(axis=0), rng)
    if seeds > 1:
        own = values.mean(axis=1) - values.mean()
        means += math.sqrt(seeds / (seeds - 1)) * own[rng.integers(seeds, size=(SAMPLES, seeds))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled(values: Values, rng: np.random.Generator) -> Values:
    """(SAMPLES,) means of (Q,) values drawn again."""
    # Multinomial counts are the same draw as indices, and take Q numbers a sample instead of Q lookups.
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=SAMPLES)
    means: Values = counts @ values / len(values)
    return means


def shared_confidence(contrasts: int) -> float:
    """Confidence of each of several intervals such that all hold together with 95 % (Bonferroni).

    Example:
        >>> round(shared_confidence(5), 3)
        0.99
    """
    return 1 - (1 - CONFIDENCE) / max(1, contrasts)


def conclude(first: str, second: str, metric: str, found: Difference) -> str:
    """One sentence (with its reservations) on first against second.

    Only an interval on one side of 0 makes "higher" or "lower"; only one within +-MARGIN makes "no
    difference that matters"; everything else is said to be open, with what the interval still allows.
    """
    low, high = found.interval
    figures = (
        f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}], {found.confidence:.1%} interval, {found.projects} projects, "
        f"{found.seeds} {'seed' if found.seeds == 1 else 'seeds'}"
    )
    return " ".join([f"{_verdict(first, second, metric, low, high)} ({figures}).", *_reservations(found)])


def _verdict(first: str, second: str, metric: str, low: float, high: float) -> str:
    if low > 0 or high < 0:
        word, least, most = ("higher", low, high) if low > 0 else ("lower", -high, -low)
        small = f", perhaps by as little as {least:.3f}" if least < MARGIN else ""
        return f"{first}: {word} {metric} than {second}{small if most >= MARGIN else f', by less than {MARGIN}'}"
    if low > -MARGIN and high < MARGIN:
        return f"{first} and {second}: no difference in {metric} of {MARGIN} or more"
    return (
        f"{first} against {second}: not told apart in {metric}; a loss of {max(0.0, -low):.3f} and a gain of "
        f"{max(0.0, high):.3f} are both possible"
    )


def _reservations(found: Difference) -> list[str]:
    low, high = found.interval
    apart, alike = low > 0 or high < 0, low > -MARGIN and high < MARGIN
    if found.seeds == 1 and (apart or alike):
        return ["One run each: the interval covers the choice of projects, not the luck of training."]
    if apart and found.agreeing < found.seeds:
        return [f"Only {found.agreeing} of {found.seeds} seeds agree with the sign."]
    return []
