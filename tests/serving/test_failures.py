"""What the service promises when something below it fails: a full disk, a browser that hangs, a dead Milvus."""

from __future__ import annotations

import contextlib
import resource
import shutil

import pytest
from serving_helpers import send

from skillmatch_ray.serving.api import build_api

pytestmark = pytest.mark.e2e

BRIEF = {"project": {"title": "React developer"}, "top_k": 3}
PROFILE = {"headline": "Glass blower", "country": "IS"}


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
        found = send(api, "POST", "/v1/match", json={**BRIEF, "filters": {"countries": ["IS"]}})
        assert [c["freelancer_id"] for c in found.json()["candidates"]] == ["before"]
    assert journal.read_bytes() == accepted  # nothing half-written is left
    assert send(api, "PUT", "/v1/freelancers/after", json=PROFILE).status_code == 200
    found = send(api, "POST", "/v1/match", json={**BRIEF, "filters": {"countries": ["IS"]}})
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
