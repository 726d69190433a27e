"""The Serve application: ingress, project encoder, retriever, each a thin shell around a plain class."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve import Application, metrics
from ray.serve.handle import DeploymentHandle

from skillmatch_ray.config import Config, ServingSettings, load_config
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import SkillmatchError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.serving.admission import Admission
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.metrics import Metrics
from skillmatch_ray.serving.operations import Operation, Order
from skillmatch_ray.serving.services import EncoderService, Found, RetrieverService, Vector, follow_forever
from skillmatch_ray.workspace import Workspace

logger = logging.getLogger("skillmatch_ray.requests")

_QUIET = {"enable_access_log": False}
"""The ingress writes its own line for each request; Serve would write three more, one for each deployment."""


class ProjectEncoder:
    """Batches briefs of concurrent requests through one matcher.

    Args:
        config: of the workspace.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        resolved = Config.model_validate(config)
        limits = resolved.serving
        self.service = EncoderService(resolved, threads_for(limits.encoder_replicas, None))
        self._batched.set_max_batch_size(limits.max_batch_size)
        self._batched.set_batch_wait_timeout_s(limits.batch_wait_ms / 1000)
        self._fill = metrics.Histogram(
            "skillmatch_encoder_batch", "briefs encoded together", boundaries=[1, 2, 4, 8, 16, 32, 64]
        )
        self._stop_following = follow_forever(self.service.follow, limits.release_poll_s)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def _batched(self, projects: list[Project]) -> list[tuple[Vector, str]]:
        self._fill.observe(len(projects))
        # Off the event loop: a forward pass must not hold up health checks and the queue.
        return await asyncio.to_thread(self.service.encode, projects)

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of its space."""
        encoded: tuple[Vector, str] = await self._batched(project)
        return encoded

    async def encode_freelancer(self, freelancer: Freelancer) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of its space."""
        return await asyncio.to_thread(self.service.encode_freelancer, freelancer)

    async def explain(
        self, project: Project, freelancers: Sequence[Freelancer], fingerprint: str
    ) -> list[dict[str, Any]]:
        """Reasons for each freelancer's score."""
        return await asyncio.to_thread(self.service.explain, project, freelancers, fingerprint)

    async def fingerprint(self) -> str:
        """Of the model that encodes new requests."""
        return self.service.fingerprint


class IndexRetriever:
    """Owns the open indexes.

    Args:
        config: of the workspace.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        resolved = Config.model_validate(config)
        self.service = RetrieverService(resolved)
        self._stop_following = follow_forever(self.service.follow, resolved.serving.release_poll_s)

    async def search(
        self, vector: Vector, filters: Filters, top_k: int, fingerprint: str, brief: Project | None = None
    ) -> Found:
        """Candidates from the index of the vector's space."""
        return await asyncio.to_thread(self.service.search, vector, filters, top_k, fingerprint, brief)

    async def similar(self, freelancer_id: str, top_k: int) -> Found | None:
        """Freelancers like one."""
        return await asyncio.to_thread(self.service.similar, freelancer_id, top_k)

    async def profiles(self, freelancer_ids: Sequence[str], fingerprint: str) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""
        return await asyncio.to_thread(self.service.profiles, freelancer_ids, fingerprint)

    async def upsert(self, freelancer: Freelancer, vector: Vector, fingerprint: str) -> None:
        """Add or replace a freelancer."""
        await asyncio.to_thread(self.service.upsert, freelancer, vector, fingerprint)

    async def delete(self, freelancer_id: str) -> None:
        """Remove a freelancer."""
        await asyncio.to_thread(self.service.delete, freelancer_id)

    async def release(self, fingerprint: str | None = None) -> dict[str, Any]:
        """The open release of a space, or the active one."""
        return await asyncio.to_thread(self.service.release, fingerprint)

    async def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases."""
        return await asyncio.to_thread(self.service.releases)

    async def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""
        return await asyncio.to_thread(self.service.status)

    async def operate(self, order: Order) -> Operation | None:
        """Begin an operation on releases."""
        return self.service.operate(order)

    async def operation(self, operation_id: str) -> Operation | None:
        """How an operation goes."""
        return self.service.operation(operation_id)

    def __del__(self) -> None:
        """Serve calls this when a replica ends in order."""
        if hasattr(self, "_stop_following"):
            self._stop_following.set()
            self.service.close()


class Remote:
    """Calls of a deployment as plain coroutines; what the API expects of encoder and searcher.

    Every call may be repeated without harm, so one is, if the replica is lost that had it.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)

        async def call(*args: Any) -> Any:
            try:
                return await _answer(method, args)
            except RayActorError:
                return await _answer(method, args)

        return call


async def _answer(method: Any, args: tuple[Any, ...]) -> Any:
    try:
        return await method.remote(*args)
    except RayTaskError as e:
        # The text of Ray's own error is the remote traceback; a SkillmatchError says what it means.
        if isinstance(e.cause, SkillmatchError):
            raise e.cause from e
        raise


class Ingress:
    """The HTTP side: admission in front of the API.

    Args:
        encoder: handle of the project encoder.
        retriever: handle of the retriever.
        settings: limits.
    """

    def __init__(self, encoder: DeploymentHandle, retriever: DeploymentHandle, settings: dict[str, Any]) -> None:
        self.limits = ServingSettings(**settings)
        _log_to_stdout()
        self._metrics = Metrics()
        self.api = build_api(Remote(encoder), Remote(retriever), self._metrics.observe)

    def __serve_build_asgi_app__(self) -> Admission:
        """The application that Serve mounts."""
        return Admission(
            self.api,
            limit=self.limits.max_ongoing_requests + self.limits.max_queued_requests,
            max_body=1024 * self.limits.max_body_kb,
            deadline_s=self.limits.request_timeout_s,
            log=self._record,
        )

    def _record(self, record: dict[str, Any]) -> None:
        self._metrics.observe("requests", 1, {"route": record["route"], "status": str(record["status"])})
        self._metrics.observe("request_ms", record["ms"], {"route": record["route"]})
        logger.info(json.dumps(record))


def _log_to_stdout() -> None:
    """One JSON line a request in the replica's own output, at once: Serve holds its lines back."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.__stdout__))
    logger.setLevel(logging.INFO)
    logger.propagate = False


def build(args: dict[str, Any]) -> Application:
    """The application for `serve deploy`, `serve run` and `skillmatch serve`.

    Args:
        args: `workspace` (directory), and any keys of the configuration.

    Raises:
        ConfigError: for unknown keys or limits that do not fit together.
        ReleaseError: if the workspace has no active release.
    """
    config = load_config(base=args)
    limits, values = config.serving, config.model_dump(mode="json")
    active_release(Workspace(config.workspace))
    encoder = serve.deployment(
        name="ProjectEncoder",
        logging_config=_QUIET,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.5},
        **_replicas(limits),
    )(ProjectEncoder).bind(values)
    retriever = serve.deployment(
        name="Retriever",
        logging_config=_QUIET,
        num_replicas=1,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.25},
    )(IndexRetriever).bind(values)
    ingress = serve.deployment(
        name="Ingress",
        logging_config=_QUIET,
        num_replicas=1,
        # The ingress itself turns requests away, with Retry-After; Serve's own limit must never be met first.
        max_ongoing_requests=4 * limits.max_ongoing_requests + limits.max_queued_requests,
        ray_actor_options={"num_cpus": 0.25},
    )(serve.ingress()(Ingress))
    return ingress.bind(encoder, retriever, limits.model_dump())


def _replicas(limits: ServingSettings) -> dict[str, Any]:
    """A fixed number, or as many as keep one batch under way in each."""
    most = limits.encoder_max_replicas or limits.encoder_replicas
    if most == limits.encoder_replicas:
        return {"num_replicas": most}
    return {
        "autoscaling_config": {
            "min_replicas": limits.encoder_replicas,
            "max_replicas": most,
            # Below max_ongoing_requests by the check of the settings, or no replica would ever be added.
            "target_ongoing_requests": limits.max_batch_size,
        }
    }
