"""`skillmatch serve`: the service on this machine until it is stopped."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from skillmatch_ray.config import Config
from skillmatch_ray.console import console
from skillmatch_ray.pipeline.session import ensure_ray

APPLICATION = "skillmatch"


def start(config: Config) -> str:
    """Deploy the application and return its address; Ray is started where none runs.

    Raises:
        ReleaseError: if the workspace has no active release.
    """
    # Measured: the optimised router halves the cost of each hop between deployments.
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    from ray import serve

    from skillmatch_ray.serving.app import build

    application = build(_arguments(config))
    ensure_ray(config.ray)
    limits = config.serving
    serve.start(
        http_options={"host": limits.host, "port": limits.port, "request_timeout_s": 2 * limits.request_timeout_s}
    )
    serve.run(application, name=APPLICATION, route_prefix="/")
    return f"http://{limits.host}:{limits.port}"


def stop() -> None:
    """Let running requests end, then stop the service."""
    from ray import serve

    serve.shutdown()


def serve_forever(config: Config) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end."""
    address = start(config)
    console().print(
        f"serving {address}: a page for people, POST /v1/match for programs, {address}/openapi.json; Ctrl-C stops"
    )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    stop()


def _arguments(config: Config) -> dict[str, Any]:
    return {**config.model_dump(mode="json"), "workspace": str(config.workspace.resolve())}
