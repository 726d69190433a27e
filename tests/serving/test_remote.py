"""What the ingress makes of errors and lost replicas, with real actors; its metrics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import ray

from skillmatch_ray.errors import FingerprintError, ReplicaError
from skillmatch_ray.serving.deployments import Remote
from skillmatch_ray.serving.metrics import COUNTERS, GAUGES, HISTOGRAMS, Metrics

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
    with pytest.raises(ReplicaError):
        search([killed(), killed(), Replica.remote()], "found")


def test_every_metric_of_the_service_exists():
    metrics = Metrics()
    for name, (_, tags) in {**COUNTERS, **GAUGES}.items():
        metrics.observe(name, 1, dict.fromkeys(tags, "x"))
    for name, (_, _, tags) in HISTOGRAMS.items():
        metrics.observe(name, 0.5, dict.fromkeys(tags, "x"))
    with pytest.raises(KeyError):
        metrics.observe("unknown", 1, {})
