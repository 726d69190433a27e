"""Work for actors, spooled on disk in small blocks, so that only paths travel through Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.files import make_directory, remove_tree

SPOOL_DIRECTORY = ".spool"


@dataclass
class Spool:
    """Rows of one schema, written as they come in blocks of `rows_per_block`.

    Attributes:
        root: directory that all workers reach.
        rows_per_block: rows that are held in memory at once.
        blocks: the files written so far.
        rows: added so far.
    """

    root: Path
    rows_per_block: int
    blocks: list[Path] = field(default_factory=list)
    rows: int = 0
    _waiting: list[dict[str, str]] = field(default_factory=list, repr=False)

    def add(self, row: dict[str, str]) -> None:
        """Take one row."""
        self.rows += 1
        self._waiting.append(row)
        if len(self._waiting) >= self.rows_per_block:
            self.flush()

    def flush(self) -> None:
        """Write what waits; call it after the last row."""
        if not self._waiting:
            return
        path = self.root / f"{len(self.blocks):06d}.parquet"
        with path.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(self._waiting), file)
        self.blocks.append(path.resolve())
        self._waiting = []

    def tasks(self, workers: int, most: int = 8) -> list[list[str]]:
        """Blocks grouped into tasks: several to a task, so that reading ahead pays; at least four for each worker."""
        size = max(1, min(most, len(self.blocks) // (4 * workers)))
        paths = [str(path) for path in self.blocks]
        return [paths[i : i + size] for i in range(0, len(paths), size)]


@contextlib.contextmanager
def spool_in(directory: Path, rows_per_block: int) -> Iterator[Spool]:
    """A fresh spool below `directory`, removed at the end; what a killed run left there goes first."""
    root = directory / SPOOL_DIRECTORY
    remove_tree(root)
    make_directory(root)
    try:
        yield Spool(root, rows_per_block)
    finally:
        remove_tree(root)
