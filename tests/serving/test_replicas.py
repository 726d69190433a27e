"""A deployment for each stage, on the Ray that runs: replicas are lost while requests go on."""

from __future__ import annotations

import shutil

import pytest
from serving_helpers import kill_an_encoder_under_load
from waiting import free_port

from skillmatch_ray.config import load_config
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.serving.app import build, in_one_replica
from skillmatch_ray.serving.run import serving

pytestmark = pytest.mark.e2e

BRIEF = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 3}
SETTINGS = ["serving.deployments=several", "serving.encoder_replicas=2", "serving.encoder_cpus=0.1"]


@pytest.fixture(scope="module")
def config(tiny_workspace, tmp_path_factory):
    root = tmp_path_factory.mktemp("replicas") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return load_config(tiny_workspace.config, [f"workspace={root}", f"serving.port={free_port()}", *SETTINGS])


@pytest.mark.slow  # four replicas start, one of them twice
@pytest.mark.usefixtures("ray_session")
def test_no_request_fails_when_one_of_two_encoders_is_killed(config):
    with serving(config) as address:
        kill_an_encoder_under_load(address, BRIEF)


@pytest.mark.parametrize(
    ("settings", "together"),
    [
        ([], True),
        (["serving.deployments=several"], False),
        (["serving.encoder_replicas=2"], False),
        (["serving.encoder_max_replicas=3"], False),
        (["serving.deployments=one"], True),
    ],
)
def test_one_replica_holds_everything_where_nothing_is_to_be_scaled(settings, together):
    assert in_one_replica(load_config(None, settings).serving, embedded=True) is together
    assert in_one_replica(load_config(None, settings).serving, embedded=False) is (
        settings == ["serving.deployments=one"]
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"retriever_max_replicas": 2}, "retriever_max_replicas"),
        ({"host": "0.0.0.0"}, "SKILLMATCH_API_KEYS"),
        ({"require_api_key": True}, "SKILLMATCH_API_KEYS"),
        ({"max_ongoing_requests": 20}, "max_batch_size"),
        ({"encoder_replicas": 0}, "encoder_replicas"),
        ({"encoder_replicas": 3, "encoder_max_replicas": 2}, "encoder_max_replicas"),
        ({"encoder_replicas": 2, "deployments": "one"}, "deployments"),
        ({"ranker": {"kind": "http"}}, "ranker.url"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_limits_that_do_not_fit_are_refused_before_anything_starts(config, settings, told):
    with pytest.raises(ConfigError, match=told):
        build({"workspace": str(config.workspace), "serving": settings})
