"""The services over a tiny workspace, without Serve."""

from __future__ import annotations

import pytest
from serving_helpers import copied_services, over_http

from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.keys import ApiKeys


@pytest.fixture(scope="package")
def local(tiny_workspace, tmp_path_factory):
    services = copied_services(tiny_workspace, tmp_path_factory.mktemp("served") / "workspace")
    yield services
    services.close()


@pytest.fixture(scope="package")
def keys():
    """The keys that the service at `address` asks for: none, unless a test sets some."""
    return ApiKeys()


@pytest.fixture(scope="package")
def address(local, keys):
    """The API over HTTP."""
    with over_http(build_api(local.flow(), keys=keys)) as served:
        yield served
