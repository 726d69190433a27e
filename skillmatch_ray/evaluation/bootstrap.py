"""How far a figure can be trusted: bootstrap intervals over queries and a paired test between two systems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

SAMPLES = 1000
CONFIDENCE = 0.95
_BLOCK_VALUES = 1 << 22
"""Random numbers held at once."""


@dataclass(frozen=True)
class Comparison:
    """One system against another, query by query.

    Attributes:
        difference: mean of first - second.
        interval: (low, high) of that mean, from the paired bootstrap.
        p: two-sided, from the randomisation test.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def interval(values: Values, seed: int, samples: int = SAMPLES) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of (Q,) values over resampled queries."""
    rng = np.random.default_rng([seed, 1])
    means = [values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in _steps(samples, values)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def compare(first: Values, second: Values, seed: int, samples: int = SAMPLES) -> Comparison:
    """Paired comparison of (Q,) figures of two systems on the same queries."""
    difference = first - second
    p = randomisation_p(difference, seed, 10 * samples)
    return Comparison(float(difference.mean()), interval(difference, seed, samples), p)


def randomisation_p(difference: Values, seed: int, samples: int = 10 * SAMPLES) -> float:
    """Two-sided p of (Q,) paired differences: how often random signs give a mean at least as far from 0.

    (1 + extreme) / (1 + samples), so that p is never 0.
    """
    rng = np.random.default_rng([seed, 2])
    # Sums of the same numbers in another order differ in their last bits; those count as equal.
    observed = abs(difference.sum()) - 1e-9 * np.abs(difference).sum()
    extreme = 0
    for n in _steps(samples, difference):
        signs = rng.integers(0, 2, size=(n, len(difference)), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ difference) >= observed))
    return (1 + extreme) / (1 + samples)


def _steps(samples: int, values: Values) -> list[int]:
    step = max(1, _BLOCK_VALUES // max(1, len(values)))
    return [min(step, samples - start) for start in range(0, samples, step)]
