"""How much a transformer computes, for estimates from a card's rate."""

from __future__ import annotations


def transformer_flops(*, layers: int, dim: int, ffn: int, length: float) -> float:
    """Multiplications and additions of one token among `length` that attend to each other.

    Each layer has 4 matrices of D x D and 2 of D x F, at 2 FLOP a weight, and attention with 4 x length x D.

    Example:
        >>> transformer_flops(layers=1, dim=2, ffn=3, length=5)
        96.0
    """
    return float(layers * (2 * (4 * dim * dim + 2 * dim * ffn) + 4 * length * dim))
