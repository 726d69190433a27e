"""`skillmatch benchmark serve`: the service under wrk on loopback, beside the same engine in one process.

Briefs are put together from the dataset's own projects, 250 tokens on average (95th percentile 600). Direct
means the same encoder, batching and index, called by coroutines of this process; it runs first, because an
embedded index has one owner.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from skillmatch_ray.backbone.resolve import resolve_backbone
from skillmatch_ray.benchmarks.memory import Memory, watch_memory
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import PROJECTS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import write_json
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.model.matcher import read_model_config
from skillmatch_ray.workspace import Workspace, provenance

LEVELS = (1, 8, 32, 128)
COMPARED_CLIENTS = 32
BRIEFS = 200
MEAN_TOKENS, P95_TOKENS = 250, 600
TOP_K = 10
HOP_REQUESTS = 40
BEYOND_CAPACITY = 1.5
SOAK_CLIENTS = 256
_SETTLE_S = 5.0

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


@dataclass(frozen=True)
class Soak:
    """A load beyond capacity, held for a while.

    Attributes:
        minutes: it was held.
        offered_per_s: requests that were to be sent in a second.
        statuses: HTTP status -> answers.
        lost: connections that broke, or were given up.
        answered_per_s: answers 200 in a second.
        memory: of the service's processes.
    """

    minutes: float
    offered_per_s: float
    statuses: dict[str, int]
    lost: int
    answered_per_s: float
    memory: Memory | None


@dataclass
class ServeBenchmark:
    """The report.

    Attributes:
        direct: without Serve and HTTP.
        served: through HTTP.
        hop_ms: median milliseconds of each hop for one client: encode and search as the service tells them, app for
            the rest inside the ingress (JSON, checks, deadlines), http for the rest outside (proxy, sockets).
        added_p50_ms_1_client: what HTTP and Serve add to the median.
        throughput_over_direct_32_clients: served / direct.
        errors: anything but 200 at up to 32 clients, anything but 200 and 503 beyond.
        soak: what a load beyond capacity did, where asked for.
        setting: where and over what it was measured.
    """

    direct: list[Level] = field(default_factory=list)
    served: list[Level] = field(default_factory=list)
    hop_ms: dict[str, float] = field(default_factory=dict)
    added_p50_ms_1_client: float = 0.0
    throughput_over_direct_32_clients: float = 0.0
    errors: int = 0
    soak: Soak | None = None
    setting: dict[str, Any] = field(default_factory=dict)


def benchmark_serve(
    config: Config,
    *,
    seconds: float = 10.0,
    soak_minutes: float = 0.0,
    levels: Sequence[int] = LEVELS,
    report: Path | None = None,
) -> ServeBenchmark:
    """Measure the active release of the workspace.

    Args:
        config: workspace and serving settings.
        seconds: for each level.
        soak_minutes: how long to hold 1.5 times the capacity afterwards.
        levels: numbers of clients; 1 and 32 are always measured.
        report: where to write the result as JSON.

    Raises:
        ConfigError: if wrk, or for the soak hey, is not installed.
        ReleaseError: if there is no active release.
    """
    from skillmatch_ray.serving.run import serving

    _need("wrk", *(("hey",) if soak_minutes else ()))
    levels = sorted({1, COMPARED_CLIENTS, *levels})
    briefs, tokens = make_briefs(config)
    result = ServeBenchmark(setting={"seconds": seconds, "brief_tokens": tokens, **provenance(config)})
    result.direct = _direct(config, briefs, seconds)
    bodies = [_body(brief) for brief in briefs]
    with serving(config) as address:
        _wrk(address, bodies, COMPARED_CLIENTS, min(seconds, 5.0))  # warm-up
        result.hop_ms = _hops(address, bodies)
        result.served = [_wrk(address, bodies, clients, seconds) for clients in levels]
        if soak_minutes:
            capacity = max(level.per_s for level in result.served)
            result.soak = _soak(address, bodies, soak_minutes, BEYOND_CAPACITY * capacity)
    conclude(result)
    if report:
        write_json(report, asdict(result))
    return result


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise ConfigError(f"the benchmark needs {tool}: install it, as in `apt-get install {tool}`")


def make_briefs(config: Config, count: int = BRIEFS) -> tuple[list[Project], dict[str, float]]:
    """Projects with log-normally many tokens, and the mean and 95th percentile of those that they have.

    The lengths are quantiles of the distribution, in a mixed order, so that every run has the same.
    """
    projects = list(Dataset(config.workspace / "dataset").read(PROJECTS))
    model = read_model_config(active_release(Workspace(config.workspace)).model_dir)
    tokenizer = Tokenizer.from_file(str(resolve_backbone(model["backbone"]["name"]) / "tokenizer.json"))
    text = " ".join(project.description or project.title for project in projects)
    spans = tokenizer.encode(text, add_special_tokens=False).offsets
    rng = np.random.default_rng(0)
    briefs, lengths = [], []
    for i, length in enumerate(rng.permutation(brief_lengths(count))):
        title = projects[i % len(projects)].title
        rest = max(1, int(length) - len(tokenizer.encode(title, add_special_tokens=False).ids))
        first = int(rng.integers(max(1, len(spans) - rest)))
        last = min(len(spans), first + rest) - 1
        briefs.append(Project(project_id=f"b{i}", title=title, description=text[spans[first][0] : spans[last][1]]))
        lengths.append(length)
    told = {"mean": round(float(np.mean(lengths)), 1), "p95": round(float(np.percentile(lengths, 95)), 1)}
    return briefs, told


def brief_lengths(count: int) -> list[int]:
    """Quantiles of the log-normal distribution with mean 250 and 95th percentile 600.

    With z = 1.645: mean = exp(m + s^2 / 2) and p95 = exp(m + z s), so s = z - sqrt(z^2 - 2 ln(p95 / mean)).
    """
    normal = statistics.NormalDist()
    z = normal.inv_cdf(0.95)
    spread = z - float(np.sqrt(z**2 - 2 * np.log(P95_TOKENS / MEAN_TOKENS)))
    middle = float(np.log(MEAN_TOKENS)) - spread**2 / 2
    return [round(float(np.exp(middle + spread * normal.inv_cdf((i + 0.5) / count)))) for i in range(count)]


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


def _direct(config: Config, briefs: list[Project], seconds: float) -> list[Level]:
    from skillmatch_ray.serving.deployments import IndexRetriever, ProjectEncoder

    values = config.model_dump(mode="json")

    async def measure(clients: int) -> Level:
        # In here: its batches belong to the running loop.
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def client(at: int) -> None:
            while time.perf_counter() < end:
                started = time.perf_counter()
                vector, fingerprint = await encoder.encode(briefs[at % len(briefs)])
                await index.search(vector, Filters(), TOP_K, fingerprint)
                latencies.append(1000 * (time.perf_counter() - started))
                at += clients

        started = time.perf_counter()
        await asyncio.gather(*(client(i) for i in range(clients)))
        elapsed = time.perf_counter() - started
        p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).round(2).tolist()
        return Level(clients, round(len(latencies) / elapsed, 2), p50, p95, p99)

    encoder, index = ProjectEncoder(values, _unheard), IndexRetriever(values, _unheard)
    try:
        encoder.service.encode(briefs[:COMPARED_CLIENTS])  # warm-up
        return [asyncio.run(measure(clients)) for clients in (1, COMPARED_CLIENTS)]
    finally:
        encoder.close()
        index.close()


def _unheard(name: str, value: float, tags: dict[str, str]) -> None:
    """Metrics of a measurement that Ray does not collect."""


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
    """Median milliseconds by hop."""
    seen: dict[str, list[float]] = {}
    time.sleep(_SETTLE_S)  # what the clients of the warm-up left under way ends first
    for body in bodies[:HOP_REQUESTS]:
        request = urllib.request.Request(  # noqa: S310
            f"{address}/v1/match", body.encode(), {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            hops = json.load(answer)["milliseconds"]
            inside = float(answer.headers["server-timing"].rpartition("=")[2])
        total = 1000 * (time.perf_counter() - started)
        for name, value in {**hops, "app": inside - sum(hops.values()), "http": total - inside}.items():
            seen.setdefault(name, []).append(value)
    return {name: round(statistics.median(values), 2) for name, values in seen.items()}


def _soak(address: str, bodies: Sequence[str], minutes: float, offered_per_s: float) -> Soak:
    body = sorted(bodies, key=len)[len(bodies) // 2]
    command = ["hey", "-z", f"{minutes}m", "-c", str(SOAK_CLIENTS), "-q", f"{offered_per_s / SOAK_CLIENTS:.4f}"]
    command += ["-t", "30", "-m", "POST", "-T", "application/json", "-d", body, f"{address}/v1/match"]
    with watch_memory("ServeReplica:", period_s=2.0) as memory:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    statuses, lost = parse_hey(done.stdout)
    answered = round(statuses.get("200", 0) / (60 * minutes), 2)
    return Soak(minutes, round(offered_per_s, 2), statuses, lost, answered, memory.summary())


def parse_hey(output: str) -> tuple[dict[str, int], int]:
    r"""Answers by status, and requests without one, from what hey prints.

    Example:
        >>> parse_hey("Status code distribution:\n  [200]\t7 responses\n\nError distribution:\n  [2]\tPost: EOF\n")
        ({'200': 7}, 2)
    """
    statuses = {code: int(count) for code, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", output)}
    _, _, errors = output.partition("Error distribution:")
    return statuses, sum(int(count) for count in re.findall(r"^\s*\[(\d+)\]", errors, flags=re.MULTILINE))
