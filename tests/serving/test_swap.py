"""The services follow the active release: a model and its index change together, under load."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
import torch

from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import FingerprintError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import activate, active_release, list_releases
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.serving.services import EncoderService, RetrieverService, SearchRequest, follow_forever
from skillmatch_ray.stages import encode_vectors, index_vectors
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]

PROJECT = Project(project_id="brief", title="React developer", skills=("React",))


@pytest.fixture(scope="module")
def two_releases(tiny_workspace, tmp_path_factory):
    """A copy of the workspace with a second release by another model; the first one is active."""
    root = tmp_path_factory.mktemp("swap") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    config = load_config(tiny_workspace.config, [f"workspace={root}", "serving.drain_s=0.2"])
    first = active_release(Workspace(root))
    other = load_matcher(first.model_dir)
    with torch.no_grad():
        for parameter in other.towers.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    directory = root / "models" / "other"
    other.save(directory)
    dataset = Dataset(root / "dataset")
    encode_vectors(config, dataset, directory)
    index_vectors(config, dataset, directory)
    second = active_release(Workspace(root))
    assert second.fingerprint != first.fingerprint
    activate(Workspace(root), first.name, config)
    return config, first, second


@pytest.fixture
def services(two_releases):
    config, first, _ = two_releases
    activate(Workspace(config.workspace), first.name, config)
    encoder, index = EncoderService(config, threads=1), RetrieverService(config)
    yield encoder, index
    index.close()


def search(index, vector, fingerprint, filters=None):
    return index.search_many([SearchRequest(vector, filters or Filters(), 5, fingerprint)])[0]


def ask(encoder, index):
    ((vector, fingerprint),) = encoder.encode([PROJECT])
    return search(index, vector, fingerprint)


def test_whoever_sees_the_switch_first_nothing_is_mixed(two_releases, services):
    config, first, second = two_releases
    encoder, index = services
    assert ask(encoder, index).release == first.name
    activate(Workspace(config.workspace), second.name, config)
    assert ask(encoder, index).release == first.name
    encoder.follow()  # before the index
    found = ask(encoder, index)
    assert (found.release, found.fingerprint) == (second.name, second.fingerprint)
    activate(Workspace(config.workspace), first.name, config)
    index.follow()  # before the encoder
    assert ask(encoder, index).release == second.name
    encoder.follow()
    assert ask(encoder, index).release == first.name


def test_a_request_in_the_middle_of_the_swap_ends_with_the_model_that_it_began_with(two_releases, services):
    config, _, second = two_releases
    encoder, index = services
    found = ask(encoder, index)
    profiles = index.profiles([c.freelancer_id for c in found.result.candidates], found.fingerprint)
    activate(Workspace(config.workspace), second.name, config)
    encoder.follow()
    index.follow()
    reasons = encoder.explain(PROJECT, profiles, found.fingerprint)
    assert [r["score"] for r in reasons] == pytest.approx([c.score for c in found.result.candidates], abs=1e-3)


def test_the_old_index_is_closed_once_it_is_drained(two_releases, services):
    config, first, second = two_releases
    encoder, index = services
    ((vector, fingerprint),) = encoder.encode([PROJECT])
    activate(Workspace(config.workspace), second.name, config)
    index.follow()
    assert search(index, vector, fingerprint).release == first.name
    time.sleep(0.3)
    index.follow()
    with pytest.raises(FingerprintError, match="send the request again"):
        search(index, vector, fingerprint)


def test_what_was_put_before_the_swap_is_found_after_it(two_releases, services):
    config, _, second = two_releases
    encoder, index = services
    newcomer = Freelancer(freelancer_id="newcomer", headline="Glass blower", country="IS")
    index.upsert(newcomer, *encoder.encode_freelancer(newcomer))
    activate(Workspace(config.workspace), second.name, config)
    encoder.follow()
    ((vector, fingerprint),) = encoder.encode([PROJECT])
    found = search(index, vector, fingerprint, Filters(countries=("IS",)))
    assert found.release == second.name
    assert [c.freelancer_id for c in found.result.candidates] == ["newcomer"]
    index.delete("newcomer")


def test_no_request_fails_while_releases_change_under_load(two_releases, services):
    config, first, second = two_releases
    encoder, index = services
    stops = [follow_forever(service.follow, 0.05) for service in services]
    answers, failures, done = [], [], threading.Event()

    def client():
        while not done.is_set():
            try:
                answers.append(ask(encoder, index))
            except Exception as e:  # noqa: BLE001
                failures.append(repr(e))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    for release in (second, first, second):
        activate(Workspace(config.workspace), release.name, config)
        time.sleep(1.5)
    done.set()
    for stopper in (*stops, done):
        stopper.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    names = {release.fingerprint: release.name for release in list_releases(Workspace(config.workspace))}
    assert all(names[a.fingerprint] == a.release for a in answers)
    assert {a.release for a in answers} == {first.name, second.name}
    assert answers[-1].release == second.name


def test_a_release_that_cannot_be_opened_leaves_the_present_one(two_releases, services, caplog):
    config, first, _ = two_releases
    encoder, index = services
    manifest = config.workspace / "active.json"
    before = manifest.read_text()
    stop = follow_forever(encoder.follow, 0.05)
    try:
        manifest.write_text(json.dumps({**json.loads(before), "active": "no-such-release"}))
        time.sleep(0.4)
        assert ask(encoder, index).release == first.name
        assert "no-such-release" in caplog.text
    finally:
        manifest.write_text(before)
        stop.set()
