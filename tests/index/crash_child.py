"""What the killed process was doing; a module of its own, so that it can be imported before it is forked.

With it come the slow packages, or many kills would hit their imports.
"""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import milvus_lite.server_manager  # noqa: F401
import numpy as np
import pymilvus  # noqa: F401
from index_helpers import FINGERPRINT

from skillmatch_ray.config import Config, MilvusSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.index.releases import activate, build_release, list_releases
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.workspace import Workspace

INSERT_MB = 0.05


def run(work: str, root: Path, out: Connection) -> None:
    """Build, switch or upsert, telling what is done."""
    config = Config(workspace=root, milvus=MilvusSettings(insert_mb=INSERT_MB))
    out.send("go")
    {"build": build, "switch": switch, "upsert": upsert}[work](config, out)


def build(config: Config, out: Connection) -> None:
    workspace = Workspace(config.workspace)
    dataset, vectors = Dataset(workspace.dataset), workspace.vectors(FINGERPRINT)
    out.send(build_release(config, workspace, dataset, workspace.models / "m", vectors).name)


def switch(config: Config, out: Connection) -> None:
    workspace = Workspace(config.workspace)
    for release in itertools.cycle(list_releases(workspace)):
        out.send(activate(workspace, release.name, config).name)


def upsert(config: Config, out: Connection) -> None:
    vectors = np.eye(32, dtype=np.float32)
    with Retriever(config) as retriever:
        for i in itertools.count():
            name = f"online{i % 50:03d}"
            if i % 7 == 6:
                retriever.delete(name)
                out.send(f"deleted {name}")
            else:
                row = Freelancer(freelancer_id=name, headline=f"h{i}")
                retriever.upsert(row, vectors[i % 32], fingerprint=FINGERPRINT)
                out.send(f"upserted {name} h{i}")
