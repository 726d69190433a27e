"""Both backends, and small indexed worlds on each."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_helpers import World, clustered, make_world, random_rows
from milvus_server import RestartableServer, lite_server

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.index.retriever import Retriever

NO_SERVER = "the Milvus server package is not installed: pip install 'skillmatch-ray[milvus-server]'"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestartableServer]:
    """A real server; skipped where its package is missing."""
    if importlib.util.find_spec("milvus") is None:
        pytest.skip(NO_SERVER)
    with RestartableServer(tmp_path_factory.mktemp("milvus")) as running:
        yield running


@pytest.fixture(scope="session")
def server_uri(server: RestartableServer) -> str:
    """Its address."""
    return server.uri


@pytest.fixture(scope="session")
def lite_server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Milvus Lite that processes share."""
    with lite_server(tmp_path_factory.mktemp("milvus_lite")) as uri:
        yield uri


def settings_of(request: pytest.FixtureRequest) -> MilvusSettings:
    """Settings of the backend that a parameter names."""
    if request.param == "lite":
        return MilvusSettings()
    server = {"server": "server_uri", "lite-server": "lite_server_uri"}[request.param]
    return MilvusSettings(uri=request.getfixturevalue(server), timeout_s=30)


SLOW_SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("server", "lite-server")]


@pytest.fixture(scope="session", params=["lite", *SLOW_SERVERS])
def milvus(request: pytest.FixtureRequest) -> MilvusSettings:
    """Each backend in turn; a build on the server takes seconds."""
    return settings_of(request)


ROWS = 1500


@pytest.fixture(scope="session", params=["lite", "server", SLOW_SERVERS[1]])
def read_only(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, Retriever]]:
    """1500 random freelancers, indexed and open; nobody changes them."""
    root = tmp_path_factory.mktemp("read_only")
    named = settings_of(request).model_copy(update={"alias": "read_only"})
    world = make_world(root, random_rows(ROWS), clustered(ROWS), named)
    world.release()
    with Retriever(world.config) as retriever:
        yield world, retriever


@pytest.fixture
def world(milvus: MilvusSettings, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """300 random freelancers that a test may change; not indexed yet."""
    named = milvus.model_copy(update={"alias": f"t_{abs(hash(request.node.name)) % 10**9}"})
    return make_world(tmp_path / "workspace", random_rows(300, seed=1), clustered(300, seed=1), named)
