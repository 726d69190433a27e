from __future__ import annotations

import json
from pathlib import Path

import pytest

from skillmatch_ray.benchmarks.search import benchmark_search
from skillmatch_ray.config import Config


def test_a_small_run_reports_every_contestant(tmp_path: Path) -> None:
    result = benchmark_search(Config(), rows=1500, queries=5, dim=32, report=tmp_path / "search.json")
    written = json.loads((tmp_path / "search.json").read_text())
    assert written["retriever_over_raw_p50"] == result.retriever_over_raw_p50 > 0
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
