"""One small sample and its recipe, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skillmatch_ray.config import SampleSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.sample.generator import Recipe, write_sample

SETTINGS = SampleSettings(freelancers=800, projects=300, judge="all")
SEED = 11


def bytes_of(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` with its content."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(SETTINGS, SEED)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("sample") / "dataset"
    write_sample(root, SETTINGS, SEED)
    return Dataset(root)


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    return bytes_of
