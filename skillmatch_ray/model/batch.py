"""Documents as padded batches of token states, the input of a tower.

Shapes: B documents, T tokens of the longest document, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class EncodedDocument:
    """The token states of one document, section by section.

    Attributes:
        types: section-type ids, one for each section.
        states: (tokens, D) of each section.
    """

    types: tuple[int, ...]
    states: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all sections."""
        return sum(len(state) for state in self.states)


@dataclass(frozen=True)
class DocumentBatch:
    """B documents, padded.

    Attributes:
        states: (B, T, D) token states, zero where padded.
        types: (B, T) int64 section type of each token, 0 where padded.
        lengths: (B, T) float32 number of tokens of the token's section, 1 where padded.
        mask: (B, T) bool, True on tokens.
    """

    states: Tensor
    types: Tensor
    lengths: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> DocumentBatch:
        """The same batch on `device`."""
        return DocumentBatch(*(getattr(self, name).to(device) for name in ("states", "types", "lengths", "mask")))


def section_caps(lengths: Sequence[int], limit: int) -> list[int]:
    """Tokens kept of each section so that a document has at most `limit`: the longest are cut first.

    A short title or skill list stays whole where a long description has to give.

    Example:
        >>> section_caps([5, 100, 40], 65)
        [5, 30, 30]
    """
    if sum(lengths) <= limit:
        return list(lengths)
    caps = [0] * len(lengths)
    left = limit
    for rank, i in enumerate(np.argsort(lengths, kind="stable").tolist()):
        caps[i] = min(lengths[i], left // (len(lengths) - rank))
        left -= caps[i]
    return caps


def collate(documents: Sequence[EncodedDocument], dim: int, max_tokens: int) -> DocumentBatch:
    """Pad documents to one batch; a document without sections becomes a row without tokens."""
    caps = [section_caps([len(s) for s in document.states], max_tokens) for document in documents]
    longest = max([1, *(sum(cap) for cap in caps)])
    first = next((state for document in documents for state in document.states), torch.zeros(0, dim))
    # Cached states come in half precision, fresh ones may not: a vector must not depend on which comes first.
    dtypes = {state.dtype for document in documents for state in document.states} or {first.dtype}
    states = first.new_zeros((len(documents), longest, dim), dtype=functools.reduce(torch.promote_types, dtypes))
    types: NDArray[np.int64] = np.zeros((len(documents), longest), dtype=np.int64)
    lengths: NDArray[np.float32] = np.ones((len(documents), longest), dtype=np.float32)
    mask = np.zeros((len(documents), longest), dtype=bool)
    for row, (document, document_caps) in enumerate(zip(documents, caps, strict=True)):
        at = 0
        for section_type, section, cap in zip(document.types, document.states, document_caps, strict=True):
            states[row, at : at + cap] = section[:cap]
            types[row, at : at + cap] = section_type
            lengths[row, at : at + cap] = cap
            at += cap
        mask[row, :at] = True
    device = first.device
    return DocumentBatch(
        states,
        torch.from_numpy(types).to(device),
        torch.from_numpy(lengths).to(device),
        torch.from_numpy(mask).to(device),
    )
