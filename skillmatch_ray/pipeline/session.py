"""Reach a Ray cluster, or start a local one once for the whole process."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from skillmatch_ray.config import Config, EncodeSettings, RaySettings
from skillmatch_ray.errors import ConfigError

MEGABYTE = 2**20

WORKER_BYTES = 2e9
"""Memory kept for an encoding worker on a CPU; with multilingual-e5-small one holds 1.6 GB after 400 documents."""


def ensure_ray(settings: RaySettings) -> float:
    """Connect to Ray unless this process already is; returns the logical CPUs of the cluster.

    With `settings.address` or $RAY_ADDRESS an existing cluster is used (a job finds its own this
    way); otherwise a local one is started. Its logical CPUs are more than its cores, so that an actor
    pool never starves the tasks that read and write for it.
    """
    import ray
    import ray.data

    if not ray.is_initialized():
        address = cluster_address(settings)
        ray.init(**(_remote(address) if address else _local(settings)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    _only_warnings_of_ray_data()
    return float(ray.cluster_resources().get("CPU", 1.0))


def _only_warnings_of_ray_data() -> None:
    """On the console, as for the rest of Ray; the log files of its session keep everything."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that the bars are off, as wanted


def cluster_address(settings: RaySettings) -> str | None:
    """Of the cluster that is joined; None where a local Ray is started instead."""
    return settings.address or os.environ.get("RAY_ADDRESS") or None


def _remote(address: str) -> dict[str, Any]:
    return {"address": address, "log_to_driver": False, "logging_level": "WARNING"}


def _local(settings: RaySettings) -> dict[str, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Measured: where other work shares the cores, spinning OpenMP threads cost training three quarters of its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION", "0")
    return {
        "address": "local",  # or a cluster that somebody else started on this machine would be joined
        "num_cpus": settings.num_cpus or max(4, 2 * (psutil.cpu_count() or 1)),
        "include_dashboard": False,
        "object_store_memory": settings.object_store_mb * MEGABYTE,
        "log_to_driver": False,
        "logging_level": "WARNING",
    }


@dataclass(frozen=True)
class Pool:
    """Encoding workers, as the settings and the machine have it.

    Attributes:
        workers: actors at the start.
        most: that the pool may grow to.
        threads: of each actor.
    """

    workers: int
    most: int
    threads: int


def encode_pool(config: Config) -> Pool:
    """The pool for this configuration and the Ray that it names, which is started if need be."""
    import ray

    cpus = ensure_ray(config.ray)
    if cluster_address(config.ray):
        return pool_for(config.encode, cpus, ray.available_resources())  # others may be at work there
    # A local Ray counts each core twice, and does not know at once what is free.
    return pool_for(config.encode, float(psutil.cpu_count() or 1), ray.cluster_resources())


def pool_for(settings: EncodeSettings, cores: float, resources: Mapping[str, float]) -> Pool:
    """The pool on so many cores, within what Ray has (CPU, memory in bytes).

    Measured with E5 on 2 cores: one worker of two threads that sleep between two operations leaves a quarter of
    them idle; threads that wait spinning lose as much elsewhere where other work shares the cores. Two
    workers of one thread have nothing to wait for.
    """
    workers = settings.workers or _fitting_workers(settings, cores, resources)
    most = settings.max_workers or workers
    workers = min(workers, most)
    return Pool(workers, most, encode_threads(settings, workers))


def _fitting_workers(settings: EncodeSettings, cores: float, resources: Mapping[str, float]) -> int:
    if settings.gpus_per_worker:
        return 1
    threads = settings.threads_per_worker or max(1, int(settings.cpus_per_worker))
    room = (resources.get("CPU", 0.0) - 1) / settings.cpus_per_worker
    memory = resources.get("memory", float("inf")) / WORKER_BYTES
    return max(1, int(min(cores / threads, room, memory)))


def actor_pool(config: Config, pool: Pool, tasks: int) -> dict[str, Any]:
    """Arguments of a Ray Data map for a pool of actors that has `tasks` to do.

    Raises:
        ConfigError: if the actors cannot all start beside the tasks that feed them. Ray would wait for
            ever, without a word. A cluster that was reached by address may grow, so it is not judged.
    """
    import ray
    from ray.data import ActorPoolStrategy

    settings = config.encode
    workers, most = min(pool.workers, tasks), min(pool.most, tasks)
    if not cluster_address(config.ray):
        check_pool(settings, workers, ray.cluster_resources())
    fixed = most <= workers
    compute = ActorPoolStrategy(size=workers) if fixed else ActorPoolStrategy(min_size=workers, max_size=most)
    gpus = {"num_gpus": settings.gpus_per_worker} if settings.gpus_per_worker else {}
    return {"compute": compute, "num_cpus": settings.cpus_per_worker, **gpus}


def share_gpus(config: Config, gpus: str, workers: int | None = None) -> Config:
    """The configuration with so many GPUs in all: one for each worker, or shared by the `workers` given.

    Args:
        config: to start from.
        gpus: a number, or "auto" for all that the cluster has now.
        workers: actors that share them; None: one for each GPU.

    Raises:
        ConfigError: if it is neither, or there is no GPU.
    """
    if gpus == "auto":
        import ray

        ensure_ray(config.ray)
        count = float(ray.cluster_resources().get("GPU", 0.0))
    else:
        count = _number(gpus)
    if count <= 0:
        raise ConfigError(f"--gpus {gpus}: there are no GPUs to use; leave --gpus out to encode on CPUs")
    actors = workers or max(1, int(count))
    shared = config.encode.model_copy(update={"workers": actors, "gpus_per_worker": count / actors})
    return config.model_copy(update={"encode": shared})


def _number(gpus: str) -> float:
    try:
        return float(gpus)
    except ValueError as e:
        raise ConfigError(f"--gpus {gpus!r} must be a number or auto") from e


def check_pool(settings: EncodeSettings, workers: int, resources: dict[str, float]) -> None:
    """Whether `workers` actors and one feeding task fit into `resources`.

    Raises:
        ConfigError: if not; the message names the setting to change.
    """
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    if workers * settings.gpus_per_worker > gpus:
        raise ConfigError(
            f"encode.workers ({workers}) x encode.gpus_per_worker ({settings.gpus_per_worker}) is more than the "
            f"{gpus:g} GPUs that Ray has: lower one of them"
        )
    if workers * settings.cpus_per_worker + 1 > cpus:
        raise ConfigError(
            f"encode.workers ({workers}) x encode.cpus_per_worker ({settings.cpus_per_worker}) and one CPU to feed "
            f"them are more than the {cpus:g} logical CPUs of Ray: lower one of them, or raise ray.num_cpus"
        )


def encode_threads(settings: EncodeSettings, workers: int) -> int:
    """Threads of each encoding worker: as told, or its CPUs where it asks for several, or a share of all."""
    own = int(settings.cpus_per_worker) if settings.cpus_per_worker >= 2 else None
    return threads_for(workers, settings.threads_per_worker or own)


def threads_for(workers: int, threads: int | None) -> int:
    """Threads of each of `workers` on one machine: all its CPUs, shared, unless told.

    Logical CPUs: a virtual machine shows two of its cores as one, and half of them would stand idle.
    """
    return threads or max(1, (psutil.cpu_count() or 1) // workers)
