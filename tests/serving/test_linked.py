"""A model that was given a glossary, from the command line to the service's answer."""

from __future__ import annotations

import shutil

import pytest
from quickstart_helpers import skillmatch_here
from serving_helpers import Local, send

from skillmatch_ray.config import load_config
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.sample.taxonomy import builtin_taxonomy
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]


def test_a_brief_is_told_its_concepts_by_the_service_too(tiny_workspace, tmp_path):
    """Linked, encoded and indexed by the verbs; the concepts of both sides are part of the score."""
    root, model = tmp_path / "workspace", tmp_path / "linked"
    shutil.copytree(tiny_workspace.root, root)
    shared = ["--workspace", root, "--config", tiny_workspace.config]
    linked = skillmatch_here("link", *shared, "--glossary", "builtin", "--out", model, "--dataset", root / "dataset")
    assert linked.returncode == 0, linked.stdout
    before = active_release(Workspace(root))
    indexed = skillmatch_here("reindex", *shared, "--model", model, "--dataset", root / "dataset")
    assert indexed.returncode == 0, indexed.stdout
    after = active_release(Workspace(root))
    assert after.fingerprint != before.fingerprint
    skill = next(names for names in builtin_taxonomy().skills.values() if " " in names["fr"][0])
    brief = {"title": "Renfort", "description": f"Nous cherchons : {skill['fr'][0]}.", "language": "fr"}
    services = Local(load_config(tiny_workspace.config, [f"workspace={root}"]))
    try:
        asked = {"project": brief, "top_k": 5, "explain": True, "filters": {}}
        body = send(build_api(services.flow()), "POST", "/v1/match", json=asked).json()
    finally:
        services.close()
    assert body["fingerprint"] == after.fingerprint
    assert len(body["candidates"]) == 5
    for found in body["candidates"]:
        parts = found["explanation"]["project"]
        assert [part["text"] for part in parts if part["type"] == "concepts"] == [skill["en"][0]]
        assert any(part["type"] == "concepts" for part in found["explanation"]["freelancer"])
        assert sum(part["score"] for part in parts) == pytest.approx(found["score"], abs=1e-3)
