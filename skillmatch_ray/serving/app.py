"""The Serve application: which deployments there are, how they scale, what they may hold."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from skillmatch_ray.config import Config, ServingSettings, load_config
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.serving.admission import RETRY_AFTER_S
from skillmatch_ray.serving.deployments import IndexRetriever, Ingress, ProjectEncoder
from skillmatch_ray.serving.keys import ApiKeys, check_keys
from skillmatch_ray.serving.ranking import RankerService
from skillmatch_ray.workspace import Workspace

_QUIET = {"enable_access_log": False}
"""The ingress writes its own line for each request; Serve would write three more, one for each deployment."""

_INGRESS_CPUS = 0.25
_RETRIEVER_CPUS = 0.25
_RANKER_CPUS = 0.25


def build(args: dict[str, Any]) -> Application:
    """The application for `serve deploy`, `serve run` and `skillmatch serve`.

    Args:
        args: `workspace` (directory), and any keys of the configuration.

    Raises:
        ConfigError: for unknown keys, limits that do not fit together, or API keys that are missing.
        ReleaseError: if the workspace has no active release.
    """
    config = load_config(base=args)
    values, keys = config.model_dump(mode="json"), ApiKeys()
    check_keys(config.serving, wanted=keys.wanted)
    embedded = active_release(Workspace(config.workspace)).kind == "lite"
    if embedded and config.serving.retriever_max_replicas > 1:
        raise ConfigError(
            f"serving.retriever_max_replicas ({config.serving.retriever_max_replicas}) needs a Milvus server: the "
            "active release lies in Milvus Lite, which has one owner. Set it to 1, or milvus.uri and reindex."
        )
    if in_one_replica(config.serving, embedded=embedded):
        return _ingress(config, together=True).bind(values, keys_expected=keys.wanted)
    stages: dict[str, Any] = {
        "encoder": _encoder(config.serving).bind(values),
        "retriever": _retriever(config.serving).bind(values),
    }
    if config.serving.ranker.kind != "none":
        stages["ranker"] = _ranker(config.serving).bind(config.serving.ranker)
    return _ingress(config, together=False).bind(values, keys_expected=keys.wanted, **stages)


def in_one_replica(limits: ServingSettings, *, embedded: bool) -> bool:
    """Whether encoder and retriever live in the ingress' own replica; each hop between replicas costs milliseconds."""
    if limits.deployments != "auto":
        return limits.deployments == "one"
    single = limits.encoder_replicas == 1 and limits.encoder_max_replicas in (None, 1)
    return embedded and single


def _encoder(limits: ServingSettings) -> Any:
    return serve.deployment(
        name="ProjectEncoder",
        logging_config=_QUIET,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": limits.encoder_cpus, "num_gpus": limits.encoder_gpus},
        # As many as keep one batch under way in each. Below max_ongoing_requests by the check of the settings,
        # or no replica would ever be added.
        **_replicas(limits.encoder_replicas, limits.encoder_max_replicas, target=limits.max_batch_size),
    )(ProjectEncoder)


def _retriever(limits: ServingSettings) -> Any:
    return serve.deployment(
        name="Retriever",
        logging_config=_QUIET,
        max_ongoing_requests=limits.max_ongoing_requests,
        ray_actor_options={"num_cpus": _RETRIEVER_CPUS},
        **_replicas(1, limits.retriever_max_replicas, target=limits.max_batch_size),
    )(IndexRetriever)


def _ranker(limits: ServingSettings) -> Any:
    return serve.deployment(
        name="Ranker",
        logging_config=_QUIET,
        num_replicas=1,
        max_ongoing_requests=limits.max_ongoing_requests + limits.max_queued_requests,
        ray_actor_options={"num_cpus": _RANKER_CPUS},
    )(RankerService)


def _ingress(config: Config, *, together: bool) -> Any:
    limits = config.serving
    own = {"num_cpus": _INGRESS_CPUS}
    inside = {"num_cpus": _INGRESS_CPUS + limits.encoder_cpus, "num_gpus": limits.encoder_gpus}
    return serve.deployment(
        name="Ingress",
        logging_config=_QUIET,
        num_replicas=1,
        # The ingress itself turns requests away, with Retry-After; Serve's own limit must never be met first.
        max_ongoing_requests=4 * limits.max_ongoing_requests + limits.max_queued_requests,
        backpressure_config={"retry_after_s": RETRY_AFTER_S},
        ray_actor_options=inside if together else own,
    )(serve.ingress()(Ingress))


def _replicas(least: int, most: int | None, *, target: int) -> dict[str, Any]:
    """A fixed number, or one that Serve adapts between `least` and `most`."""
    if most is None or most == least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target},
    }
