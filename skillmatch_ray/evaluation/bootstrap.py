"""How far a figure can be trusted: bootstrap intervals over queries and paired tests between systems.

Shapes: Q queries, M columns of figures. NaN marks a query for which a figure is not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    low, high = intervals(values[:, None], seed, samples)[0].tolist()
    return low, high


def intervals(values: Values, seed: int, samples: int = SAMPLES) -> Values:
    """(M, 2) percentile intervals of the column means of (Q, M) values, all from the same resampled queries.

    The mean of a column is that of the queries for which it is defined; NaN, NaN where it never is.
    """
    rng = np.random.default_rng([seed, 1])
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    even = np.full(len(values), 1 / len(values))
    means = []
    for n in _steps(samples, len(values)):
        drawn = rng.multinomial(len(values), even, size=n).astype(np.float64)  # (n, Q): how often each query
        with np.errstate(invalid="ignore"):
            means.append((drawn @ filled) / (drawn @ defined))
    tail = (1 - CONFIDENCE) / 2
    found = np.concatenate(means)  # (samples, M)
    never = np.isnan(found).all(axis=0)
    found[:, never] = 0.0
    result: Values = np.nanquantile(found, [tail, 1 - tail], axis=0).T
    result[never] = np.nan
    return result


def interval_of(
    statistic: Callable[[Values], float], values: Values, seed: int, samples: int = SAMPLES
) -> tuple[float, float]:
    """Percentile interval (low, high) of a statistic that is no mean, over resampled queries.

    Args:
        statistic: of figures shaped like `values`.
        values: (..., Q) figures without NaN.
        seed: of the draws.
        samples: how many.
    """
    rng = np.random.default_rng([seed, 4])
    queries = values.shape[-1]
    found = [statistic(values[..., rng.integers(queries, size=queries)]) for _ in range(samples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail]).tolist()
    return low, high


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
    for n in _steps(samples, len(difference)):
        signs = rng.integers(0, 2, size=(n, len(difference)), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ difference) >= observed))
    return (1 + extreme) / (1 + samples)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of one family of comparisons, adjusted so that all of them may be read together (Holm, 1979).

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for done, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def _steps(samples: int, width: int) -> list[int]:
    step = max(1, _BLOCK_VALUES // max(1, width))
    return [min(step, samples - start) for start in range(0, samples, step)]
