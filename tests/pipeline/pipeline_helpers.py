"""Datasets that can be edited, and vectors compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from skillmatch_ray.pipeline.vectors import read_vectors

WORDS = ("React", "developer", "audit", "paint", "steel", "rust", "and", "de", "für", "tax", "video", "cloud")


def profiles(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random freelancers; every third lacks a description, and lengths differ widely."""
    rng = np.random.default_rng(seed)

    def words(most: int) -> list[str]:
        return [str(w) for w in rng.choice(WORDS, size=int(rng.integers(1, most)))]

    return [
        {
            "freelancer_id": f"f{i:06d}",
            "headline": f"{words(3)[0]} {i}",
            "skills": words(5),
            "description": " ".join(words(20)) if i % 3 else None,
            "experiences": [{"title": "work", "description": " ".join(words(8))}] if i % 2 else [],
        }
        for i in range(count)
    ]


def write_freelancers(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "freelancers.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


def vectors_by_id(out: Path) -> dict[str, np.ndarray]:
    """id -> vector; fails where an id comes twice."""
    found: dict[str, np.ndarray] = {}
    for table in read_vectors(out):
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        for freelancer, vector in zip(table["freelancer_id"].to_pylist(), flat.reshape(len(table), -1), strict=True):
            assert freelancer not in found
            found[freelancer] = vector
    return found


def spilled_bytes() -> int:
    """Bytes that the object stores of this cluster have spilled to disk so far."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address
    from ray._private.worker import global_worker

    reply = get_memory_info_reply(get_state_from_address(global_worker.node.gcs_address))
    return int(reply.store_stats.spilled_bytes_total)


def assert_same_vectors(one: dict[str, np.ndarray], other: dict[str, np.ndarray], atol: float = 1e-5) -> None:
    assert sorted(one) == sorted(other)
    ids = sorted(one)
    np.testing.assert_allclose(np.stack([one[i] for i in ids]), np.stack([other[i] for i in ids]), atol=atol)
