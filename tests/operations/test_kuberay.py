"""The rendered KubeRay resources: known fields, and the same settings as the files they come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from skillmatch_ray.cli import app
from skillmatch_ray.operations.kuberay import KUBERAY_VERSION, Placement, render

ROOT = Path(__file__).parent.parent.parent
REFERENCE = yaml.safe_load(Path(__file__).with_name("kuberay_fields.yaml").read_text())
SPECS = {"RayCluster": "RayClusterSpec", "RayJob": "RayJobSpec", "RayService": "RayServiceSpec"}


def unknown_fields(value, kind, place=""):
    """Places in `value` that the reference does not know; lists and enumerations included."""
    if isinstance(kind, list) and kind and kind[0] in REFERENCE["types"]:
        return [found for i, part in enumerate(value) for found in unknown_fields(part, kind[0], f"{place}[{i}]")]
    if isinstance(kind, list):
        return [] if value in kind else [f"{place}={value}"]
    if kind is None:
        return []
    known = REFERENCE["types"][kind]
    found = [f"{place}.{key}" for key in value if key not in known]
    for key in value.keys() & known.keys():
        found += unknown_fields(value[key], known[key], f"{place}.{key}")
    return found


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("kuberay")
    placement = Placement("registry.example/skillmatch:1", redis="redis:6379")
    files = render(ROOT / "cluster.yaml", ROOT / "serve_config.yaml", placement, out)
    manifests = [yaml.safe_load(file.read_text()) for file in files]
    return {manifest["kind"]: manifest for manifest in manifests}


@pytest.fixture(scope="module")
def source():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.mark.parametrize("kind", SPECS)
def test_every_field_is_one_of_the_named_version(rendered, kind):
    assert REFERENCE["version"] == KUBERAY_VERSION
    manifest = rendered[kind]
    assert unknown_fields(manifest, "Resource") == []
    assert unknown_fields(manifest["spec"], SPECS[kind]) == []
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?", manifest["metadata"]["name"])


def test_the_check_finds_what_is_wrong(rendered):
    spec = {**rendered["RayCluster"]["spec"], "headGroup": {}, "authOptions": {"mode": "password"}}
    assert unknown_fields(spec, "RayClusterSpec") == [".headGroup", ".authOptions.mode=password"]


def test_worker_groups_are_the_node_types_of_the_cluster_file(rendered, source):
    types = {name: kind for name, kind in source["available_node_types"].items() if name != source["head_node_type"]}
    groups = {group["groupName"]: group for group in rendered["RayCluster"]["spec"]["workerGroupSpecs"]}
    assert groups.keys() == types.keys()
    for name, kind in types.items():
        group = groups[name]
        assert (group["minReplicas"], group["maxReplicas"]) == (kind["min_workers"], kind["max_workers"])
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        assert int(limits["cpu"]) == kind["resources"]["CPU"]
        assert int(limits.get("nvidia.com/gpu", 0)) == kind["resources"].get("GPU", 0)
        spot = "InstanceMarketOptions" in kind["node_config"]
        assert ("nodeSelector" in group["template"]["spec"]) == spot


def test_the_autoscaler_and_the_token_follow_the_cluster_file(rendered, source):
    spec = rendered["RayCluster"]["spec"]
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * source["idle_timeout_minutes"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(isinstance(value, str) for value in spec["headGroupSpec"]["rayStartParams"].values())
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"


def test_job_and_service_have_the_same_cluster(rendered):
    spec = rendered["RayCluster"]["spec"]
    assert rendered["RayJob"]["spec"]["rayClusterSpec"] == spec
    assert rendered["RayService"]["spec"]["rayClusterConfig"] == spec


def test_the_service_runs_the_applications_of_the_serve_file(rendered):
    from ray.serve.schema import ServeDeploySchema

    text = rendered["RayService"]["spec"]["serveConfigV2"]
    found = yaml.safe_load(text)
    ServeDeploySchema(**found)
    expected = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert found["http_options"].pop("host") == "0.0.0.0"
    assert found["applications"][0]["args"]["serving"]["host"] == "0.0.0.0", "or it would start without keys"
    expected["http_options"].pop("host")
    for application in (*found["applications"], *expected["applications"]):
        application["args"]["workspace"] = None
        application["args"]["serving"].pop("host", None)
    assert found == expected


def test_the_job_is_the_one_of_the_jobs_folder(rendered):
    words = rendered["RayJob"]["spec"]["entrypoint"].split()
    assert words[::2][:2] == ["python", "--config"]
    dockerfile = (ROOT / "jobs" / "Dockerfile").read_text()
    for word in (words[1], words[3]):
        home, _, file = word.partition("/jobs/")
        assert f"WORKDIR {home}\n" in dockerfile
        assert (ROOT / "jobs" / file).is_file()
    assert rendered["RayJob"]["spec"]["shutdownAfterJobFinishes"]


def test_the_verb_writes_three_files_and_explains_a_missing_source(tmp_path):
    runner = CliRunner()
    common = ["render", "kuberay", "--image", "skillmatch:1", "--serve", str(ROOT / "serve_config.yaml")]
    done = runner.invoke(app, [*common, "--cluster", str(ROOT / "cluster.yaml"), "--out", str(tmp_path / "k")])
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "k").iterdir()} == {
        "raycluster.yaml", "rayjob-reindex.yaml", "rayservice.yaml",
    }  # fmt: skip
    assert "gcsFaultToleranceOptions" not in (tmp_path / "k" / "raycluster.yaml").read_text()
    failed = runner.invoke(app, [*common, "--cluster", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "n")])
    assert failed.exit_code != 0
    assert "none.yaml does not exist" in str(failed.exception)
