"""`skillmatch serve`: the service on this machine until it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from skillmatch_ray.config import Config, RaySettings
from skillmatch_ray.console import console
from skillmatch_ray.pipeline.session import cluster_address, ensure_ray

APPLICATION = "skillmatch"

HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
"""What HAProxy opens beside the service's own port, on every interface; another free port where one is taken."""


@contextlib.contextmanager
def serving(config: Config) -> Iterator[str]:
    """The deployed application's address; at the end running requests end, then the service.

    Ray is started where none runs, with Serve's fast modes.

    Raises:
        ConfigError: if limits do not fit together, or API keys are missing.
        ReleaseError: if the workspace has no active release.
    """
    if _starts_ray(config.ray):
        os.environ.update(fast_modes())
    from ray import serve

    from skillmatch_ray.serving.app import build

    application = build(_arguments(config))
    ensure_ray(config.ray)
    limits = config.serving
    # Above the ingress' own deadline, so that it is the one to answer, with 504.
    options = {"host": limits.host, "port": limits.port, "request_timeout_s": 2 * limits.request_timeout_s}
    serve.start(http_options=options)
    try:
        serve.run(application, name=APPLICATION, route_prefix="/")
        yield f"http://{limits.host}:{limits.port}"
    finally:
        serve.shutdown()


def fast_modes() -> dict[str, str]:
    """Environment of the faster modes of Serve, for a Ray that is started next; what is set already stays.

    Measured (notes of Ray 2.60): HAProxy in place of the Python proxy saves some 4 ms a request, the
    throughput mode some 4 ms for each hop between deployments. They are read when Ray starts, so on a
    cluster they belong into the environment of `ray start`.
    """
    wanted = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # One node: nothing else routes to a replica that is going, so there is nothing to wait for.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        **{name: str(_free_port(port)) for name, port in HAPROXY_PORTS.items()},
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _starts_ray(settings: RaySettings) -> bool:
    import ray

    return not ray.is_initialized() and cluster_address(settings) is None


def _free_port(wanted: int) -> int:
    """`wanted`, or another one where somebody listens there already."""
    with socket.socket() as probe:
        try:
            probe.bind(("", wanted))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def serve_forever(config: Config) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end."""
    with serving(config) as address:
        console().print(
            f"serving {address}: a page for people, POST /v1/match for programs, {address}/openapi.json; "
            f"metrics for Prometheus at {_metrics_address()}; Ctrl-C stops"
        )
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()


def _metrics_address() -> str:
    import ray

    with contextlib.suppress(StopIteration):
        node = next(node for node in ray.nodes() if node["Alive"])
        return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return "(no node tells)"


def _arguments(config: Config) -> dict[str, Any]:
    return {**config.model_dump(mode="json"), "workspace": str(config.workspace.resolve())}
