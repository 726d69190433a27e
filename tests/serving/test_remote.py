"""What the ingress makes of errors and lost replicas, with real actors; its metrics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import ray

from skillmatch_ray.errors import FingerprintError
from skillmatch_ray.serving.app import Remote
from skillmatch_ray.serving.metrics import Metrics

pytestmark = [pytest.mark.ray_local, pytest.mark.usefixtures("ray_session")]


@ray.remote(num_cpus=0)
class Replica:
    def search(self, answer):
        if answer == "mixed":
            raise FingerprintError("two spaces met")
        return answer


class Replicas:
    """Gives each call to the next actor, as a handle does after one is lost."""

    def __init__(self, actors) -> None:
        self.actors = iter(actors)
        self.search = SimpleNamespace(remote=self._search)

    def _search(self, *args):
        return next(self.actors).search.remote(*args)


def killed():
    actor = Replica.remote()
    ray.get(actor.search.remote(1))
    ray.kill(actor)
    return actor


def search(actors, value):
    async def run():
        return await Remote(Replicas(actors)).search(value)

    return asyncio.run(run())


def test_the_cause_arrives_without_the_remote_traceback():
    with pytest.raises(FingerprintError) as caught:
        search([Replica.remote()], "mixed")
    assert str(caught.value) == "two spaces met"


def test_a_call_to_a_lost_replica_is_repeated_once():
    assert search([killed(), Replica.remote()], "found") == "found"
    with pytest.raises(ray.exceptions.RayActorError):
        search([killed(), killed(), Replica.remote()], "found")


def test_every_metric_that_is_observed_exists():
    metrics = Metrics()
    metrics.observe("requests", 1, {"route": "/v1/match", "status": "200"})
    metrics.observe("request_ms", 3.5, {"route": "/v1/match"})
    metrics.observe("hop_ms", 2.5, {"hop": "encode"})
    metrics.observe("candidates", 0, {"stage": "returned"})
    metrics.observe("empty_results", 1, {})
    metrics.observe("matches", 1, {"release": "r", "fingerprint": "f"})
    with pytest.raises(KeyError):
        metrics.observe("unknown", 1, {})
