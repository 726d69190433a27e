"""The encoding benchmark: its arithmetic by hand, and that its peers compute the same thing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from skillmatch_ray.backbone.encoder import Backbone, TokenStates
from skillmatch_ray.benchmarks.encode import benchmark_encode, flops_per_token
from skillmatch_ray.benchmarks.encode_peers import (
    PeerError,
    Rate,
    agreement,
    fastembed_rate,
    onnxruntime_rate,
    peer_checkpoint,
    section_vectors,
    sentence_transformer,
)
from skillmatch_ray.config import BackboneSettings, Config

TEXTS = ["passage: React developer", "passage: " + "steel and tax " * 40, "passage: x"]


def test_section_vectors_are_means() -> None:
    states = torch.tensor([[1.0, 3.0], [3.0, 5.0], [7.0, 7.0]])
    vectors = section_vectors(TokenStates(states, np.array([0, 2, 3])))
    assert vectors.tolist() == [[2.0, 4.0], [7.0, 7.0]]


def test_flops_of_a_token_by_hand(tiny_backbone: Backbone) -> None:
    """2 layers, D = 32, F = 64: 2 x (2 x (4 x 1024 + 2 x 2048) + 4 x 10 x 32) = 2 x (16384 + 1280)."""
    assert flops_per_token(tiny_backbone, 10) == 35328


def test_the_peer_computes_the_same_vectors(tmp_path: Path, tiny_backbone: Backbone) -> None:
    """Truncation included: the second text is longer than the backbone reads."""
    pytest.importorskip("sentence_transformers")
    model = sentence_transformer(peer_checkpoint(tiny_backbone, tmp_path / "peer"), tiny_backbone, torch.float32)
    assert agreement(lambda texts: model.encode(list(texts)), tiny_backbone, TEXTS) > 0.9999


def test_a_peer_that_reads_less_is_found_out(tmp_path: Path, tiny_backbone: Backbone) -> None:
    pytest.importorskip("sentence_transformers")
    model = sentence_transformer(peer_checkpoint(tiny_backbone, tmp_path / "peer"), tiny_backbone, torch.float32)
    assert agreement(lambda texts: model.encode([text[:14] for text in texts]), tiny_backbone, TEXTS) < 0.98


def test_onnx_runtime_computes_the_same_and_is_timed(tmp_path: Path, tiny_backbone: Backbone) -> None:
    """`onnxruntime_rate` refuses to time a graph whose vectors differ; texts of very different lengths."""
    pytest.importorskip("onnxruntime")
    texts = [f"passage: {'steel and tax ' * (i % 9)}{i}" for i in range(80)]
    rate = onnxruntime_rate(tiny_backbone, texts, tmp_path, seconds=0.5)
    assert rate.tokens_per_s > 0
    assert rate.note.startswith("float32, token budget")


def test_fastembed_computes_the_same_and_is_timed(tmp_path: Path, tiny_backbone: Backbone) -> None:
    pytest.importorskip("fastembed")
    texts = [f"passage: {'steel and tax ' * (i % 9)}{i}" for i in range(40)]
    rate = fastembed_rate(tiny_backbone, texts, tmp_path / "peer", seconds=0.2)
    assert rate.tokens_per_s > 0
    assert rate.note.startswith("float32, batch")


def test_a_peer_with_other_weights_is_not_timed(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    other = Path(shutil.copytree(tiny_backbone.checkpoint, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    changed = {name: tensor + torch.randn(tensor.shape, generator=noise) for name, tensor in tensors.items()}
    save_file(changed, other / "model.safetensors", metadata={"format": "pt"})
    shifted = Backbone(other, tiny_backbone.settings, "cpu")
    monkeypatch.setattr(shifted, "encoder", tiny_backbone.encoder)
    with pytest.raises(PeerError, match="its vectors differ from ours"):
        onnxruntime_rate(shifted, TEXTS, tmp_path, seconds=0.5)


def test_startup_by_hand() -> None:
    """1,000 tokens at 100 a second and 15 s before them: 1,000 / 25 s."""
    assert Rate(100.0, 10, startup_s=15.0, tokens=1000).with_startup == pytest.approx(40)


@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_a_small_run_reports_every_figure(tmp_path: Path, tiny_settings: BackboneSettings) -> None:
    config = Config.model_validate(
        {
            "backbone": tiny_settings.model_dump(),
            "model": {"layers": 1, "heads": 4},
            "encode": {"rows_per_block": 16, "cpus_per_worker": 0.5, "threads_per_worker": 1},
            "sample": {"projects": 100},
        }
    )
    result = benchmark_encode(config, documents=100, report=tmp_path / "report.json")
    peers = ("loop", "sentence_transformers_default", "sentence_transformers_best", "onnxruntime", "fastembed")
    assert set(result.ratios) == {f"pipeline_over_{peer}" for peer in peers}, result.not_run
    rates = {name: rate.tokens_per_s for name, rate in result.rates.items()}
    assert min(rates.values()) > 0
    assert result.ratios["pipeline_over_loop"] == pytest.approx(rates["pipeline"] / rates["loop"], abs=1e-3)
    per_cpu_s = {name: rate.tokens_per_cpu_s for name, rate in result.rates.items()}
    assert result.ratios_per_cpu_s["pipeline_over_loop"] == pytest.approx(
        per_cpu_s["pipeline"] / per_cpu_s["loop"], abs=1e-3
    )
    assert result.cosine_to_float32["lowest"] == pytest.approx(1, abs=1e-5)  # the tiny backbone is float32
    assert 0 < result.matrix_share < 1
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["texts"]["documents"] == 100
    assert written["pipeline_over_loop"] == result.ratios["pipeline_over_loop"]
    lines = Console(width=150, record=True)
    lines.print(result.render())
    assert "pipeline_over_sentence_transformers_best = " in lines.export_text()
