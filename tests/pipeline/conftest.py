"""A small model whose head matters, and its configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import BackboneSettings, Config, ModelSettings
from skillmatch_ray.model.matcher import Matcher


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone) -> Path:
    """A matcher with one block of random weights: what an untrained head would leave out shows."""
    torch.manual_seed(3)
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=1, heads=4, max_document_tokens=96))
    for parameter in matcher.towers.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("model") / "m"
    matcher.save(path)
    return path


@pytest.fixture(scope="session")
def make_config(tiny_settings: BackboneSettings) -> Callable[..., Config]:
    """Tiny backbone, small blocks; `encode` settings as wanted."""

    def make(max_bad_share: float = 0.05, **encode: Any) -> Config:
        settings = {"workers": 1, "rows_per_block": 16, "cpus_per_worker": 0.5, "threads_per_worker": 1} | encode
        backbone = tiny_settings.model_dump()
        return Config.model_validate(
            {"backbone": backbone, "encode": settings, "dataset": {"max_bad_share": max_bad_share}}
        )

    return make
