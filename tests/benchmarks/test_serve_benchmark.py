"""The serving benchmark: its arithmetic by hand, its briefs, its reading of wrk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from quickstart_helpers import skillmatch
from waiting import free_port

from skillmatch_ray.benchmarks.serve import Level, ServeBenchmark, brief_lengths, conclude, parse_wrk


def test_the_keys_compare_served_with_direct():
    result = ServeBenchmark(
        direct=[Level(1, 50, 10, 12, 13), Level(32, 200, 150, 160, 170)],
        served=[
            Level(1, 40, 16.5, 20, 30),
            Level(32, 150, 200, 210, 220, busy=2, errors=1),
            Level(128, 150, 300, 310, 320, busy=9, errors=4),
        ],
    )
    conclude(result)
    assert result.added_p50_ms_1_client == 6.5
    assert result.throughput_over_direct_32_clients == 0.75
    assert result.errors == 2 + 1 + 4


def test_wrk_is_read_line_by_line():
    line = 'RESULT {"ok": 30, "busy": 2, "other": 1, "p50": 1.5, "p95": 2.25, "p99": 9.0, "seconds": 2.0}'
    assert parse_wrk(f"Running 2s test\n\n{line}\n", 8) == Level(8, 15.0, 1.5, 2.25, 9.0, busy=2, errors=1)


def test_briefs_have_250_tokens_on_average_and_600_at_the_95th_percentile():
    lengths = brief_lengths(1000)
    assert np.mean(lengths) == pytest.approx(250, rel=0.01)
    assert np.percentile(lengths, 95) == pytest.approx(600, rel=0.01)
    assert min(lengths) >= 1


@pytest.mark.slow
@pytest.mark.e2e
def test_the_service_is_measured_from_end_to_end(tiny_workspace, tmp_path):
    report = tmp_path / "serve.json"
    done = skillmatch(
        "benchmark", "serve", "-w", tiny_workspace.root, "-c", tiny_workspace.config, "--seconds", 2, "--soak", 0.2,
        "-s", f"serving.port={free_port()}", "--report", report, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert [level["clients"] for level in found["served"]] == [1, 8, 32, 128]
    assert found["errors"] == 0
    assert set(found["hop_ms"]) == {"encode", "search", "app", "http"}
    assert set(found["soak"]["statuses"]) <= {"200", "503"}
    assert found["soak"]["lost"] == 0
    assert found["soak"]["memory"]["peak_mb"] > 100
