"""`skillmatch benchmark serve`: the service under wrk on loopback, beside the same engine in one process.

Briefs are put together from the sample's own projects, 250 words on average. Direct means the same
encoder, batching and index, called by coroutines of this process; it runs first, because an embedded
index has one owner.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import PROJECTS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import write_json
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.serving.services import EncoderService, RetrieverService, Vector
from skillmatch_ray.workspace import provenance

LEVELS = (1, 8, 32, 128)
COMPARED_CLIENTS = 32
BRIEFS = 64
MEAN_WORDS = 250
TOP_K = 10
HOP_REQUESTS = 20

_SCRIPT = """
local bodies = {}
for line in io.lines(%s) do bodies[#bodies + 1] = line end
local threads, next_body = {}, 0
ok, busy, other = 0, 0, 0
function setup(thread) threads[#threads + 1] = thread end
function request()
  next_body = next_body %% #bodies + 1
  return wrk.format("POST", "/v1/match", {["Content-Type"] = "application/json"}, bodies[next_body])
end
function response(status)
  if status == 200 then ok = ok + 1 elseif status == 503 then busy = busy + 1 else other = other + 1 end
end
function done(summary, latency, requests)
  local sum = {ok = 0, busy = 0, other = 0}
  for _, thread in ipairs(threads) do
    for name in pairs(sum) do sum[name] = sum[name] + thread:get(name) end
  end
  local e = summary.errors
  local lost = e.connect + e.read + e.write + e.timeout
  io.write(string.format(
    '\\nRESULT {"ok": %%d, "busy": %%d, "other": %%d, "p50": %%f, "p95": %%f, "p99": %%f, "seconds": %%f}\\n',
    sum.ok, sum.busy, sum.other + lost, latency:percentile(50) / 1000, latency:percentile(95) / 1000,
    latency:percentile(99) / 1000, summary.duration / 1e6))
end
"""


@dataclass(frozen=True)
class Level:
    """What one number of clients saw.

    Attributes:
        clients: at once.
        per_s: requests answered 200 in a second.
        p50_ms: median latency of all answers.
        p95_ms: of all answers.
        p99_ms: of all answers.
        busy: answers 503.
        errors: any other answer than 200 or 503, and connections lost.
    """

    clients: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    busy: int = 0
    errors: int = 0


@dataclass
class ServeBenchmark:
    """The report.

    Attributes:
        direct: without Serve and HTTP.
        served: through HTTP.
        hop_ms: mean milliseconds of each hop for one client, as the service tells them.
        added_p50_ms_1_client: what HTTP and Serve add to the median.
        throughput_over_direct_32_clients: served / direct.
        errors: anything but 200 at up to 32 clients, anything but 200 and 503 beyond.
        setting: where and over what it was measured.
    """

    direct: list[Level] = field(default_factory=list)
    served: list[Level] = field(default_factory=list)
    hop_ms: dict[str, float] = field(default_factory=dict)
    added_p50_ms_1_client: float = 0.0
    throughput_over_direct_32_clients: float = 0.0
    errors: int = 0
    setting: dict[str, Any] = field(default_factory=dict)


def benchmark_serve(
    config: Config, *, seconds: float = 10.0, levels: Sequence[int] = LEVELS, report: Path | None = None
) -> ServeBenchmark:
    """Measure the active release of the workspace.

    Args:
        config: workspace and serving settings.
        seconds: for each level.
        levels: numbers of clients; 1 and 32 are always measured.
        report: where to write the result as JSON.

    Raises:
        ConfigError: if wrk is not installed.
        ReleaseError: if there is no active release.
    """
    from skillmatch_ray.serving.run import start, stop

    if shutil.which("wrk") is None:
        raise ConfigError("the benchmark needs wrk: install it, as in `apt-get install wrk`")
    levels = sorted({1, COMPARED_CLIENTS, *levels})
    result = ServeBenchmark(setting={"seconds": seconds, **provenance(config)})
    briefs = make_briefs(config)
    result.direct = _direct(config, briefs, seconds)
    address = start(config)
    try:
        bodies = [_body(brief) for brief in briefs]
        _wrk(address, bodies, 1, min(seconds, 5.0))  # warm-up
        result.served = [_wrk(address, bodies, clients, seconds) for clients in levels]
        result.hop_ms = _hops(address, bodies)
    finally:
        stop()
    conclude(result)
    if report:
        write_json(report, asdict(result))
    return result


def make_briefs(config: Config, seed: int = 0) -> list[Project]:
    """Projects with descriptions of 250 words on average (exponential, so that a few are long)."""
    projects = list(Dataset(config.workspace / "dataset").read(PROJECTS))
    rng = np.random.default_rng(seed)
    words = " ".join(project.description or project.title for project in projects).split()
    briefs = []
    for i, length in enumerate(rng.exponential(MEAN_WORDS, size=BRIEFS)):
        start = int(rng.integers(max(1, len(words) - MEAN_WORDS)))
        text = " ".join(words[start : start + max(5, int(length))])
        briefs.append(Project(project_id=f"b{i}", title=projects[i % len(projects)].title, description=text))
    return briefs


def _body(brief: Project) -> str:
    project = {"title": brief.title, "description": brief.description}
    return json.dumps({"project": project, "filters": {}, "top_k": TOP_K})


def conclude(result: ServeBenchmark) -> None:
    """Fill in the keys that compare."""
    direct = {level.clients: level for level in result.direct}
    served = {level.clients: level for level in result.served}
    result.added_p50_ms_1_client = round(served[1].p50_ms - direct[1].p50_ms, 2)
    ratio = served[COMPARED_CLIENTS].per_s / direct[COMPARED_CLIENTS].per_s
    result.throughput_over_direct_32_clients = round(ratio, 3)
    result.errors = sum(
        level.errors + (level.busy if level.clients <= COMPARED_CLIENTS else 0) for level in result.served
    )


class Batcher:
    """Batches concurrent calls as `serve.batch` does.

    Args:
        encode: of many projects.
        size: of a batch at most.
        wait_s: how long a batch waits to fill.
    """

    def __init__(self, encode: Callable[[list[Project]], list[tuple[Vector, str]]], size: int, wait_s: float) -> None:
        self._encode, self._size, self._wait_s = encode, size, wait_s
        self._queue: asyncio.Queue[tuple[Project, asyncio.Future[tuple[Vector, str]]]] = asyncio.Queue()

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and fingerprint."""
        future: asyncio.Future[tuple[Vector, str]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((project, future))
        return await future

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(self._wait_s)
            while len(batch) < self._size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            encoded = await asyncio.to_thread(self._encode, [project for project, _ in batch])
            for (_, future), answer in zip(batch, encoded, strict=True):
                future.set_result(answer)


def _direct(config: Config, briefs: list[Project], seconds: float) -> list[Level]:
    limits = config.serving
    encoder = EncoderService(config, threads_for(limits.encoder_replicas, None))
    index = RetrieverService(config)

    async def measure(clients: int) -> Level:
        batcher = Batcher(encoder.encode, limits.max_batch_size, limits.batch_wait_ms / 1000)
        server = asyncio.create_task(batcher.run())
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def client(at: int) -> None:
            while time.perf_counter() < end:
                started = time.perf_counter()
                vector, fingerprint = await batcher.encode(briefs[at % len(briefs)])
                await asyncio.to_thread(index.search, vector, Filters(), TOP_K, fingerprint)
                latencies.append(1000 * (time.perf_counter() - started))
                at += clients

        started = time.perf_counter()
        await asyncio.gather(*(client(i) for i in range(clients)))
        elapsed = time.perf_counter() - started
        server.cancel()
        p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).round(2).tolist()
        return Level(clients, round(len(latencies) / elapsed, 2), p50, p95, p99)

    try:
        encoder.encode(briefs[:1])
        return [asyncio.run(measure(clients)) for clients in (1, COMPARED_CLIENTS)]
    finally:
        index.close()


def _wrk(address: str, bodies: Sequence[str], clients: int, seconds: float) -> Level:
    with tempfile.TemporaryDirectory() as directory:
        lines, script = Path(directory) / "bodies.jsonl", Path(directory) / "load.lua"
        lines.write_text("\n".join(bodies) + "\n", encoding="utf-8")
        script.write_text(_SCRIPT % json.dumps(str(lines)), encoding="utf-8")
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout=30s", "-s", str(script)]
        done = subprocess.run([*command, address], capture_output=True, text=True, check=True)  # noqa: S603
    return parse_wrk(done.stdout, clients)


def parse_wrk(output: str, clients: int) -> Level:
    """The line that the script writes, as a level."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    p50, p95, p99 = (round(found[name], 2) for name in ("p50", "p95", "p99"))
    per_s = round(found["ok"] / found["seconds"], 2)
    return Level(clients, per_s, p50, p95, p99, busy=found["busy"], errors=found["other"])


def _hops(address: str, bodies: Sequence[str]) -> dict[str, float]:
    """Mean milliseconds by hop; `rest` is HTTP, Serve and JSON."""
    totals: dict[str, float] = {"encode": 0.0, "search": 0.0, "rest": 0.0}
    for body in bodies[:HOP_REQUESTS]:
        request = urllib.request.Request(  # noqa: S310
            f"{address}/v1/match", body.encode(), {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            hops = json.load(answer)["milliseconds"]
        total = 1000 * (time.perf_counter() - started)
        for name, value in {**hops, "rest": total - sum(hops.values())}.items():
            totals[name] += value / min(len(bodies), HOP_REQUESTS)
    return {name: round(value, 2) for name, value in totals.items()}
