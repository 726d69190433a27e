"""Memory stays flat however many rows there are, and Ray's object store spills nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pipeline_helpers import profiles, spilled_bytes, write_freelancers

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.pipeline.encode import DocumentEncoder, encode_freelancers
from skillmatch_ray.pipeline.spool import Spool

BLOCK = 256


def _resident(model_dir: Path, out: Path, rows: int, early: int) -> tuple[float, float]:
    """Megabytes held after the encoder saw `early` rows, and after `rows`, in a process of its own."""
    (out / "spool").mkdir()
    spool = Spool(out / "spool", BLOCK)
    for row in profiles(rows):
        person = Freelancer.model_validate(row)
        keys = {"freelancer_id": person.id, "content_hash": person.content_hash(), "row_hash": person.row_hash()}
        spool.add(keys | {"document": person.model_dump_json(exclude_none=True)})
    spool.flush()
    encoder = DocumentEncoder(model_dir, out, None, threads=1, device="cpu")
    held = []
    for path in spool.blocks:
        list(encoder(pa.table({"path": [str(path)]})))
        held.append(psutil.Process().memory_info().rss / 2**20)
    return held[early // BLOCK - 1], held[-1]


def test_an_encoder_holds_no_more_after_eight_times_the_rows(tmp_path: Path, model_dir: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        early, late = pool.apply(_resident, (model_dir, tmp_path, 4096, 512))
    assert late < 1.2 * early, (early, late)


@pytest.mark.slow
@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_a_hundred_thousand_rows_peak_like_ten_thousand(
    tmp_path: Path, model_dir: Path, make_config: Callable[..., Config]
) -> None:
    peaks, before = [], spilled_bytes()
    for count in (10_000, 100_000):
        dataset = Dataset(write_freelancers(tmp_path / f"data{count}", profiles(count)))
        config = make_config(workers=2, rows_per_block=BLOCK)
        report = encode_freelancers(config, dataset, model_dir, tmp_path / f"out{count}")
        assert report.rows_in == report.rows_out == report.encoded == count
        peaks.append(report.peak_mb)
    print("peak MB of a worker:", peaks, report.summary())
    assert peaks[1] < 1.2 * peaks[0], peaks
    assert spilled_bytes() == before
