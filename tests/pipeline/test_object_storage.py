"""Datasets and vectors in an object store, against a real S3 server on loopback."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_helpers import assert_same_vectors, profiles, vectors_by_id
from quickstart_helpers import skillmatch, skillmatch_here

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import ConfigError, DatasetError, LockedError
from skillmatch_ray.files import atomic_file, create_text, locate, read_json, read_table, write_json
from skillmatch_ray.index.compaction import compact
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.pipeline.encode import QUARANTINE_FILE, DocumentEncoder, encode_freelancers
from skillmatch_ray.pipeline.spool import spool_in
from skillmatch_ray.pipeline.vectors import STALE_S, WRITER_FILE, sole_writer
from skillmatch_ray.workspace import Workspace

BUCKET = "market"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """An S3 server with one bucket; the environment names it, as it would in production."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        root: Any = locate(f"s3://{BUCKET}")
        root.fs.mkdir(BUCKET)
        yield
    moto.stop()


@pytest.fixture
def place(server: None) -> Path:
    """An empty prefix."""
    return locate(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def put_freelancers(root: Path, rows: list[dict[str, Any]]) -> Dataset:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "freelancers.jsonl").write_text(text, encoding="utf-8")
    return Dataset(root)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "folder"])
def test_every_form_of_a_table_reads_as_from_a_disk(place: Path, form: str) -> None:
    rows = profiles(40)
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    contents = {
        "freelancers.jsonl": b"".join(lines),
        "freelancers.jsonl.gz": gzip.compress(b"".join(lines)),
        "freelancers/a.jsonl": b"".join(lines[:30]),
        "freelancers/b.jsonl.gz": gzip.compress(b"".join(lines[30:])),
    }
    if form == "parquet":
        with (place / "freelancers.parquet").open("wb") as file:
            pq.write_table(pa.Table.from_pylist(rows), file)
    for name, content in contents.items():
        if name == f"freelancers.{form}" or (form == "folder" and "/" in name):
            (place / name).write_bytes(content)
    assert Dataset(place).freelancers() == [Freelancer.model_validate(row) for row in rows]


def test_bad_rows_name_their_object(place: Path) -> None:
    dataset = put_freelancers(place, [{"freelancer_id": "a"}])
    bad: list[Any] = []
    assert not list(dataset.read(FREELANCERS, on_bad=bad.append))
    assert (bad[0].file, bad[0].row) == (f"{place}/freelancers.jsonl", 1)


def test_what_is_not_there_is_told(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"dataset s3://.* is not a directory"):
        Dataset(place).freelancers()
    place.fs.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConfigError, match=r"cannot be reached .*credentials"):
        Dataset(locate(f"s3://{BUCKET}/elsewhere-{uuid.uuid4().hex}")).freelancers()
    place.fs.clear_instance_cache()


def test_unknown_stores_are_refused() -> None:
    with pytest.raises(ConfigError, match="carrier-pigeon"):
        locate("carrier-pigeon://loft/7")


def test_an_object_appears_whole_or_not_at_all(place: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_file(place / "x.bin") as temporary:
        temporary.write_bytes(b"half" * (1 // 0))
    assert not names(place)
    with atomic_file(place / "x.bin") as temporary:
        temporary.write_bytes(b"whole")
        assert not names(place)
    assert (place / "x.bin").read_bytes() == b"whole"


def test_only_one_of_two_creates_an_object(place: Path) -> None:
    assert create_text(place / "owner", "first")
    assert not create_text(place / "owner", "second")
    assert (place / "owner").read_text() == "first"


def test_a_second_writer_is_refused_with_the_owners_name(place: Path) -> None:
    with sole_writer(place, "the first run"):
        with pytest.raises(LockedError, match=f"the first run by .*process {os.getpid()}"), sole_writer(place, "x"):
            pass
        assert names(place) == [WRITER_FILE]
    assert not names(place)


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not psutil.pid_exists(process.pid)
    return process.pid


def test_dead_and_silent_writers_give_way(place: Path) -> None:
    """A killed process of this host at once, one of another host when it was silent for long."""
    owner = {"user": "ada", "purpose": "skillmatch encode", "token": "t"}
    here, now = socket.gethostname(), time.time()
    gone = [
        {"host": here, "process": dead_process(), "alive_at": now},
        {"host": "elsewhere", "process": 1, "alive_at": now - STALE_S - 1},
    ]
    for writer in gone:
        write_json(place / WRITER_FILE, owner | writer)
        with sole_writer(place, "x") as still_mine:
            still_mine()
    write_json(place / WRITER_FILE, owner | {"host": "elsewhere", "process": 1, "alive_at": now})
    with pytest.raises(LockedError, match=r"ada@elsewhere"), sole_writer(place, "x"):
        pass


def test_a_writer_that_was_taken_over_does_not_publish(place: Path) -> None:
    with sole_writer(place, "slow") as still_mine:
        still_mine()
        taken = read_json(place / WRITER_FILE) | {"token": "another's"}
        write_json(place / WRITER_FILE, taken)
        with pytest.raises(LockedError, match="another took over; nothing was published"):
            still_mine()
    assert read_json(place / WRITER_FILE)["token"] == "another's"


def test_a_worker_reads_and_writes_objects(place: Path, model_dir: Path) -> None:
    people = [Freelancer.model_validate(row) for row in profiles(6)]
    with spool_in(place, rows_per_block=4) as spool:
        for person in people:
            keys = {"freelancer_id": person.id, "content_hash": person.content_hash(), "row_hash": person.row_hash()}
            spool.add(keys | {"document": person.model_dump_json(exclude_none=True)})
        spool.flush()
        encoder = DocumentEncoder(model_dir, place, None, threads=1, device="cpu")
        counts = list(encoder(pa.table({"path": [str(path) for path in spool.blocks]})))
    assert [table["rows"].to_pylist() for table in counts] == [[4], [2]]
    assert all(name.startswith("part-") for name in names(place))
    assert len(names(place)) == 2


@pytest.mark.e2e
def test_the_verb_encodes_from_bucket_to_bucket(
    place: Path, tmp_path: Path, model_dir: Path, make_config: Any, tiny_backbone: Any
) -> None:
    """First by the command line with a Ray of its own; then again, with rows removed and a price changed."""
    rows = profiles(60)
    dataset = put_freelancers(place / "data", [*rows, {"freelancer_id": "bad"}])
    config: Config = make_config(max_bad_share=0.1)
    (tmp_path / "config.yaml").write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
    options = ["--dataset", f"{place}/data", "--model", model_dir, "--out", f"{place}/out", "--workers", "2"]
    own = f"workspace={tmp_path / 'workspace'}"  # not the one that lies in the directory of the tests
    done = skillmatch("encode", "--config", tmp_path / "config.yaml", "--set", own, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "61 rows in = 60 vectors + 1 quarantined" in done.stderr
    out = place / "out"
    people = dataset.freelancers()
    plain = dict(zip([p.id for p in people], load_matcher(model_dir, "cpu").encode_freelancers(people), strict=True))
    assert_same_vectors(vectors_by_id(out), plain)
    assert json.loads((out / QUARANTINE_FILE).read_text())["id"] == "bad"
    assert WRITER_FILE not in names(out)

    kept = [row | {"daily_rate_eur": 500} for row in rows[20:]]
    report = encode_freelancers(config, put_freelancers(place / "data", kept), model_dir, out)
    assert (report.rows_out, report.encoded, report.removed) == (40, 0, 20)
    found = vectors_by_id(out)
    assert sorted(found) == [row["freelancer_id"] for row in kept]
    np.testing.assert_array_equal(found["f000030"], vectors_by_id(out)["f000030"])
    assert_same_vectors(found, {row["freelancer_id"]: plain[row["freelancer_id"]] for row in kept})


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_session")
def test_an_index_lives_from_vectors_in_a_bucket(
    place: Path, tmp_path: Path, model_dir: Path, make_config: Any
) -> None:
    """Built, searched, updated in place and compacted; the workspace never holds a vector of its own.

    Where something is encoded the verb has a process of its own: workers of the session's Ray do not know the
    bucket's keys.
    """
    rows, out = profiles(40), place / "vectors"
    config = make_config().model_copy(update={"workspace": tmp_path / "workspace"})
    (tmp_path / "config.yaml").write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
    dataset = put_freelancers(place / "data", rows)

    verb = ["reindex", "--dataset", f"{place}/data", "--config", tmp_path / "config.yaml"]
    refused = skillmatch_here(*verb, "--changed", "--vectors", out)
    assert (refused.returncode, "leave out --vectors" in refused.stderr) == (1, True), refused
    assert not names(place / "vectors")
    done = skillmatch(*verb, "--model", model_dir, "--vectors", out)
    assert done.returncode == 0, done.stderr[-3000:]
    workspace = Workspace(config.workspace)
    release = active_release(workspace)
    assert (release.rows, release.vectors_dir) == (40, out)
    assert release.as_dict()["vectors_dir"] == str(out)

    def best(retriever: Retriever, query: Any) -> str:
        return retriever.search(query, top_k=1, fingerprint=release.fingerprint).candidates[0].freelancer_id

    before = vectors_by_id(out)
    with Retriever(config) as retriever:
        assert best(retriever, before["f000007"]) == "f000007"
        retriever.delete("f000003")
    rows[5] |= {"headline": "Beekeeper"}
    put_freelancers(place / "data", rows)
    done = skillmatch(*verb, "--changed")
    assert done.returncode == 0, done.stderr[-3000:]
    after = vectors_by_id(out)
    assert [key for key in before if not np.array_equal(before[key], after.get(key))] == ["f000003", "f000005"]
    with Retriever(config) as retriever:
        assert best(retriever, after["f000005"]) == "f000005"
    assert compact(config, workspace, dataset).vectors == 1
    for part in out.glob("part-*.parquet"):
        assert "f000003" not in read_table(part)["freelancer_id"].to_pylist()
    done = skillmatch_here(*verb)
    assert done.returncode == 0, done.stderr
    assert (active_release(workspace).rows, active_release(workspace).vectors_dir) == (39, out)
    assert not [*workspace.root.glob("vectors/*/")]
