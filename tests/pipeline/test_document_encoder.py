"""The actors' plain callables and the pool's arithmetic, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_helpers import profiles

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import BackboneSettings, Config, ConfigError, EncodeSettings, load_config
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import FingerprintError
from skillmatch_ray.glossary import Glossary
from skillmatch_ray.model.linking import link
from skillmatch_ray.model.matcher import GLOSSARY_FILE, Matcher, load_matcher, section_prefix
from skillmatch_ray.pipeline.encode import STAGES, BlockEnd, DocumentEncoder, head_vectors, steady_rates
from skillmatch_ray.pipeline.session import (
    WORKER_BYTES,
    Pool,
    check_pool,
    encode_threads,
    pool_for,
    share_gpus,
    threads_for,
)
from skillmatch_ray.pipeline.spool import Spool, spool_in
from skillmatch_ray.pipeline.token_states import SectionStates


def spooled(root: Path, rows: list[Freelancer], rows_per_block: int = 4) -> Spool:
    root.mkdir()
    spool = Spool(root, rows_per_block)
    for row in rows:
        document = row.model_dump_json(exclude_none=True)
        keys = {"freelancer_id": row.id, "content_hash": row.content_hash(), "row_hash": row.row_hash()}
        spool.add(keys | {"document": document})
    spool.flush()
    return spool


def written(out: Path, dim: int) -> dict[str, np.ndarray]:
    tables = [pq.read_table(part) for part in out.glob("part-*.parquet")]
    flat = np.concatenate([t["vector"].combine_chunks().flatten().to_numpy() for t in tables])
    ids = [name for t in tables for name in t["freelancer_id"].to_pylist()]
    return dict(zip(ids, flat.reshape(-1, dim), strict=True))


def test_the_encoder_equals_a_plain_loop(tmp_path: Path, model_dir: Path) -> None:
    people = [Freelancer.model_validate(row) for row in profiles(10)]
    spool = spooled(tmp_path / "spool", people)
    encoder = DocumentEncoder(model_dir, tmp_path, None, threads=1, device="cpu")
    tables = list(encoder(pa.table({"path": [str(path) for path in spool.blocks]})))
    counts = pa.concat_tables(tables)
    assert counts["rows"].to_pylist() == [4, 4, 2]
    assert all(min(counts[stage].to_pylist()) >= 0 for stage in STAGES)
    matcher = load_matcher(model_dir, "cpu")
    states = matcher.token_states("freelancer", people)
    assert sum(counts["tokens"].to_pylist()) == sum(document.tokens for document in states)
    found = written(tmp_path, matcher.backbone.dim)
    one_by_one = np.concatenate([matcher.encode_freelancers([person]) for person in people])
    np.testing.assert_allclose(np.stack([found[p.id] for p in people]), one_by_one, atol=1e-5)


def test_the_encoder_reads_with_the_glossary_of_the_model(tmp_path: Path, model_dir: Path) -> None:
    people = [Freelancer.model_validate(row) for row in profiles(6)]
    link(
        model_dir,
        Glossary(({"en": ("paint",), "de": ("Farbe",)}, {"en": ("steel",), "de": ("Stahl",)})),
        tmp_path / "m",
    )
    spool = spooled(tmp_path / "spool", people)
    matcher = load_matcher(tmp_path / "m", "cpu")
    encoder = DocumentEncoder(tmp_path / "m", tmp_path, None, threads=1, fingerprint=matcher.fingerprint, device="cpu")
    list(encoder(pa.table({"path": [str(path) for path in spool.blocks]})))
    found = written(tmp_path, matcher.backbone.dim)
    stacked = np.stack([found[person.id] for person in people])
    np.testing.assert_allclose(stacked, matcher.encode_freelancers(people), atol=1e-5)
    assert np.abs(stacked - load_matcher(model_dir, "cpu").encode_freelancers(people)).max() > 0.01


def test_a_model_without_its_glossary_is_noticed(tmp_path: Path, model_dir: Path) -> None:
    linked = link(model_dir, Glossary(({"en": ("paint",), "de": ("Farbe",)},)), tmp_path / "m")
    (tmp_path / "m" / GLOSSARY_FILE).unlink()
    with pytest.raises(FingerprintError, match="tampered"):
        DocumentEncoder(tmp_path / "m", tmp_path, None, threads=1, fingerprint=linked.fingerprint, device="cpu")


def test_in_bfloat16_the_head_stays_near_float32(model_dir: Path, tiny_settings: BackboneSettings) -> None:
    """The same states through both; in float32 nothing changes at all."""
    people = [Freelancer.model_validate(row) for row in profiles(12)]
    matcher = load_matcher(model_dir, "cpu")
    states = matcher.token_states("freelancer", people)
    exact = matcher.towers.encode("freelancer", states)
    np.testing.assert_array_equal(head_vectors(matcher, states), exact)
    half = Backbone(matcher.backbone.checkpoint, tiny_settings.model_copy(update={"dtype": "bfloat16"}), "cpu")
    near = head_vectors(Matcher(half, matcher.towers), states)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.02


def test_states_come_from_the_store_where_it_has_them(
    tmp_path: Path, model_dir: Path, tiny_backbone: Backbone, tiny_settings: BackboneSettings
) -> None:
    """The store holds wrong states for one headline: only a reader of the store gives another vector for it."""
    people = [Freelancer.model_validate(row) for row in profiles(3)]
    store = TokenStateStore(tmp_path / "states", tiny_backbone.fingerprint, tiny_backbone.dim)
    prefix = section_prefix("freelancer", tiny_settings)
    store.add([prefix + people[1].headline], tiny_backbone.encode(["quite another text"]))
    spool = spooled(tmp_path / "spool", people)
    encoder = DocumentEncoder(model_dir, tmp_path, store.root, threads=1, device="cpu")
    list(encoder(pa.table({"path": [str(path) for path in spool.blocks]})))
    found = written(tmp_path, tiny_backbone.dim)
    plain = load_matcher(model_dir, "cpu").encode_freelancers(people)
    difference = [float(np.abs(found[p.id] - v).max()) for p, v in zip(people, plain, strict=True)]
    assert difference[0] < 1e-5
    assert difference[1] > 1e-2
    assert difference[2] < 1e-5


def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(FingerprintError, match="names fingerprint 000000"):
        DocumentEncoder(model_dir, tmp_path, None, threads=1, fingerprint="0" * 64, device="cpu")


def test_section_states_write_what_the_backbone_says(
    tmp_path: Path, tiny_backbone: Backbone, tiny_settings: BackboneSettings
) -> None:
    texts = ["query: React", "query: a longer text about steel", "query: tax"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "block.parquet")
    actor = SectionStates(tiny_settings, tmp_path / "states", threads=1, device="cpu")
    counts = actor(pa.table({"path": [str(tmp_path / "block.parquet")]})).to_pylist()
    store = TokenStateStore(tmp_path / "states", tiny_backbone.fingerprint, tiny_backbone.dim)
    expected = tiny_backbone.encode(texts)
    assert [row["tokens"] for row in counts] == [int(expected.offsets[-1])]
    for i, text in enumerate(texts):
        np.testing.assert_allclose(store.get(text).numpy(), expected[i].half().numpy(), atol=1e-3)


def test_a_spool_keeps_every_row_and_goes_away(tmp_path: Path) -> None:
    with spool_in(tmp_path, 3) as spool:
        for i in range(8):
            spool.add({"text": str(i)})
        spool.flush()
        sizes = [pq.read_metadata(path).num_rows for path in spool.blocks]
        texts = [t for path in spool.blocks for t in pq.read_table(path)["text"].to_pylist()]
    assert sizes == [3, 3, 2]
    assert texts == [str(i) for i in range(8)]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("blocks", "workers", "sizes"), [(3, 2, [1, 1, 1]), (16, 2, [2] * 8), (100, 1, [8] * 12 + [4])]
)
def test_tasks_keep_all_workers_busy(tmp_path: Path, blocks: int, workers: int, sizes: list[int]) -> None:
    spool = Spool(tmp_path, 1, [tmp_path / str(i) for i in range(blocks)])
    tasks = spool.tasks(workers)
    assert [len(task) for task in tasks] == sizes
    assert [path for task in tasks for path in task] == [str(path) for path in spool.blocks]


def test_a_pool_that_would_wait_for_ever_is_refused() -> None:
    settings = EncodeSettings(workers=2, cpus_per_worker=1)
    check_pool(settings, 2, {"CPU": 3})
    with pytest.raises(ConfigError, match=r"encode.workers \(2\) x encode.cpus_per_worker \(1.0\)"):
        check_pool(settings, 2, {"CPU": 2})
    with pytest.raises(ConfigError, match="more than the 1 GPUs"):
        check_pool(EncodeSettings(workers=2, gpus_per_worker=1), 2, {"CPU": 8, "GPU": 1})


def test_a_growing_pool_must_not_shrink() -> None:
    with pytest.raises(ConfigError, match=r"encode.max_workers \(1\)"):
        load_config(overrides=["encode.workers=2", "encode.max_workers=1"])


def test_threads_share_the_cores() -> None:
    assert threads_for(1000, None) == 1
    assert threads_for(2, 5) == 5


def test_gpus_are_shared_by_the_workers() -> None:
    """3 GPUs: a worker each; 2 GPUs for 4 workers: half a card each; the rest of the settings stays."""
    config = load_config(overrides=["encode.rows_per_block=7", "encode.workers=5"])

    def shared(*arguments: Any) -> tuple[int, float, int]:
        encode = share_gpus(config, *arguments).encode
        return encode.workers, encode.gpus_per_worker, encode.rows_per_block

    assert shared("3") == (3, 1.0, 7)
    assert shared("2", 4) == (4, 0.5, 7)
    assert shared("0.5") == (1, 0.5, 7)


@pytest.mark.parametrize(("gpus", "message"), [("0", "there are no GPUs"), ("many", "must be a number or auto")])
def test_gpus_that_are_none_are_refused(gpus: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        share_gpus(load_config(), gpus)


def test_threads_follow_the_cpus_asked_for() -> None:
    """From two CPUs on they are the threads; below, the workers of a machine share all; a number given wins."""
    assert encode_threads(EncodeSettings(cpus_per_worker=4), 3) == 4
    assert encode_threads(EncodeSettings(cpus_per_worker=0.5), 1000) == 1
    assert encode_threads(EncodeSettings(cpus_per_worker=4, threads_per_worker=2), 3) == 2


@pytest.mark.parametrize(
    ("settings", "cores", "resources", "workers"),
    [
        ({}, 2, {"CPU": 4, "memory": 20e9}, 2),  # a local Ray counts each core twice
        ({}, 16, {"CPU": 32, "memory": 5 * WORKER_BYTES}, 5),  # memory for five
        ({}, 2, {"CPU": 4, "memory": 0.1e9}, 1),
        ({}, 8, {"CPU": 8, "memory": 99e9}, 7),  # a cluster reached by address: one CPU feeds them
        ({}, 1, {"CPU": 1, "memory": 99e9}, 1),
        ({}, 0, {}, 1),  # others have all of it
        ({"cpus_per_worker": 4}, 16, {"CPU": 16, "memory": 99e9}, 3),
        ({"threads_per_worker": 4}, 16, {"CPU": 32, "memory": 99e9}, 4),
        ({"gpus_per_worker": 1}, 16, {"CPU": 32, "memory": 99e9, "GPU": 8}, 1),
        ({"workers": 3}, 16, {"CPU": 32, "memory": 99e9}, 3),
        ({"max_workers": 2}, 16, {"CPU": 32, "memory": 99e9}, 2),
    ],
)
def test_workers_fill_the_cores_that_memory_allows(
    settings: dict[str, Any], cores: float, resources: dict[str, float], workers: int
) -> None:
    """Not told otherwise, on CPUs a worker of one thread for each core; check_pool accepts what is chosen."""
    chosen = EncodeSettings(**settings)
    pool = pool_for(chosen, cores, resources)
    assert pool.workers == workers
    if cores > 1:
        check_pool(chosen, pool.workers, resources)


def test_a_pool_may_grow_from_what_is_asked() -> None:
    settings = EncodeSettings(workers=2, max_workers=5, threads_per_worker=1)
    assert pool_for(settings, 8, {"CPU": 16}) == Pool(workers=2, most=5, threads=1)


def test_config_fixture_is_small(make_config: Callable[..., Config]) -> None:
    assert make_config(workers=2).encode.workers == 2


def test_the_steady_rates_leave_out_every_workers_first_block() -> None:
    """a: 30 + 50 tokens in 2 s = 40/s; b: 90 tokens in 3 s = 30/s, told out of order; c: one block, no rate.

    Processor time: 30 + 50 + 90 tokens in 0.5 + 1.5 + 1.4 s = 50/s.
    """
    ends = [
        BlockEnd("b", 9.0, 90, 1.4),
        BlockEnd("a", 5.0, 1000, 7.0),
        BlockEnd("a", 6.0, 30, 0.5),
        BlockEnd("c", 1.0, 77, 7.0),
        BlockEnd("a", 7.0, 50, 1.5),
        BlockEnd("b", 6.0, 1000, 7.0),
    ]
    assert steady_rates(ends) == pytest.approx((70, 50))
