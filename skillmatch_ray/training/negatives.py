"""The file of mined negatives: which freelancers a model took for good ones, project by project."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import atomic_file

NEGATIVES_FILE: Final = "negatives.parquet"
SCHEMA: Final = pa.schema(
    [("project_id", pa.string()), ("freelancer_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())]
)


def write_negatives(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows of `SCHEMA`, whole or not at all."""
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        DatasetError: if there is no file.
    """
    if not path.is_file():
        raise DatasetError(f"training.mined_negatives: {path} does not exist: run `skillmatch mine` first")
    return path


def read_negatives(path: Path) -> dict[str, list[str]]:
    """Project id -> ids of its mined freelancers, hardest first.

    Raises:
        DatasetError: if the file is missing.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for row in pq.read_table(existing(path), columns=["project_id", "freelancer_id"]).to_pylist():
        found[row["project_id"]].append(row["freelancer_id"])
    return dict(found)
