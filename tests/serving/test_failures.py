"""What the service promises when something below it fails: a full disk, a killed Milvus server."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import time

import pytest
from milvus_server import lite_server, milvus_server
from serving_helpers import Local, copied_services, send
from waiting import free_port

from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.stages import index_vectors
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.e2e

BRIEF = {"project": {"title": "React developer"}, "top_k": 3}
PROFILE = {"headline": "Glass blower", "country": "FO"}


@contextlib.contextmanager
def files_of_at_most(size):
    """What a full disk does to the one file that grows: its writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_profiles_are_refused_and_matching_goes_on(local):
    api = build_api(local.flow())
    assert send(api, "PUT", "/v1/freelancers/before", json=PROFILE).status_code == 200
    journal = local.config.workspace / "vectors" / "journal.jsonl"
    accepted = journal.read_bytes()
    with files_of_at_most(len(accepted) + 40):
        for _ in range(2):
            refused = send(api, "PUT", "/v1/freelancers/during", json=PROFILE)
            assert refused.status_code == 507, refused.text
            assert refused.headers["content-type"] == "application/problem+json"
            assert str(local.config.workspace) not in refused.text
        assert send(api, "DELETE", "/v1/freelancers/before").status_code == 507
        found = send(api, "POST", "/v1/match", json={**BRIEF, "filters": {"countries": ["FO"]}})
        assert [c["freelancer_id"] for c in found.json()["candidates"]] == ["before"]
    assert journal.read_bytes() == accepted  # nothing half-written is left
    assert send(api, "PUT", "/v1/freelancers/after", json=PROFILE).status_code == 200
    found = send(api, "POST", "/v1/match", json={**BRIEF, "filters": {"countries": ["FO"]}})
    assert {c["freelancer_id"] for c in found.json()["candidates"]} == {"before", "after"}
    for name in ("before", "after"):
        assert send(api, "DELETE", f"/v1/freelancers/{name}").status_code == 204


def test_profiles_are_refused_before_the_disk_is_full(local, monkeypatch):
    api = build_api(local.flow())
    free = shutil.disk_usage(local.config.workspace).free // 2**20
    crowded = local.config.serving.model_copy(update={"min_free_mb": free + 10_000})
    monkeypatch.setattr(local.index.service, "_config", local.config.model_copy(update={"serving": crowded}))
    assert send(api, "PUT", "/v1/freelancers/during", json=PROFILE).status_code == 507
    assert send(api, "POST", "/v1/match", json=BRIEF).status_code == 200
    assert send(api, "DELETE", "/v1/freelancers/during").status_code == 204


@contextlib.contextmanager
def small_file_system(place, megabytes):
    """A file system of its own at `place`, as long as the block."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(ballast):
    """Write until the file system takes no more byte."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(ballast.parent).free == 0


@pytest.mark.slow  # mounts
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
@pytest.mark.parametrize("min_free_mb", [0, 8])
def test_on_a_file_system_without_room_profiles_are_refused_until_there_is_some(min_free_mb, tiny_workspace, tmp_path):
    place = tmp_path / "small"
    with small_file_system(place, 128), contextlib.ExitStack() as opened:
        local = copied_services(tiny_workspace, place / "workspace", f"serving.min_free_mb={min_free_mb}")
        opened.callback(local.close)
        api, journal = build_api(local.flow()), place / "workspace" / "vectors" / "journal.jsonl"
        long = {**PROFILE, "description": "glass " * 2000}  # more than what is left of the journal's last page
        wanted = {**BRIEF, "filters": {"countries": ["FO"]}}
        assert send(api, "PUT", "/v1/freelancers/before", json=long).status_code == 200
        accepted = journal.read_bytes()
        fill(place / "ballast")
        for _ in range(2):
            refused = send(api, "PUT", "/v1/freelancers/during", json=long)
            assert refused.status_code == 507, refused.text
            assert refused.headers["content-type"] == "application/problem+json"
            found = send(api, "POST", "/v1/match", json=wanted)
            assert [c["freelancer_id"] for c in found.json()["candidates"]] == ["before"]
        assert journal.read_bytes() == accepted
        (place / "ballast").unlink()
        assert send(api, "PUT", "/v1/freelancers/after", json=long).status_code == 200
        found = send(api, "POST", "/v1/match", json=wanted)
        assert {c["freelancer_id"] for c in found.json()["candidates"]} == {"before", "after"}


@pytest.mark.parametrize("server", [lite_server, pytest.param(milvus_server, marks=pytest.mark.slow)])
def test_a_killed_milvus_server_costs_503_and_is_found_again(server, tiny_workspace, tmp_path):
    root, data, port = tmp_path / "workspace", tmp_path / "milvus", free_port()
    shutil.copytree(tiny_workspace.root, root)
    data.mkdir()
    settings = [f"workspace={root}", f"milvus.uri=http://127.0.0.1:{port}", "serving.release_poll_s=3600"]
    config = load_config(tiny_workspace.config, [*settings, "milvus.timeout_s=5"])
    with server(data, port):
        index_vectors(config, Dataset(root / "dataset"), active_release(Workspace(root)).model_dir)
        local = Local(config)
        api = build_api(local.flow())
        before = send(api, "POST", "/v1/match", json=BRIEF).json()["candidates"]
        assert len(before) == 3
        assert send(api, "GET", "/readyz").status_code == 200
    for method, path, body in (("POST", "/v1/match", BRIEF), ("GET", "/readyz", None)):
        asked = time.monotonic()
        lost = send(api, method, path, json=body)
        assert lost.status_code == 503, lost.text
        assert time.monotonic() - asked < 30  # milvus.timeout_s is 5, and the machine may be busy
        assert int(lost.headers["retry-after"]) >= 1
        assert str(port) not in lost.text
    assert send(api, "GET", "/healthz").status_code == 200
    assert send(api, "PUT", "/v1/freelancers/meanwhile", json=PROFILE).status_code == 503
    with server(data, port):
        deadline = time.monotonic() + 120
        while (again := send(api, "POST", "/v1/match", json=BRIEF)).status_code != 200:
            assert time.monotonic() < deadline, again.text
            time.sleep(0.5)
        assert again.json()["candidates"] == before
        assert send(api, "GET", "/readyz").status_code == 200
        # Its writer was told 503; what is durable is found all the same, as a repetition would be.
        found = send(api, "POST", "/v1/match", json={**BRIEF, "filters": {"countries": ["FO"]}})
        assert [c["freelancer_id"] for c in found.json()["candidates"]] == ["meanwhile"]
        local.close()
