"""Faults on a simulated cluster, each in a process of its own. Arguments: fault, config.json, directory for results."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A lost node is noticed within seconds instead of half a minute.
os.environ.update(
    RAY_health_check_period_ms="500", RAY_health_check_timeout_ms="1000", RAY_health_check_failure_threshold="4"
)

import httpx
import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster
from waiting import wait_for

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.files import write_json
from skillmatch_ray.pipeline.encode import encode_freelancers
from skillmatch_ray.workspace import Workspace

WAIT_S = 240.0
MEGABYTE = 2**20


def start(head_cpus: int, *, store_mb: int = 200) -> Cluster:
    head = {"num_cpus": head_cpus, "include_dashboard": False, "object_store_memory": store_mb * MEGABYTE}
    return Cluster(initialize_head=True, head_node_args=head)


def connect(cluster: Cluster) -> None:
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """The thread, and the list that its result, or its error, comes into: nodes come and go in the main thread only."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as e:  # noqa: BLE001  # told to the main thread, which fails with it
            results.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def result_of(thread: threading.Thread, results: list[Any]) -> Any:
    thread.join(WAIT_S)
    if not results or isinstance(results[0], Exception):
        raise RuntimeError("the work did not end well") from (results[0] if results else None)
    return results[0]


def model_of(config: Config) -> Path:
    return next(Workspace(config.workspace).models.glob("head-*"))


def training_node_lost(config: Config, out: Path) -> dict[str, Any]:
    """The only node with room for the worker goes after some steps; another one comes later."""
    from skillmatch_ray.training.train import train

    cluster = start(1)
    node = cluster.add_node(num_cpus=2)
    connect(cluster)
    workspace, metrics = Workspace(config.workspace), out / "run" / "metrics.jsonl"
    work = in_background(
        lambda: train(config, Dataset(workspace.dataset), workspace.token_states, out / "model", out / "run")
    )
    wait_for(lambda: steps_in(metrics) >= 30, "the thirtieth step")
    cluster.remove_node(node, allow_graceful=False)
    before = steps_in(metrics)
    cluster.add_node(num_cpus=2)
    report = result_of(*work)
    return {"steps_before": before, "steps": report.steps, "steps_done": steps_in(metrics)}


def steps_in(metrics: Path) -> int:
    """Steps that a run has told of, those done twice included."""
    return sum('"loss":' in line for line in metrics.read_text().splitlines()) if metrics.is_file() else 0


def serving_node_lost(config: Config, out: Path) -> dict[str, Any]:
    """All replicas are on one node; it goes, and another has room."""
    from skillmatch_ray.serving.run import serving

    del out
    cluster = start(0)
    node = cluster.add_node(num_cpus=3)
    connect(cluster)
    with serving(config) as address:
        before = ask(address)
        cluster.add_node(num_cpus=3)
        cluster.wait_for_nodes()
        doomed = psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
        lost_at = time.monotonic()
        cluster.remove_node(node, allow_graceful=False)
        # Its replica outlives the raylet for a moment, and what it still answers tells nothing.
        wait_for(lambda: all(map(_has_ended, doomed)), "the end of the node's processes")
        wait_for(lambda: ask(address)[0] == 200, "an answer after the loss")
        seconds = time.monotonic() - lost_at
        return {"before": before, "after": ask(address), "seconds": seconds, "ended": len(doomed)}


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask(address: str) -> tuple[int, list[str]]:
    """(status, ids of the best five); 0 where nobody answers."""
    brief = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 5}
    try:
        answer = httpx.post(f"{address}/v1/match", json=brief, timeout=30)
    except httpx.TransportError:
        return 0, []
    found = answer.json().get("candidates", []) if answer.status_code == 200 else []
    return answer.status_code, [candidate["freelancer_id"] for candidate in found]


def store_full(config: Config, out: Path) -> dict[str, Any]:
    """Somebody else's objects are twice as large as the store, and stay referenced."""
    cluster = start(3, store_mb=80)
    connect(cluster)
    held = [ray.put(np.ones(10 * MEGABYTE, np.uint8)) for _ in range(16)]
    report = encode_freelancers(config, Dataset(Workspace(config.workspace).dataset), model_of(config), out / "vectors")
    return {"rows": report.rows_out, "held": len([ray.get(reference, timeout=60)[0] for reference in held])}


def slow_node(config: Config, out: Path) -> dict[str, Any]:
    """One of two actors gets a twentieth of the time."""
    cluster = start(2)
    cluster.add_node(num_cpus=2)
    connect(cluster)
    stopped, ended = [], threading.Event()

    def slow_down() -> None:
        wait_for(lambda: len(list((out / "vectors").glob("part-*.parquet"))) >= 2, "two parts")
        victim = next(process for process in psutil.Process().children(recursive=True) if _is_actor(process))
        stopped.append(victim.pid)
        while not ended.is_set() and victim.is_running():
            os.kill(victim.pid, signal.SIGSTOP)
            ended.wait(0.4)
            os.kill(victim.pid, signal.SIGCONT)
            time.sleep(0.02)

    slowing = threading.Thread(target=slow_down, daemon=True)
    slowing.start()
    report = encode_freelancers(config, Dataset(Workspace(config.workspace).dataset), model_of(config), out / "vectors")
    ended.set()
    slowing.join(5)
    return {"rows": report.rows_out, "encoded": report.encoded, "slowed": len(stopped), "workers": report.workers}


def _is_actor(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and "DocumentEncoder" in command[0]


FAULTS = {work.__name__: work for work in (training_node_lost, serving_node_lost, store_full, slow_node)}

if __name__ == "__main__":
    fault, config_file, directory = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    settings = Config.model_validate_json(config_file.read_text(encoding="utf-8"))
    # A file: Ray writes about lost nodes to standard output whenever it likes.
    try:
        write_json(directory / "result.json", FAULTS[fault](settings, directory))
    finally:
        # An orderly exit may wait for a node that is lost; nothing of the cluster may outlive this process.
        for process in psutil.Process().children(recursive=True):
            process.kill()
    os._exit(0)
