"""`skillmatch render kuberay`: the settings of cluster.yaml and serve_config.yaml as KubeRay resources."""

from __future__ import annotations

import copy
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import write_text

KUBERAY_VERSION: Final = "1.5.1"
"""The first operator with `authOptions`; the fields written here are checked against its reference in tests."""
SHARED: Final = "/shared"
"""Where the pods mount the claim."""
REPOSITORY: Final = "/home/ray/skillmatch"
"""Where jobs/Dockerfile puts the repository."""
HEAD_MEMORY_GIB: Final = 8
WORKER_MEMORY_GIB_PER_CPU: Final = 4
GIBIBYTE: Final = 2**30
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # inside a pod

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Placement:
    """What Kubernetes must know beyond cluster.yaml.

    Attributes:
        image: container image of jobs/Dockerfile.
        claim: name of a PersistentVolumeClaim (ReadWriteMany) for dataset, models and workspace.
        redis: host:port of a Redis that keeps the head's state over its restart, or None.
        spot: node labels that choose spot capacity.
    """

    image: str
    claim: str = "skillmatch"
    redis: str | None = None
    spot: tuple[tuple[str, str], ...] = (("eks.amazonaws.com/capacityType", "SPOT"),)


def render(cluster: Path, serve: Path, placement: Placement, out: Path) -> list[Path]:
    """Write raycluster.yaml, rayjob-reindex.yaml and rayservice.yaml into `out`; the files written.

    Raises:
        ConfigError: if a source cannot be read, or lacks what is needed.
    """
    spec = cluster_spec(_read(cluster), placement)
    name = _read(cluster)["cluster_name"]
    manifests = {
        "raycluster.yaml": _resource("RayCluster", name, spec),
        "rayjob-reindex.yaml": reindex_job(name, spec),
        "rayservice.yaml": service(name, spec, _read(serve)),
    }
    sources = f"{cluster.name} and {serve.name}"
    for file, manifest in manifests.items():
        head = f"# For KubeRay {KUBERAY_VERSION}. Rendered from {sources}: change those, then render anew.\n"
        write_text(out / file, head + yaml.dump(manifest, Dumper=_Blocks, sort_keys=False, width=120))
    return [out / file for file in manifests]


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out each time."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Blocks.add_representer(str, _text)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ConfigError(f"{path} does not exist: run this in the repository, or name the file") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values")
    return values


def _resource(kind: str, name: str, spec: dict[str, Any]) -> Manifest:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": copy.deepcopy(spec)}


def cluster_spec(cluster: dict[str, Any], placement: Placement) -> dict[str, Any]:
    """RayClusterSpec of a file for the cluster launcher.

    Raises:
        ConfigError: if it names no node types.
    """
    types, head = cluster.get("available_node_types", {}), cluster.get("head_node_type")
    if head not in types:
        raise ConfigError(f"head_node_type {head!r} is not among available_node_types ({', '.join(types)})")
    spec: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "idleTimeoutSeconds": 60 * cluster.get("idle_timeout_minutes", 5),
            "upscalingMode": "Conservative" if cluster.get("upscaling_speed", 1.0) <= 1 else "Default",
        },
        "headGroupSpec": _head(types[head], placement),
        "workerGroupSpecs": [_workers(name, kind, placement) for name, kind in types.items() if name != head],
    }
    if placement.redis:
        spec["gcsFaultToleranceOptions"] = {
            "redisAddress": placement.redis,
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "skillmatch-redis", "key": "password"}}},
        }
    return spec


def _head(node: dict[str, Any], placement: Placement) -> dict[str, Any]:
    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
    container = _container("ray-head", 2, HEAD_MEMORY_GIB, 0, placement)
    container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    # The dashboard listens on every address of the pod, or the operator and `ray job submit` could not reach it.
    parameters = {"dashboard-host": EVERYWHERE, "num-cpus": str(int(node["resources"].get("CPU", 0)))}
    return {"rayStartParams": parameters, "template": _pod(container, placement, spot=False)}


def _workers(name: str, node: dict[str, Any], placement: Placement) -> dict[str, Any]:
    resources = node["resources"]
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    memory = resources.get("memory", WORKER_MEMORY_GIB_PER_CPU * GIBIBYTE * cpus)
    container = _container("ray-worker", cpus, memory // GIBIBYTE, gpus, placement)
    spot = node.get("node_config", {}).get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    least = int(node.get("min_workers", 0))
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": int(node["max_workers"]),
        "rayStartParams": {},
        "template": _pod(container, placement, spot=spot),
    }


def _container(name: str, cpus: int, memory_gib: int, gpus: int, placement: Placement) -> dict[str, Any]:
    amounts: dict[str, str] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    secrets = ("skillmatch-milvus", "skillmatch-api-keys")  # MILVUS_TOKEN, SKILLMATCH_API_KEYS
    return {
        "name": name,
        "image": placement.image,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "envFrom": [{"secretRef": {"name": secret, "optional": True}} for secret in secrets],
        "volumeMounts": [{"name": "shared", "mountPath": SHARED}],
    }


def _pod(container: dict[str, Any], placement: Placement, *, spot: bool) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": placement.claim}}],
    }
    if spot:
        pod["nodeSelector"] = dict(placement.spot)
    if "nvidia.com/gpu" in container["resources"]["limits"]:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"spec": pod}


def reindex_job(name: str, spec: dict[str, Any]) -> Manifest:
    """A RayJob that encodes what changed and switches, on a cluster of its own that goes when it ends."""
    entrypoint = (
        f"python {REPOSITORY}/jobs/reindex.py --config {REPOSITORY}/jobs/reindex.yaml "
        f"--dataset {SHARED}/data --workspace {SHARED}/workspace"
    )
    return _resource(
        "RayJob",
        f"{name}-reindex",
        {
            "entrypoint": entrypoint,
            "submissionMode": "K8sJobMode",
            # Every stage resumes, so one more try costs what was not finished, not everything.
            "backoffLimit": 1,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": spec,
        },
    )


def service(name: str, spec: dict[str, Any], serve: dict[str, Any]) -> Manifest:
    """A RayService of the applications in serve_config.yaml, over the shared workspace.

    Raises:
        ConfigError: if the file has no applications.
    """
    config = copy.deepcopy(serve)
    if not config.get("applications"):
        raise ConfigError("serve_config.yaml has no applications")
    # Kubernetes reaches pods from outside. The service knows it by its own host: then it does not start without keys.
    config.setdefault("http_options", {})["host"] = EVERYWHERE
    for application in config["applications"]:
        application["args"]["workspace"] = f"{SHARED}/workspace"
        application["args"].setdefault("serving", {})["host"] = EVERYWHERE
    text = yaml.safe_dump(config, sort_keys=False)
    return _resource("RayService", f"{name}-service", {"serveConfigV2": text, "rayClusterConfig": spec})
