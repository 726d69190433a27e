"""The Serve application: ingress, project encoder, retriever, each a thin shell around a plain class."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from skillmatch_ray.config import Config, ServingSettings, load_config
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.index.retriever import SearchResult
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.serving.admission import Admission
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.services import EncoderService, RetrieverService, Vector
from skillmatch_ray.workspace import Workspace

logger = logging.getLogger("skillmatch_ray.requests")


class ProjectEncoder:
    """Batches briefs of concurrent requests through one matcher.

    Args:
        model_dir: of the matcher.
        settings: batching and replicas.
    """

    def __init__(self, model_dir: str, settings: dict[str, Any]) -> None:
        limits = ServingSettings(**settings)
        self.service = EncoderService(Path(model_dir), threads_for(limits.encoder_replicas, None))
        self._batched.set_max_batch_size(limits.max_batch_size)
        self._batched.set_batch_wait_timeout_s(limits.batch_wait_ms / 1000)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def _batched(self, projects: list[Project]) -> list[Vector]:
        # Off the event loop: a forward pass must not hold up health checks and the queue.
        return await asyncio.to_thread(self.service.encode, projects)

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of its space."""
        return await self._batched(project), self.service.fingerprint

    async def explain(self, project: Project, freelancers: Sequence[Freelancer]) -> list[dict[str, Any]]:
        """Reasons for each freelancer's score."""
        return await asyncio.to_thread(self.service.explain, project, freelancers)

    async def fingerprint(self) -> str:
        """Of the model."""
        return self.service.fingerprint


class IndexRetriever:
    """Owns the open index.

    Args:
        config: of the workspace.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.service = RetrieverService(Config.model_validate(config))

    async def search(self, vector: Vector, filters: Filters, top_k: int, fingerprint: str) -> SearchResult:
        """Candidates."""
        return await asyncio.to_thread(self.service.search, vector, filters, top_k, fingerprint)

    async def profiles(self, freelancer_ids: Sequence[str]) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""
        return await asyncio.to_thread(self.service.profiles, freelancer_ids)

    async def release(self) -> dict[str, Any]:
        """The open release."""
        return self.service.release


class Remote:
    """Calls of a deployment as plain coroutines; what the API expects of encoder and searcher."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)

        async def call(*args: Any) -> Any:
            return await method.remote(*args)

        return call


class Ingress:
    """The HTTP side: admission in front of the API.

    Args:
        encoder: handle of the project encoder.
        retriever: handle of the retriever.
        settings: limits.
    """

    def __init__(self, encoder: DeploymentHandle, retriever: DeploymentHandle, settings: dict[str, Any]) -> None:
        self.limits = ServingSettings(**settings)
        self.api = build_api(Remote(encoder), Remote(retriever))

    def __serve_build_asgi_app__(self) -> Admission:
        """The application that Serve mounts."""
        return Admission(
            self.api,
            limit=self.limits.max_ongoing_requests + self.limits.max_queued_requests,
            max_body=1024 * self.limits.max_body_kb,
            deadline_s=self.limits.request_timeout_s,
            log=lambda record: logger.info(json.dumps(record)),
        )


def build(args: dict[str, Any]) -> Application:
    """The application for `serve deploy`, `serve run` and `skillmatch serve`.

    Args:
        args: `workspace` (directory), and any keys of the configuration.

    Raises:
        ConfigError: for unknown keys or limits that do not fit together.
        ReleaseError: if the workspace has no active release.
    """
    config = load_config(base=args)
    limits, settings = config.serving, config.serving.model_dump()
    release = active_release(Workspace(config.workspace))
    encoder = serve.deployment(
        name="ProjectEncoder",
        num_replicas=limits.encoder_replicas,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.5},
    )(ProjectEncoder).bind(str(release.model_dir), settings)
    retriever = serve.deployment(
        name="Retriever",
        num_replicas=1,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.25},
    )(IndexRetriever).bind(config.model_dump(mode="json"))
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=1,
        # The ingress itself turns requests away, with Retry-After; Serve's own limit must never be met first.
        max_ongoing_requests=4 * limits.max_ongoing_requests + limits.max_queued_requests,
        ray_actor_options={"num_cpus": 0.25},
    )(serve.ingress()(Ingress))
    return ingress.bind(encoder, retriever, settings)
