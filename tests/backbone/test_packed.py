"""The packed forward pass against transformers: architectures, dtypes, lengths, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from skillmatch_ray.backbone import packed
from skillmatch_ray.backbone.packed import PackedEncoder
from skillmatch_ray.errors import BackboneError

CPU = torch.device("cpu")
LENGTHS = np.array([40, 17, 17, 17, 5, 3, 3, 1])
SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
FAMILIES = {"bert": (BertConfig, BertModel), "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel)}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    """Weights so large that positions, types and attention all matter."""
    config, model = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    model(config(**SIZES), add_pooling_layer=False).save_pretrained(path)
    return path


def sections(lengths, seed=0):
    """Token ids without the padding token."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, SIZES["vocab_size"], length) for length in lengths]


@torch.inference_mode()
def one_by_one(checkpoint, parts):
    """(N, D): each section alone through transformers, in float32."""
    model = AutoModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
    ids = (torch.from_numpy(part)[None] for part in parts)
    return torch.cat([model(input_ids=i, attention_mask=torch.ones_like(i)).last_hidden_state[0] for i in ids])


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], np.array([7])])
def test_float32_equals_transformers(checkpoint, lengths):
    parts = sections(lengths)
    found = PackedEncoder(checkpoint, torch.float32, CPU)(np.concatenate(parts), lengths)
    torch.testing.assert_close(found, one_by_one(checkpoint, parts), atol=2e-5, rtol=0)


def test_bfloat16_is_as_near_to_float32_as_transformers_own(checkpoint):
    parts = sections(LENGTHS)
    exact = one_by_one(checkpoint, parts)
    ours = PackedEncoder(checkpoint, torch.bfloat16, CPU)(np.concatenate(parts), LENGTHS)
    assert ours.dtype == torch.bfloat16
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.bfloat16, add_pooling_layer=False).eval()
    with torch.inference_mode():
        ids = [torch.from_numpy(part)[None] for part in parts]
        theirs = torch.cat([model(input_ids=i, attention_mask=torch.ones_like(i)).last_hidden_state[0] for i in ids])
    errors = [(states.float() - exact).norm().item() / exact.norm().item() for states in (ours, theirs)]
    assert errors[0] < 1.1 * errors[1] < 0.1


def test_sections_do_not_see_each_other(checkpoint):
    encoder = PackedEncoder(checkpoint, torch.float32, CPU)
    parts = sections(LENGTHS)
    before = encoder(np.concatenate(parts), LENGTHS).clone()
    parts[2] = sections([LENGTHS[2]], seed=9)[0]
    after = encoder(np.concatenate(parts), LENGTHS).clone()
    start = LENGTHS[:2].sum()
    changed = slice(start, start + LENGTHS[2])
    assert (after[changed] - before[changed]).abs().max() > 0.1
    after[changed] = before[changed]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_weights_are_found_below_any_prefix(checkpoint, tmp_path):
    """Checkpoints of models with a task's head name the encoder first: roberta.embeddings..."""
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({f"roberta.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    ids = np.concatenate(sections(LENGTHS))
    found = [PackedEncoder(path, torch.float32, CPU)(ids, LENGTHS) for path in (checkpoint, tmp_path)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "distilbert"}, "model_type 'distilbert'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "must be 'absolute'"),
    ],
)
def test_other_architectures_are_refused(checkpoint, tmp_path, changes, message):
    config = json.loads((checkpoint / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=message):
        PackedEncoder(tmp_path, torch.float32, CPU)


def test_a_missing_tensor_is_named(checkpoint, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(BackboneError, match=r"lacks tensor encoder\.layer\.1\.output\.dense\.bias"):
        PackedEncoder(tmp_path, torch.float32, CPU)


def test_the_gpus_kernel_gets_each_section_with_its_bounds(checkpoint, monkeypatch):
    """Flash attention runs on GPUs only: a plain one in its place shows that rows, heads and bounds fit."""

    def varlen_attn(q, k, v, first, second, most, _, *, scale):
        assert first.dtype == torch.int32
        assert torch.equal(first, second)
        sections = [slice(a, b) for a, b in itertools.pairwise(first.tolist())]
        assert most == max(section.stop - section.start for section in sections)
        parts = [[x[section].transpose(0, 1) for x in (q, k, v)] for section in sections]
        attended = [F.scaled_dot_product_attention(*part, scale=scale).transpose(0, 1) for part in parts]
        return torch.cat(attended)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(packed, "_ROW_STEP", 1)  # as on a GPU
    encoder = PackedEncoder(checkpoint, torch.float32, CPU)
    ids = np.concatenate(sections(LENGTHS))
    expected = encoder(ids, LENGTHS)
    bounds = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=torch.int32)
    heads = encoder.sizes.heads
    monkeypatch.setattr(
        encoder, "_attention", lambda *_: lambda qkv: packed._attend_varlen(qkv, heads, bounds, int(LENGTHS.max()))
    )
    torch.testing.assert_close(encoder(ids, LENGTHS), expected, atol=1e-5, rtol=0)


def test_kernels_that_are_kept_are_bounded_unless_the_user_bounds_them(checkpoint, monkeypatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    PackedEncoder(checkpoint, torch.float32, CPU)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_computes_the_same(checkpoint, dtype):
    ids = np.concatenate(sections(LENGTHS))
    exact = PackedEncoder(checkpoint, torch.float32, CPU)(ids, LENGTHS)
    found = PackedEncoder(checkpoint, dtype, torch.device("cuda"))(ids, LENGTHS).float().cpu()
    assert (found - exact).norm() < (0.05 if dtype == torch.bfloat16 else 1e-4) * exact.norm()
