"""The command line's way through a running service: the real API over real HTTP, without Serve."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import uuid

import pytest
from serving_helpers import copied_services, over_http
from waiting import wait_for

from skillmatch_ray.client import API_KEY_VARIABLE, Service
from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import FREELANCERS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import LockedError, ServiceError
from skillmatch_ray.matching import match_once
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.keys import KEYS_VARIABLE, ApiKeys
from skillmatch_ray.serving.operations import Operations
from skillmatch_ray.stages import index_vectors
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.e2e

PROJECT = Project(project_id="brief", title="React developer", skills=("React",), max_daily_rate_eur=800)


@pytest.fixture
def config(local):
    return local.config


@pytest.fixture
def changeable(tiny_workspace, tmp_path):
    """A service over a workspace of its own, which the test may change: its address and configuration."""
    services = copied_services(tiny_workspace, tmp_path / "workspace")
    with contextlib.closing(services), over_http(build_api(services.flow())) as served:
        yield served, services.config


def new_release(address, config, first):
    """Name of a release of the first one's model, built here and switched to by the service."""
    dataset, model = Dataset(config.workspace / "dataset"), config.workspace / first["model_dir"]
    return index_vectors(config, dataset, model, address)["name"]


def test_a_match_through_the_service_is_the_match_of_this_process(address, config, local, tiny_workspace):
    untouched = load_config(tiny_workspace.config, [f"workspace={tiny_workspace.root}"])
    here, there = match_once(untouched, PROJECT, 5), match_once(config, PROJECT, 5, address)
    assert there.render() is not None
    assert there.filters == here.filters
    assert there.exhausted == here.exhausted
    for ours, theirs in zip(here.matches, there.matches, strict=True):
        assert theirs.candidate.freelancer_id == ours.candidate.freelancer_id
        assert theirs.candidate.payload == ours.candidate.payload
        assert theirs.candidate.score == pytest.approx(ours.candidate.score, abs=1e-5)
        assert [c.text for c in theirs.explanation.skills] == [c.text for c in ours.explanation.skills]


def test_an_index_in_use_names_its_owner_and_the_way_through_it(address, config):
    with pytest.raises(LockedError, match=r"searching release .* by .* \(process \d+\).*--url http"):
        match_once(config, PROJECT, 5)


def test_releases_are_switched_by_the_service(changeable):
    address, config = changeable
    service = Service(address)
    first = service.status()["active"]
    second = new_release(address, config, first)
    told = service.status()
    assert (told["active"]["name"], told["previous"]) == (second, first["name"])
    assert told["rows"] == first["rows"]
    assert "in_use" not in told
    assert match_once(config, PROJECT, 1, address).release == second
    assert service.rollback() == first["name"]
    assert match_once(config, PROJECT, 1, address).release == first["name"]
    assert service.activate(second) == second
    assert [known["name"] for known in service.releases()] == [first["name"], second]
    assert (service.prune(1).removed, list(service.prune(1).kept)) == ([], [first["name"], second])
    with pytest.raises(ServiceError, match=r"could not activate: ReleaseError: .* has no release 'none'"):
        service.activate("none")


def test_a_rollback_whose_answer_was_lost_is_not_done_twice(changeable):
    address, config = changeable
    service = Service(address)
    first = service.status()["active"]
    second = new_release(address, config, first)
    order = {"do": "rollback", "id": new_id()}
    assert service._operate(order) == service._operate(order) == first["name"]
    assert service.status()["active"]["name"] == first["name"]
    with pytest.raises(ServiceError, match=rf"{order['id']} is the id of an order to rollback.*409"):
        service._operate({**order, "do": "prune"})
    assert service.rollback() == second  # another order


def test_changed_rows_are_written_by_the_service(changeable):
    address, config = changeable
    service, dataset = Service(address), Dataset(config.workspace / "dataset")
    rows = [row.model_dump(mode="json") for row in dataset.read(FREELANCERS)]
    rows[3]["country"] = "IS"
    shutil.rmtree(dataset.root / "freelancers")
    (dataset.root / "freelancers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = service.update(dataset)
    assert (done["upserted"], done["deleted"], done["unchanged"]) == (1, 0, len(rows) - 1)
    found = match_once(config, Project(project_id="p", title="anything", country="IS"), 5, address)
    assert [match.candidate.freelancer_id for match in found.matches] == [rows[3]["freelancer_id"]]
    assert service.update(dataset)["upserted"] == 0


def test_the_service_reads_no_dataset_outside_its_own_place(address, tmp_path):
    with pytest.raises(ServiceError, match=r"could not update: ConfigError: .*serving\.datasets"):
        Service(address).update(Dataset(tmp_path))


def test_a_service_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ServiceError, match=r"no service at http://127\.0\.0\.1:1.*skillmatch serve"):
        Service("http://127.0.0.1:1").status()
    with pytest.raises(ServiceError, match="http://HOST:PORT"):
        Service("localhost:8000").status()


def test_the_key_comes_from_the_environment(address, keys, monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, "first,second")
    monkeypatch.setattr(keys, "_fixed", ApiKeys()._fixed)
    with pytest.raises(ServiceError, match=rf"status 401\).*\${API_KEY_VARIABLE}"):
        Service(address).releases()
    monkeypatch.setenv(API_KEY_VARIABLE, "second")
    assert Service(address).releases()


def test_one_operation_runs_at_a_time_and_every_replica_tells_its_end(tmp_path):
    here, there, go = Operations(tmp_path), Operations(tmp_path), threading.Event()
    first = here.start(new_id(), "prune", lambda: go.wait(60) and ["gone"])
    assert there.start(new_id(), "rollback", lambda: None) is None
    assert there.get(first.id).state == "running"
    assert there.start(first.id, "prune", lambda: 1 // 0).state == "running"
    go.set()
    assert ended(there, first.id).result == ["gone"]
    second = there.start(new_id(), "rollback", lambda: 1 // 0)
    failed = ended(here, second.id)
    assert (failed.state, failed.error[:17]) == ("failed", "ZeroDivisionError")
    assert here.get("unknown") is None


def test_the_latest_operations_are_remembered(tmp_path):
    operations = Operations(tmp_path)
    begun = []
    for _ in range(34):
        begun.append(operations.start(new_id(), "prune", list))
        assert ended(operations, begun[-1].id).result == []
    assert [operations.get(one.id) is None for one in begun] == [True, True] + 32 * [False]


LOST = """
import sys, time, uuid
from pathlib import Path
from skillmatch_ray.serving.operations import Operations
begun = Operations(Path(sys.argv[1])).start(uuid.uuid4().hex, "prune", lambda: time.sleep(600))
print(begun.id, flush=True)
time.sleep(600)
"""


def test_an_operation_lost_with_its_replica_has_failed(tmp_path):
    command = [sys.executable, "-c", LOST, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as replica:
        lost = replica.stdout.readline().strip()
        operations = Operations(tmp_path)
        assert operations.get(lost).state == "running"
        replica.kill()
    told = operations.get(lost)
    assert told.state == "failed"
    assert "send the order again" in told.error
    assert operations.start(lost, "prune", list) == told
    assert ended(operations, operations.start(new_id(), "prune", list).id).state == "done"


def new_id():
    return uuid.uuid4().hex


def ended(operations, operation_id):
    wait_for(lambda: operations.get(operation_id).state != "running", "the operation's end")
    return operations.get(operation_id)


def test_workspaces_are_told_apart(address, config):
    """A client whose own workspace is another one still sees the service's."""
    assert {release["name"] for release in Service(address).releases()} == {
        path.stem for path in (Workspace(config.workspace).root / "releases").glob("*.json")
    }
