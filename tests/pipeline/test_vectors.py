"""Parts, manifest, compaction and the sole writer, without Ray."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_helpers import vectors_by_id

from skillmatch_ray.errors import DatasetError, FingerprintError, LockedError
from skillmatch_ray.pipeline.vectors import (
    STALE_S,
    WRITER_FILE,
    VectorKey,
    check_vectors,
    compact,
    open_vectors,
    read_header,
    read_manifest,
    read_vectors,
    sole_writer,
    stored_keys,
    write_manifest,
    write_part,
)


def add_part(root: Path, names: list[str], content: str = "c") -> np.ndarray:
    vectors = np.random.default_rng(len(names)).standard_normal((len(names), 4)).astype(np.float32)
    write_part(root, [(name, content, "r") for name in names], vectors)
    return vectors


def publish(root: Path, wanted: list[VectorKey], row_hash: str = "r") -> dict:
    stored = stored_keys(root)
    live = {key: (stored[key], row_hash) for key in wanted}
    compact(root, live)
    write_manifest(root, live)
    return live


def test_what_is_written_is_read_with_its_type(tmp_path: Path) -> None:
    open_vectors(tmp_path, "f", 4)
    vectors = add_part(tmp_path, ["a", "b"])
    publish(tmp_path, [VectorKey("a", "c"), VectorKey("b", "c")])
    (table,) = read_vectors(tmp_path)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
    found = vectors_by_id(tmp_path)
    np.testing.assert_array_equal(np.stack([found["a"], found["b"]]), vectors)
    assert read_header(tmp_path) == ("f", 4)


def test_a_doubled_part_is_read_once_and_swept_away(tmp_path: Path) -> None:
    """A retried task writes its block again: two parts hold the same keys."""
    add_part(tmp_path, ["a", "b"])
    add_part(tmp_path, ["a", "b"])
    publish(tmp_path, [VectorKey("a", "c"), VectorKey("b", "c")])
    assert sorted(vectors_by_id(tmp_path)) == ["a", "b"]
    assert len(list(tmp_path.glob("part-*"))) == 1


def test_the_manifest_tells_the_row_hash_of_today(tmp_path: Path) -> None:
    add_part(tmp_path, ["a"])
    publish(tmp_path, [VectorKey("a", "c")], row_hash="new")
    (table,) = read_vectors(tmp_path)
    assert table["row_hash"].to_pylist() == ["new"]


def test_a_part_with_many_dead_rows_is_written_anew(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(10)]
    vectors = add_part(tmp_path, names)
    publish(tmp_path, [VectorKey(name, "c") for name in names[:7]])
    (part,) = tmp_path.glob("part-*")
    assert pq.read_table(part)["freelancer_id"].to_pylist() == names[:7]
    found = vectors_by_id(tmp_path)
    np.testing.assert_array_equal(np.stack([found[name] for name in names[:7]]), vectors[:7])


def test_a_part_with_few_dead_rows_stays(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(10)]
    add_part(tmp_path, names)
    (before,) = tmp_path.glob("part-*")
    publish(tmp_path, [VectorKey(name, "c") for name in names[:9]])
    assert list(tmp_path.glob("part-*")) == [before]
    assert sorted(vectors_by_id(tmp_path)) == names[:9]


def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    vectors = np.ones((2, 4), dtype=np.float32)
    vectors[1, 2] = np.nan
    with pytest.raises(ValueError, match="'b' is not finite"):
        write_part(tmp_path, [("a", "c", "r"), ("b", "c", "r")], vectors)
    assert not list(tmp_path.glob("part-*"))


def test_vectors_of_two_models_never_mix(tmp_path: Path) -> None:
    open_vectors(tmp_path, "one", 4)
    with pytest.raises(FingerprintError, match=r"vectors of model one, not of two"):
        check_vectors(tmp_path, "two")


def test_an_unfinished_encoding_cannot_be_read(tmp_path: Path) -> None:
    add_part(tmp_path, ["a"])
    with pytest.raises(DatasetError, match="no finished encoding"):
        read_manifest(tmp_path)


def _hold(root: Path, held: Event, release: Event) -> None:
    with sole_writer(root, "the first run"):
        held.set()
        release.wait(30)


def test_a_second_writer_is_refused_with_the_owners_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, held, release))
    owner.start()
    try:
        assert held.wait(60)
        with pytest.raises(LockedError, match=rf"the first run by .*process {owner.pid}"), sole_writer(tmp_path, "x"):
            pass
    finally:
        release.set()
        owner.join(30)
    with sole_writer(tmp_path, "x"):
        pass


def test_a_live_writer_of_another_host_is_respected_and_a_silent_one_is_not(tmp_path: Path) -> None:
    owner = {"host": "elsewhere", "user": "ada", "process": 7, "purpose": "skillmatch encode"}
    (tmp_path / WRITER_FILE).write_text(json.dumps(owner | {"alive_at": time.time() - 5}))
    with pytest.raises(LockedError, match=r"ada@elsewhere \(process 7\)"), sole_writer(tmp_path, "x"):
        pass
    (tmp_path / WRITER_FILE).write_text(json.dumps(owner | {"alive_at": time.time() - STALE_S - 1}))
    with sole_writer(tmp_path, "x"):
        assert json.loads((tmp_path / WRITER_FILE).read_text())["purpose"] == "x"
    assert not (tmp_path / WRITER_FILE).exists()


def test_half_written_parts_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".part-0.parquet.1-abc.tmp"
    leftover.write_bytes(b"half")
    with sole_writer(tmp_path, "x"):
        assert not leftover.exists()
