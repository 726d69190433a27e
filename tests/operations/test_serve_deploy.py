"""`serve deploy` with the repository's own serve_config.yaml, on a head of its own with Serve's fast modes."""

from __future__ import annotations

import shutil

import httpx
import pytest
import yaml
from ray_head import ROOT, ray_head
from waiting import free_port, wait_for

from skillmatch_ray.index.releases import active_release
from skillmatch_ray.serving.run import fast_modes
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BRIEF = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 3}


def answers(address, path):
    """The status of a GET, 0 where nobody listens."""
    try:
        return httpx.get(f"{address}{path}", timeout=60).status_code
    except httpx.TransportError:
        return 0


def test_the_file_that_the_repository_ships_is_deployed_answers_and_is_deleted(tiny_workspace, tmp_path):
    workspace, port = tmp_path / "workspace", free_port()
    shutil.copytree(tiny_workspace.root, workspace)
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    content["http_options"]["port"] = port
    content["applications"][0]["args"]["workspace"] = str(workspace)
    config, address = tmp_path / "serve_config.yaml", f"http://127.0.0.1:{port}"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    with ray_head(**fast_modes()) as head:
        deployed = head.cli("serve", "deploy", "--address", head.dashboard, config)
        assert deployed.returncode == 0, deployed.stderr
        wait_for(lambda: answers(address, "/readyz") == 200, "a service that is ready")
        found = httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60).json()
        assert found["release"] == active_release(Workspace(workspace)).name
        assert len(found["candidates"]) == 3
        deleted = head.cli("serve", "shutdown", "--yes", "--address", head.dashboard)
        assert deleted.returncode == 0, deleted.stderr
        wait_for(lambda: answers(address, "/v1/release") != 200, "the service's end")
