"""What runs in replicas: encoder, retriever and ingress, each a plain class that also runs without Serve."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.handle import DeploymentHandle

from skillmatch_ray.config import Config, RankerSettings
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ReplicaError, SkillmatchError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.serving.admission import Admission
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.batching import Batcher
from skillmatch_ray.serving.flow import MatchFlow, Observe, Ranks
from skillmatch_ray.serving.keys import ApiKeys, check_keys, is_loopback
from skillmatch_ray.serving.metrics import Metrics
from skillmatch_ray.serving.operations import Operation, Order
from skillmatch_ray.serving.ranking import OrSearchOrder, RankerService
from skillmatch_ray.serving.served import ServedLog
from skillmatch_ray.serving.services import (
    EncoderService,
    Found,
    RetrieverService,
    SearchRequest,
    Vector,
    follow_forever,
)
from skillmatch_ray.workspace import Workspace

logger = logging.getLogger("skillmatch_ray.requests")

_RETRY_PAUSE_S = 0.1


class ProjectEncoder:
    """Encodes the briefs of concurrent requests together, by one matcher.

    Args:
        config: of the workspace.
        observe: where metrics go; default: to Ray.
    """

    def __init__(self, config: dict[str, Any], observe: Observe | None = None) -> None:
        resolved = Config.model_validate(config)
        limits = resolved.serving
        self.service = EncoderService(resolved, threads_for(limits.encoder_replicas, None))
        self._batched: Batcher[Project, tuple[Vector, str]] = Batcher(
            self.service.encode,
            size=limits.max_batch_size,
            budget=limits.batch_tokens,
            cost=self.service.cost,
            observe=_batch_metrics("encode", observe or Metrics().observe),
        )
        self._stop_following = follow_forever(self.service.follow, limits.release_poll_s)

    async def encode(self, project: Project) -> tuple[Vector, str]:
        """(D,) vector and the fingerprint of its space."""
        return await self._batched(project)

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

    def close(self) -> None:
        """Stop following releases."""
        self._stop_following.set()


class IndexRetriever:
    """Owns the open indexes; searches that come together are one call of Milvus.

    Args:
        config: of the workspace.
        observe: where metrics go; default: to Ray.
    """

    def __init__(self, config: dict[str, Any], observe: Observe | None = None) -> None:
        resolved = Config.model_validate(config)
        self.service = RetrieverService(resolved)
        self._batched: Batcher[SearchRequest, Found] = Batcher(
            self.service.search_many,
            size=resolved.serving.max_batch_size,
            observe=_batch_metrics("search", observe or Metrics().observe),
        )
        self._stop_following = follow_forever(self.service.follow, resolved.serving.release_poll_s)

    async def search(
        self, vector: Vector, filters: Filters, top_k: int, fingerprint: str, brief: Project | None = None
    ) -> Found:
        """Candidates from the index of the vector's space."""
        return await self._batched(SearchRequest(vector, filters, top_k, fingerprint, brief))

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

    async def ready(self, fingerprint: str) -> dict[str, Any]:
        """The release of a space, if its index answers."""
        return await asyncio.to_thread(self.service.ready, fingerprint)

    async def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases."""
        return await asyncio.to_thread(self.service.releases)

    async def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""
        return await asyncio.to_thread(self.service.status)

    async def operate(self, order: Order) -> Operation | None:
        """Begin an operation on releases, once however often it is ordered; None while another one runs."""
        return await asyncio.to_thread(self.service.operate, order)

    async def operation(self, operation_id: str) -> Operation | None:
        """How an operation goes."""
        return await asyncio.to_thread(self.service.operation, operation_id)

    def close(self) -> None:
        """Let go of the indexes."""
        self._stop_following.set()
        self.service.close()

    def __del__(self) -> None:
        """Serve calls this when a replica ends in order."""
        if hasattr(self, "_stop_following"):
            self.close()


def _batch_metrics(name: str, observe: Observe) -> Callable[[int, float, float], None]:
    def told(items: int, fill: float, waited_ms: float) -> None:
        observe("batch_items", items, {"batch": name})
        observe("batch_fill", fill, {"batch": name})
        observe("queue_ms", waited_ms, {"batch": name})

    return told


class Remote:
    """Calls of a deployment as plain coroutines; what the API expects of encoder and searcher.

    Every call may be repeated without harm (an order to operate on releases carries its id), so one is, if the
    replica is lost that had it.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)

        async def call(*args: Any) -> Any:
            try:
                return await _answer(method, args)
            except RayActorError:
                # The router learns of the loss meanwhile; asked at once it might choose the same one again.
                await asyncio.sleep(_RETRY_PAUSE_S)
            try:
                return await _answer(method, args)
            except RayActorError as e:
                raise ReplicaError(f"two replicas were lost in a row while they had {name}: send it again") from e

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
        config: of the workspace.
        keys_expected: whether the one who deployed it had API keys.
        encoder: handle of the project encoder; default: one in this replica.
        retriever: handle of the retriever; default: one in this replica.
        ranker: handle of the ranker; default: in this replica, where the settings want one.

    Raises:
        ConfigError: if API keys are wanted and this replica's environment has none.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        keys_expected: bool = False,
        encoder: DeploymentHandle | None = None,
        retriever: DeploymentHandle | None = None,
        ranker: DeploymentHandle | None = None,
    ) -> None:
        resolved = Config.model_validate(config)
        self.limits, keys = resolved.serving, ApiKeys()
        check_keys(self.limits, wanted=keys.wanted, expected=keys_expected)
        _log_to_stdout()
        self._metrics = Metrics()
        observe = self._metrics.observe
        flow = MatchFlow(
            Remote(encoder) if encoder else ProjectEncoder(config, observe),
            Remote(retriever) if retriever else IndexRetriever(config, observe),
            ranker=_ranker(self.limits.ranker, ranker),
            ranked=self.limits.ranker.candidates,
            observe=observe,
            served=ServedLog(Workspace(resolved.workspace).served) if self.limits.log_served else None,
        )
        self.api = build_api(flow, keys=keys, operator=keys.wanted or is_loopback(self.limits.host))

    def __serve_build_asgi_app__(self) -> Admission:
        """The application that Serve mounts."""
        return Admission(
            self.api,
            limit=self.limits.max_ongoing_requests + self.limits.max_queued_requests,
            max_body=1024 * self.limits.max_body_kb,
            deadline_s=self.limits.request_timeout_s,
            always=self.limits.max_batch_size,
            log=self._record,
        )

    def _record(self, record: dict[str, Any]) -> None:
        self._metrics.observe("requests", 1, {"route": record["route"], "status": str(record["status"])})
        self._metrics.observe("request_ms", record["ms"], {"route": record["route"]})
        self._metrics.observe("active", record["active"], {})
        if record["status"] >= 400:
            self._metrics.observe("errors", 1, {"kind": record.get("problem", "unknown")})
        logger.info(json.dumps(record))


def _ranker(settings: RankerSettings, handle: DeploymentHandle | None) -> Ranks | None:
    if settings.kind == "none":
        return None
    stage = cast("Ranks", Remote(handle)) if handle else RankerService(settings)
    # The replica keeps the timeout itself; the way to it and back takes some more.
    return OrSearchOrder(stage.rank, settings.timeout_s if handle is None else 2 * settings.timeout_s)


def _log_to_stdout() -> None:
    """One JSON line a request in the replica's own output, at once: Serve holds its lines back."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.__stdout__))
    logger.setLevel(logging.INFO)
    logger.propagate = False
