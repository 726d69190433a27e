"""The search benchmark: its data, its contestants, and the figures that it reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skillmatch_ray.benchmarks.population import DISTANCE, SHARES, freelancer_id, write_population
from skillmatch_ray.benchmarks.search import benchmark_search
from skillmatch_ray.config import Config, MilvusSettings
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.errors import MilvusError
from skillmatch_ray.index.build import INDEXED, INSERTED
from skillmatch_ray.index.filters import passes


def test_a_small_run_reports_every_contestant(tmp_path: Path) -> None:
    result = benchmark_search(Config(), rows=1500, queries=5, dim=32, report=tmp_path / "search.json")
    written = json.loads((tmp_path / "search.json").read_text())
    assert result.unfinished == written["unfinished"] == ""
    assert written["reached"] == {INSERTED: 1500, INDEXED: 1500}
    assert written["retriever_over_raw_p50"] == result.retriever_over_raw_p50
    assert result.retriever_over_raw_p50 is not None
    assert result.retriever_over_raw_p50 > 0
    assert result.min_recall_at_10 == result.min_recall_at_100 == 1.0
    assert set(result.workloads) == {"100%", "50%", "10%", "1%", "0.1%"}
    for name, share in {"100%": 1.0, "50%": 0.5, "10%": 0.1, "1%": 0.01}.items():
        workload = result.workloads[name]
        assert set(workload.timings) == {"retriever", "raw", "numpy_exact", "faiss_hnsw"}
        assert workload.passing == pytest.approx(share, rel=0.5)
        assert workload.timings["raw"].recall_at_10 == 1.0
    assert set(result.distance) == {"50 km", "no radius"}
    assert 0 < result.freshness["p50_ms"] <= result.freshness["p99_ms"]
    assert result.setting["rows"] == written["build"]["gate"]["rows"] == 1500


def test_a_build_that_takes_too_long_tells_the_rows_it_reached(tmp_path: Path) -> None:
    config = Config(milvus=MilvusSettings(insert_mb=0.1))
    result = benchmark_search(config, rows=1500, queries=1, dim=32, build_minutes=0, report=tmp_path / "search.json")
    written = json.loads((tmp_path / "search.json").read_text())
    assert "0 minutes" in result.unfinished == written["unfinished"]
    assert 0 < written["reached"][INSERTED] < 1500
    assert written["retriever_over_raw_p50"] is written["min_recall_at_10"] is None


def test_a_run_that_fails_leaves_its_report(tmp_path: Path) -> None:
    gone = Config(milvus=MilvusSettings(uri="http://127.0.0.1:1", timeout_s=1))
    with pytest.raises(MilvusError, match="no Milvus"):
        benchmark_search(gone, rows=1000, queries=1, dim=8, report=tmp_path / "search.json")
    assert "MilvusError: no Milvus" in json.loads((tmp_path / "search.json").read_text())["unfinished"]


def test_the_population_is_what_it_says(tmp_path: Path) -> None:
    """Who passes, against the rows as they were written; the exact answer, against a full sort."""
    found = write_population(tmp_path / "d", tmp_path / "v", "f" * 64, rows=1200, queries=3, dim=16, seed=1)
    people = list(Dataset(tmp_path / "d").read(FREELANCERS))
    assert [row.id for row in people] == [freelancer_id(i) for i in range(1200)]
    for name, filters in (SHARES | DISTANCE).items():
        passing = [i for i, row in enumerate(people) if passes(row, filters)]
        assert found.passing[name].tolist() == passing
        for k in (5, 1200):
            scores = found.vectors[passing] @ found.queries[0]
            expected = [people[passing[i]].id for i in np.argsort(-scores)[:k]]
            assert found.best(found.queries[0], found.passing[name], k) == expected
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
