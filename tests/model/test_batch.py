"""Section caps and padded batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmatch_ray.model.batch import EncodedDocument, collate, section_caps

DIM = 4
lengths = st.lists(st.integers(0, 80), max_size=12)


@settings(max_examples=200, deadline=None)
@given(lengths, st.integers(0, 200))
def test_caps_use_the_whole_limit_and_take_from_the_longest(sizes, limit):
    caps = section_caps(sizes, limit)
    assert len(caps) == len(sizes)
    assert all(0 <= cap <= size for cap, size in zip(caps, sizes, strict=True))
    assert sum(caps) == min(limit, sum(sizes))
    cut = [cap for cap, size in zip(caps, sizes, strict=True) if cap < size]
    if cut:
        # Whoever is cut keeps as much as anybody, up to the token that cannot be shared out.
        assert min(cut) >= max(caps) - 1


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_order_of_sections_does_not_matter_for_the_caps(sizes, limit, random):
    shuffled = sizes[:]
    random.shuffle(shuffled)
    pairs = sorted(zip(sizes, section_caps(sizes, limit), strict=True))
    assert sorted(zip(shuffled, section_caps(shuffled, limit), strict=True)) == pairs


@pytest.mark.parametrize(
    ("sizes", "limit", "caps"),
    [
        ([5, 100, 40], 65, [5, 30, 30]),
        ([5, 100, 40], 145, [5, 100, 40]),
        ([10, 10, 10], 8, [2, 3, 3]),
        ([1, 1, 1, 1], 2, [0, 0, 1, 1]),
        ([], 5, []),
    ],
)
def test_caps_by_hand(sizes, limit, caps):
    assert section_caps(sizes, limit) == caps


def document(*sections, start=0.0):
    """Sections (type, tokens); every token counts up."""
    states, at = [], start
    for _, tokens in sections:
        states.append(torch.arange(at, at + tokens)[:, None].repeat(1, DIM))
        at += tokens
    return EncodedDocument(tuple(t for t, _ in sections), tuple(states))


def test_a_batch_by_hand():
    batch = collate([document((2, 1), (5, 2)), document(), document((1, 4), start=10)], DIM, max_tokens=3)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert batch.types.tolist() == [[2, 5, 5], [0, 0, 0], [1, 1, 1]]
    assert batch.lengths.tolist() == [[1, 2, 2], [1, 1, 1], [3, 3, 3]]
    assert batch.states[..., 0].tolist() == [[0, 1, 2], [0, 0, 0], [10, 11, 12]]
    assert (batch.states.dtype, batch.lengths.dtype, batch.types.dtype) == (torch.float32, torch.float32, torch.int64)


def test_documents_without_tokens_still_make_a_batch():
    batch = collate([document(), document()], DIM, max_tokens=8)
    assert batch.states.shape == (2, 1, DIM)
    assert not batch.mask.any()


def test_tokens_of_a_document_count_all_sections():
    assert document((0, 3), (1, 2)).tokens == 5
    assert document().tokens == 0


def test_half_precision_stays_half_and_never_costs_a_full_one():
    full = EncodedDocument((0,), (torch.full((1, DIM), 1.0001),))
    half = EncodedDocument((0,), (torch.ones(1, DIM, dtype=torch.float16),))
    assert collate([half], DIM, 8).states.dtype == torch.float16
    for order, place in (([half, full], 1), ([full, half], 0)):
        batch = collate(order, DIM, 8)
        assert batch.states.dtype == torch.float32
        np.testing.assert_allclose(batch.states[place].numpy(), 1.0001)
