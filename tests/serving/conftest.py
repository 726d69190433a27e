"""The services over a tiny workspace, without Serve."""

from __future__ import annotations

import shutil

import pytest
from serving_helpers import Local

from skillmatch_ray.config import load_config


@pytest.fixture(scope="package")
def local(tiny_workspace, tmp_path_factory):
    # A copy: what is put and deleted here must not be seen by other tests of the same workspace.
    root = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    services = Local(load_config(tiny_workspace.config, [f"workspace={root}", "serving.release_poll_s=3600"]))
    yield services
    services.close()
