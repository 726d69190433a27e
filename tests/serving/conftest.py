"""The services over a tiny workspace, without Serve."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import uvicorn
from serving_helpers import Local

from skillmatch_ray.config import load_config
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.keys import ApiKeys


@pytest.fixture(scope="package")
def local(tiny_workspace, tmp_path_factory):
    # A copy: what is put and deleted here must not be seen by other tests of the same workspace.
    root = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    services = Local(load_config(tiny_workspace.config, [f"workspace={root}", "serving.release_poll_s=3600"]))
    yield services
    services.close()


@pytest.fixture(scope="package")
def keys():
    """The keys that the service at `address` asks for: none, unless a test sets some."""
    return ApiKeys()


@pytest.fixture(scope="package")
def address(local, keys):
    """The API over HTTP, served from a thread of this process."""
    api = build_api(local.flow(), keys=keys)
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
