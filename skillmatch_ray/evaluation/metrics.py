"""Ranking metrics over arrays of ranked relevance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_precision(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of full rankings.

    Row [0, 1, 1, 0] has relevant freelancers at ranks 2 and 3: (1/2 + 2/3) / 2 = 7/12.

    Args:
        relevant: (Q, N), whether the n-th ranked freelancer is relevant to the query.

    Returns:
        (Q,) in [0, 1]; 0 where a row has no relevant freelancer.
    """
    hits = np.cumsum(relevant, axis=1, dtype=np.float64)
    ranks = np.arange(1, relevant.shape[1] + 1, dtype=np.float64)
    total = relevant.sum(axis=1)
    return (hits / ranks * relevant).sum(axis=1) / np.maximum(total, 1)
