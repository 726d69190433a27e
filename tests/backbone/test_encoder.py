"""Sections to token states: packing, order, budget, truncation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from skillmatch_ray.backbone.encoder import Backbone, packed_batches, token_budget_batches, token_space_fingerprint

TEXTS = ["query: React developer", "a", "", "the and the and the", "query: React developer", "x y z " * 9, "a"]


def counted(backbone, monkeypatch):
    """The section lengths of all forward passes from here on."""
    passes = []
    encoder = backbone.encoder
    monkeypatch.setattr(backbone, "encoder", lambda ids, lengths: passes.append(lengths) or encoder(ids, lengths))
    return passes


@pytest.fixture(scope="module")
def alone(tiny_backbone):
    """(tokens, D) of one text, straight through the model of transformers, without padding."""
    model = AutoModel.from_pretrained(tiny_backbone.checkpoint, add_pooling_layer=False).eval()

    @torch.inference_mode()
    def forward(text):
        ids = torch.from_numpy(tiny_backbone.tokenize([text])[0].astype(np.int64))[None]
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]

    return forward


def test_packed_equals_one_by_one_in_the_order_given(tiny_backbone, alone):
    states = tiny_backbone.encode(TEXTS)
    assert len(states) == len(TEXTS)
    assert states.states.shape == (states.offsets[-1], tiny_backbone.dim)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(states[i], alone(text), atol=1e-5, rtol=0)


def test_company_changes_nothing(tiny_backbone):
    together = tiny_backbone.encode(TEXTS)
    backwards = tiny_backbone.encode(TEXTS[::-1])
    for i in range(len(TEXTS)):
        torch.testing.assert_close(together[i], backwards[len(TEXTS) - 1 - i], atol=1e-5, rtol=0)


def test_equal_sections_are_computed_once(tiny_backbone, monkeypatch):
    passes = counted(tiny_backbone, monkeypatch)
    states = tiny_backbone.encode(TEXTS * 3)
    assert sum(len(lengths) for lengths in passes) == len(set(TEXTS))
    for i in range(len(TEXTS)):
        assert torch.equal(states[i], states[i + len(TEXTS)])


def test_the_token_budget_is_kept(tiny_backbone, monkeypatch):
    passes = counted(tiny_backbone, monkeypatch)
    tiny_backbone.encode([f"word{i} " * (i % 20 + 1) for i in range(120)])
    assert len(passes) > 1
    assert max(lengths.sum() for lengths in passes) <= tiny_backbone.settings.token_budget


def test_no_sections_give_no_states(tiny_backbone):
    states = tiny_backbone.encode([])
    assert (len(states), states.states.shape) == (0, (0, tiny_backbone.dim))


def test_long_sections_are_cut_and_keep_their_specials(tiny_backbone):
    whole, cut = tiny_backbone.tokenize(["a b", "word " * 200_000])
    assert len(cut) == tiny_backbone.settings.max_section_tokens
    assert (whole[0], whole[-1]) == (cut[0], cut[-1]) == (0, 2)
    assert len(tiny_backbone.encode(["word " * 200_000])[0]) == len(cut)


def test_spans_point_into_the_text(tiny_backbone):
    text = "query: React developer"
    spans = tiny_backbone.token_spans(text)
    assert len(spans) == len(tiny_backbone.tokenize([text])[0])
    assert spans[0] == spans[-1] == (0, 0)
    assert [text[a:b].strip() for a, b in spans[1:-1]] == ["query:", "React", "developer"]


def test_the_fingerprint_names_the_space_and_not_the_speed(tiny_backbone, tiny_settings):
    def of(**changes):
        return token_space_fingerprint(tiny_backbone.checkpoint, tiny_settings.model_copy(update=changes))

    assert tiny_backbone.fingerprint == of(token_budget=64)
    assert tiny_backbone.fingerprint != of(max_section_tokens=63)


def test_the_device_sets_the_token_budget_unless_told(tiny_backbone, tiny_settings):
    def budget(**changes):
        return Backbone(tiny_backbone.checkpoint, tiny_settings.model_copy(update=changes), "cpu").token_budget

    assert budget(token_budget=512) == 512
    assert budget(token_budget=None) == 4096


@pytest.mark.parametrize("budget", [64, 4096])
def test_the_budget_changes_no_state(tiny_backbone, tiny_settings, budget):
    other = Backbone(tiny_backbone.checkpoint, tiny_settings.model_copy(update={"token_budget": budget}), device="cpu")
    torch.testing.assert_close(other.encode(TEXTS).states, tiny_backbone.encode(TEXTS).states, atol=1e-5, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 100))
def test_batches_hold_each_section_once_within_the_budget(lengths, budget):
    sizes = np.array(lengths, dtype=np.int64)
    batches = list(token_budget_batches(sizes, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget
    drawn = [int(sizes[i]) for batch in batches for i in batch]
    assert drawn == sorted(drawn, reverse=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 100))
def test_packed_batches_are_full(lengths, budget):
    """Each section once; within the budget; and no batch could have taken the first section of the next."""
    sizes = np.array(lengths, dtype=np.int64)
    batches = list(packed_batches(sizes, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sizes[batch].sum() <= budget for batch in batches)
    assert all(sizes[batch].sum() + sizes[following[0]] > budget for batch, following in itertools.pairwise(batches))
    drawn = [int(sizes[i]) for batch in batches for i in batch]
    assert drawn == sorted(drawn, reverse=True)
