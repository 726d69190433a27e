"""The doctor in front of a real Milvus server."""

from __future__ import annotations

import pytest

from skillmatch_ray.config import load_config
from skillmatch_ray.operations.doctor import diagnose


@pytest.mark.slow
def test_the_doctor_names_the_servers_version_and_aliases(server_uri, tiny_checkpoint, tmp_path):
    settings = [f"backbone.name={tiny_checkpoint}", f"workspace={tmp_path}", f"milvus.uri={server_uri}"]
    found = {finding.check: finding for finding in diagnose(load_config(None, settings)).findings}["Milvus"]
    assert found.level == "ok"
    assert "2.3.5" in found.found
    assert "aliases" in found.found
