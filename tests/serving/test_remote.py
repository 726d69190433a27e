"""What the ingress makes of errors and lost replicas, with real actors; its metrics."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import ray
from serving_helpers import send

from skillmatch_ray.config import RankerSettings
from skillmatch_ray.errors import ConfigError, FingerprintError, ReplicaError
from skillmatch_ray.serving import deployments
from skillmatch_ray.serving.deployments import Remote
from skillmatch_ray.serving.metrics import COUNTERS, GAUGES, HISTOGRAMS, Metrics
from skillmatch_ray.serving.operations import Operations, Rollback

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

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *args: getattr(next(self.actors), name).remote(*args))


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


@ray.remote(num_cpus=0)
class Clerk:
    """Takes orders as a retriever does, and may die before it answers; each rollback leaves a line in a file."""

    def __init__(self, root, dies=False):
        self.root, self.operations, self.dies = root, Operations(root / "operations"), dies

    def operate(self, order):
        begun = self.operations.start(order.id, order.do, self.roll_back)
        if self.dies:
            while self.operations.get(begun.id).state == "running":
                time.sleep(0.02)
            os._exit(1)
        return begun

    def roll_back(self):
        with (self.root / "done").open("a") as done:
            print("rolled back", file=done)


def test_an_order_is_carried_out_once_where_the_replica_is_lost_before_it_answers(tmp_path):
    clerks = Replicas([Clerk.remote(tmp_path, dies=True), Clerk.remote(tmp_path)])
    answered = asyncio.run(Remote(clerks).operate(Rollback(do="rollback")))
    assert answered.state == "done"
    assert (tmp_path / "done").read_text() == "rolled back\n"


@pytest.fixture
def ingress(local, monkeypatch, tmp_path):
    """The ingress of one replica, over the workspace that is open already."""
    monkeypatch.setattr(deployments, "ProjectEncoder", lambda *_: local.encoder)
    monkeypatch.setattr(deployments, "IndexRetriever", lambda *_: local.index)
    ranker = {"kind": "class", "target": "ranking_helpers:Reverse", "timeout_s": 30}
    serving = local.config.serving.model_copy(
        update={"log_served": True, "ranker": RankerSettings(**ranker), "max_body_kb": 1}
    )
    config = local.config.model_copy(update={"serving": serving})
    yield deployments.Ingress(config.model_dump(mode="json"))
    shutil.rmtree(local.config.workspace / "served", ignore_errors=True)


def test_the_ingress_ranks_remembers_and_writes_one_line_a_request(ingress, local, capfd):
    app = ingress.__serve_build_asgi_app__()
    brief = {"project": {"title": "a secret brief", "project_id": "p7"}, "top_k": 3}
    body = send(app, "POST", "/v1/match", json=brief, headers={"x-request-id": "r-1"}).json()
    assert body["ranking"] == "ranker"
    assert [c["ranker_score"] for c in body["candidates"]] == [99, 98, 97]
    assert send(app, "POST", "/v1/match", json={"project": {"title": "x" * 2000}}).status_code == 413
    (file,) = (local.config.workspace / "served").glob("*.jsonl")
    (served,) = map(json.loads, file.read_text().splitlines())
    assert (served["request_id"], served["project_id"]) == ("r-1", "p7")
    assert [who for who, _ in served["candidates"]] == [c["freelancer_id"] for c in body["candidates"]]
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith('{"request_id"')]
    assert [(line["status"], line["route"], line.get("problem")) for line in lines] == [
        (200, "/v1/match", None),
        (413, "/v1/match", "Too large"),
    ]
    assert "secret" not in str(lines) + file.read_text()


def test_the_ingress_does_not_start_without_the_keys_of_the_one_who_deployed_it(local):
    with pytest.raises(ConfigError, match="SKILLMATCH_API_KEYS"):
        deployments.Ingress(local.config.model_dump(mode="json"), keys_expected=True)


def test_every_metric_of_the_service_exists():
    metrics = Metrics()
    for name, (_, tags) in {**COUNTERS, **GAUGES}.items():
        metrics.observe(name, 1, dict.fromkeys(tags, "x"))
    for name, (_, _, tags) in HISTOGRAMS.items():
        metrics.observe(name, 0.5, dict.fromkeys(tags, "x"))
    with pytest.raises(KeyError):
        metrics.observe("unknown", 1, {})
