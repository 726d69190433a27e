"""The serving benchmark: its arithmetic by hand, its batching, its reading of wrk."""

from __future__ import annotations

import asyncio

import numpy as np

from skillmatch_ray.benchmarks.serve import Batcher, Level, ServeBenchmark, conclude, parse_wrk
from skillmatch_ray.documents import Project


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


def test_batches_are_bounded_and_every_caller_gets_its_own_answer():
    sizes = []

    def encode(projects):
        sizes.append(len(projects))
        return [(np.array([len(p.title)], dtype=np.float32), p.id) for p in projects]

    async def run():
        batcher = Batcher(encode, size=4, wait_s=0.01)
        server = asyncio.create_task(batcher.run())
        projects = [Project(project_id=str(i), title="x" * (i + 1)) for i in range(10)]
        answers = await asyncio.gather(*(batcher.encode(p) for p in projects))
        server.cancel()
        return answers

    answers = asyncio.run(run())
    assert [(int(v[0]), name) for v, name in answers] == [(i + 1, str(i)) for i in range(10)]
    assert max(sizes) == 4
    assert sum(sizes) == 10
