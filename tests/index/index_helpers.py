"""Datasets with filter columns, vectors in clusters, and what must be found in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import Config, MilvusSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.files import write_json
from skillmatch_ray.index.filters import Filters, passes
from skillmatch_ray.index.releases import Release, activate, build_release
from skillmatch_ray.model.matcher import FORMAT_VERSION
from skillmatch_ray.pipeline.vectors import open_vectors, stored_keys, write_manifest, write_part
from skillmatch_ray.workspace import Workspace

DIM = 32
FINGERPRINT = "a" * 64
COUNTRIES = ("FR", "DE", "ES", "BE", "NL", "PT")
LANGUAGES = ("fr", "en", "de", "es", "nl", "pt", "it", "eo")
NASTY = ('it"', "fin\\ance", "media\n", "'; drop", "日本", "a b", "true", "]")


def clustered(count: int, dim: int = DIM, seed: int = 0, clusters: int = 50) -> NDArray[np.float32]:
    """(count, dim) unit vectors around `clusters` centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dim))
    found = centres[rng.integers(0, clusters, count)] + rng.normal(size=(count, dim)) * 0.6
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def overlapping(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, dim) unit vectors in 20 clusters that overlap, spread in 64 directions as real embeddings are."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(98)
    centres, directions = fixed.normal(size=(20, dim)) / 2, fixed.normal(size=(64, dim)) / 8
    found = centres[rng.integers(0, 20, count)] + rng.normal(size=(count, 64)) @ directions
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def random_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Freelancers around the globe, a share of every filter field missing."""
    rng = np.random.default_rng(seed)

    def maybe(value: Any, share: float = 0.15) -> Any:
        return None if rng.random() < share else value

    rows = []
    for i in range(count):
        located = rng.random() > 0.1
        rows.append(
            {
                "freelancer_id": f"f{i:06d}",
                "headline": f"expert {i}",
                "job_category": maybe(str(rng.choice(NASTY))),
                "country": maybe(str(rng.choice(COUNTRIES))),
                "remote": maybe(bool(rng.random() < 0.5)),
                "spoken_languages": [str(x) for x in rng.choice(LANGUAGES, size=rng.integers(0, 4), replace=False)],
                "daily_rate_eur": maybe(float(rng.integers(100, 900))),
                "available_from": maybe(f"2026-{rng.integers(1, 13):02d}-{rng.integers(1, 28):02d}"),
                "latitude": float(rng.uniform(-90, 90)) if located else None,
                "longitude": float(rng.uniform(-180, 180)) if located else None,
                "mobility_radius_km": maybe(float(rng.choice([0, 20, 80, 300, 2000])), 0.4),
            }
        )
    return rows


def write_rows(root: Path, rows: list[dict[str, Any]]) -> Path:
    """A dataset of freelancers."""
    root.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "freelancers.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


def write_vectors(
    root: Path, rows: list[Freelancer], vectors: NDArray[np.float32], fingerprint: str = FINGERPRINT, part: int = 3000
) -> Path:
    """What `skillmatch encode` leaves for these rows."""
    open_vectors(root, fingerprint, vectors.shape[1])
    keys = [(row.id, row.content_hash(), row.row_hash()) for row in rows]
    for start in range(0, len(rows), part):
        write_part(root, keys[start : start + part], vectors[start : start + part])
    row_hash = {freelancer: value for freelancer, _, value in keys}
    wanted = {(freelancer, content) for freelancer, content, _ in keys}
    write_manifest(
        root,
        {
            key: (place, row_hash[key.freelancer_id])
            for key, place in stored_keys(root).items()
            if (key.freelancer_id, key.content_hash) in wanted
        },
    )
    return root


def write_model(root: Path, fingerprint: str = FINGERPRINT, dim: int = DIM) -> Path:
    """The part of a model directory that an index reads."""
    write_json(root / "config.json", {"format": FORMAT_VERSION, "fingerprint": fingerprint, "dim": dim})
    return root


@dataclass
class World:
    """A workspace with a dataset, its vectors, and the truth about them."""

    config: Config
    rows: list[Freelancer]
    vectors: NDArray[np.float32]
    _place: dict[str, int] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.config.workspace)

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.workspace.dataset)

    @property
    def model_dir(self) -> Path:
        return self.workspace.models / "m"

    @property
    def vectors_dir(self) -> Path:
        return self.workspace.vectors(FINGERPRINT)

    def build(self) -> Release:
        return build_release(self.config, self.workspace, self.dataset, self.model_dir, self.vectors_dir)

    def release(self) -> Release:
        """Built and active."""
        return activate(self.workspace, self.build().name, self.config)

    def exact(self, query: NDArray[np.float32], filters: Filters, k: int) -> list[tuple[str, float]]:
        """The truth: (id, score), best first."""
        places = [i for i, row in enumerate(self.rows) if passes(row, filters)]
        scores = self.vectors[places] @ query
        order = np.argsort(-scores, kind="stable")[:k]
        return [(self.rows[places[i]].id, float(scores[i])) for i in order]


def make_world(
    root: Path, rows: list[dict[str, Any]], vectors: NDArray[np.float32], milvus: MilvusSettings | None = None
) -> World:
    """Write everything that a build reads."""
    config = Config(workspace=root, milvus=milvus or MilvusSettings())
    workspace = Workspace(root)
    write_rows(workspace.dataset, rows)
    freelancers = [Freelancer.model_validate(row) for row in rows]
    write_vectors(workspace.vectors(FINGERPRINT), freelancers, vectors)
    write_model(workspace.models / "m", dim=vectors.shape[1])
    return World(config, freelancers, vectors)
