"""What the deployments do, as plain classes that run without Serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import Config
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Retriever, SearchResult

Vector = NDArray[np.float32]


class EncoderService:
    """Projects to vectors, and reasons for scores.

    Args:
        model_dir: of the matcher.
        threads: of torch.
    """

    def __init__(self, model_dir: Path, threads: int) -> None:
        import torch

        from skillmatch_ray.model.matcher import load_matcher

        torch.set_num_threads(threads)
        self.matcher = load_matcher(model_dir)
        self.fingerprint = self.matcher.fingerprint

    def encode(self, projects: Sequence[Project]) -> list[Vector]:
        """(D,) float32 for each project."""
        return list(self.matcher.encode_projects(projects))

    def explain(self, project: Project, freelancers: Sequence[Freelancer]) -> list[dict[str, Any]]:
        """Shares of sections and skills for each freelancer."""
        return [asdict(self.matcher.explain(project, freelancer)) for freelancer in freelancers]


class RetrieverService:
    """The one owner of the open index.

    Args:
        config: workspace and milvus settings.
    """

    def __init__(self, config: Config) -> None:
        self.retriever = Retriever(config)

    @property
    def release(self) -> dict[str, Any]:
        """Name, fingerprint, rows, time of building and model of the open release."""
        release = self.retriever.release
        return {
            "name": release.name,
            "fingerprint": release.fingerprint,
            "rows": release.rows,
            "built_at": release.built_at.isoformat(),
            "model_dir": str(release.model_dir),
        }

    def search(self, vector: Vector, filters: Filters, top_k: int, fingerprint: str) -> SearchResult:
        """Candidates for a vector of this very release.

        Raises:
            FingerprintError: if the vector is of another space.
        """
        return self.retriever.search(vector, filters, top_k, fingerprint=fingerprint, plan=True)

    def profiles(self, freelancer_ids: Sequence[str]) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""
        return [self.retriever.profile(freelancer_id) for freelancer_id in freelancer_ids]
