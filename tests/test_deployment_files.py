"""The files that operators start from are valid for the pinned Ray, and their keys are known."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from skillmatch_ray.config import load_config

ROOT = Path(__file__).parent.parent
VERBS = ("encode", "train", "reindex", "evaluate", "nightly")


def test_cluster_yaml_is_valid_for_the_cluster_launcher():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    assert config["provider"]["type"] == "aws"
    assert config["head_node_type"] in config["available_node_types"]


def test_a_broken_cluster_yaml_is_refused():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["max_workers"] = "many"
    with pytest.raises(Exception, match="many"):
        validate_config(prepare_config(config))


def test_every_setting_of_cluster_yaml_is_explained():
    """A comment on the line, or on the line above; commands and their own lists count as one setting."""
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line.strip()
        and "#" not in line
        and not before.lstrip().startswith("#")
        and not line.lstrip().startswith("- ")
    ]
    assert {line.strip() for line in bare} <= {"provider:", "auth:", "available_node_types:", "node_config:"}


def test_the_cluster_starts_with_tokens_spot_and_limits():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert any("auth_token" in target for target in config["file_mounts"])
    types = config["available_node_types"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
    assert config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("verb", VERBS)
def test_job_files_load_and_tell_how_they_are_run(verb):
    path = ROOT / "jobs" / f"{verb}.yaml"
    load_config(path)
    text = path.read_text()
    assert f"ray job submit --working-dir . -- python jobs/{verb}.py --config jobs/{verb}.yaml" in text
    assert f"skillmatch {verb} --config jobs/{verb}.yaml" in text
    assert (ROOT / "jobs" / f"{verb}.py").is_file()


def test_the_container_image_has_the_pinned_ray():
    pinned = re.search(r"ray\[[\w,]+\]==([\d.]+)", (ROOT / "pyproject.toml").read_text())[1]
    text = (ROOT / "jobs" / "Dockerfile").read_text()
    assert set(re.findall(r"rayproject/ray:([\d.]+)", text)) == {pinned}
    for source in re.findall(r"^COPY \S+ (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
