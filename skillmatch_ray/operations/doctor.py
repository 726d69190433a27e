"""`skillmatch doctor`: what stands in the way on this machine, each problem with its remedy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from packaging.requirements import Requirement
from rich.table import Table

from skillmatch_ray.backbone.resolve import (
    CHECKPOINT_FILES,
    EMBEDDED_PREFIX,
    cache_directory,
    resolve_backbone,
    unpacked_directory,
)
from skillmatch_ray.config import Config
from skillmatch_ray.errors import SkillmatchError
from skillmatch_ray.files import read_json, write_text
from skillmatch_ray.pipeline.session import cluster_address

GIGABYTE: Final = 2**30
PACKAGE: Final = "skillmatch-ray"

LEAST_PYTHON: Final = (3, 11)
LEAST_MEMORY_GB: Final = 3.0
"""Ray, one worker and the backbone; below, the system kills one of them."""
ROOMY_MEMORY_GB: Final = 6.0
LEAST_DISK_GB: Final = 2.0
"""The quickstart writes about one."""
ROOMY_DISK_GB: Final = 10.0
UNPACKED_GB: Final = 0.5
"""Size of the embedded backbone as an ordinary checkpoint."""
FULLEST_SHARE: Final = 0.95
"""Ray refuses to write objects to a disk that is fuller (RAY_local_fs_capacity_threshold)."""
LEAST_OPEN_FILES: Final = 4096
MOST_SKEW_S: Final = 30.0
"""A writer on another host counts as dead after 120 s of silence (pipeline/vectors.py)."""
RAY_PORTS: Final = (6379, 8265)
CONNECT_S: Final = 3.0

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        level: a `problem` stops the embedded default, a `warning` does not.
        found: the fact.
        remedy: what to do; empty where all is well.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        findings: in the order of the checks.
    """

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether the embedded default can run."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}

    def render(self) -> Table:
        """For people."""
        colours = {"ok": "green", "warning": "yellow", "problem": "red"}
        table = Table.grid(padding=(0, 2))
        for finding in self.findings:
            remedy = f"\n[bold]{finding.remedy}[/]" if finding.remedy else ""
            table.add_row(f"[{colours[finding.level]}]{finding.level}[/]", finding.check, finding.found + remedy)
        return table


def diagnose(config: Config) -> Diagnosis:
    """Run every check; nothing is changed, except that a probe file is written and removed."""
    return Diagnosis(tuple(finding for check in CHECKS for finding in _guarded(check, config)))


def _guarded(check: Callable[[Config], Iterator[Finding]], config: Config) -> list[Finding]:
    """A check that cannot be made is a finding, and the others still run."""
    try:
        return list(check(config))
    except (SkillmatchError, OSError) as e:
        return [Finding(check.__name__.strip("_").replace("_", " "), "problem", str(e), "see the message")]


def _python(config: Config) -> Iterator[Finding]:
    del config
    found = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield Finding("python", "problem", found, "install Python 3.11 or newer and make the environment anew")
    else:
        yield Finding("python", "ok", found)


def _packages(config: Config) -> Iterator[Finding]:
    del config
    wrong = list(unmet(importlib.metadata.requires(PACKAGE) or []))
    if wrong:
        remedy = f"pip install --upgrade {' '.join(repr(requirement) for requirement, _ in wrong)}"
        yield Finding("packages", "problem", ", ".join(f"{name}: {found}" for name, found in wrong), remedy)
    else:
        shown = (f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "pymilvus", "milvus-lite"))
        yield Finding("packages", "ok", ", ".join(shown))


def unmet(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """(requirement, installed version or "missing") of those that this environment does not meet; extras count not."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name}{requirement.specifier}", "missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier}", version


def _cores(config: Config) -> Iterator[Finding]:
    del config
    from skillmatch_ray.backbone.encoder import cpu_has_bfloat16

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (psutil.cpu_count() or 1)
    found = f"{usable} CPUs, bfloat16 instructions: {'yes' if cpu_has_bfloat16() else 'no (float32 is used)'}"
    if usable < 2:
        yield Finding("cores", "warning", found, "give it two or more: Ray itself keeps one busy")
    else:
        yield Finding("cores", "ok", found)


def _memory(config: Config) -> Iterator[Finding]:
    del config
    yield judge_memory(psutil.virtual_memory().available / GIGABYTE)


def judge_memory(available_gb: float) -> Finding:
    """Whether Ray, a worker and the backbone fit."""
    found = f"{available_gb:.1f} GB available"
    if available_gb < LEAST_MEMORY_GB:
        return Finding("memory", "problem", found, f"end other programs: the quickstart needs {LEAST_MEMORY_GB:g} GB")
    if available_gb < ROOMY_MEMORY_GB:
        return Finding("memory", "warning", found, "one worker fits; lower ray.object_store_mb if the system swaps")
    return Finding("memory", "ok", found)


def _gpus(config: Config) -> Iterator[Finding]:
    import torch

    wanted = bool(config.training.use_gpu or config.encode.gpus_per_worker)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("GPUs", "ok", ", ".join(names))
    elif shutil.which("nvidia-smi"):
        remedy = "install the CUDA build of torch that fits the driver (pip install torch, without a CPU index)"
        yield Finding("GPUs", "warning", f"torch {torch.__version__} sees none, but nvidia-smi is here", remedy)
    elif wanted:
        remedy = "set training.use_gpu=false and encode.gpus_per_worker=0, or run on a machine with a GPU"
        yield Finding("GPUs", "warning", "none, but the configuration wants one", remedy)
    else:
        yield Finding("GPUs", "ok", "none: encoding and training use the CPU")


def _shared_memory(config: Config) -> Iterator[Finding]:
    root = Path("/dev/shm")  # noqa: S108  # where Ray keeps its objects
    if root.is_dir():
        yield judge_shared_memory(shutil.disk_usage(root).free / 2**20, config.ray.object_store_mb)


def judge_shared_memory(free_mb: float, wanted_mb: int) -> Finding:
    """Whether Ray's object store fits into shared memory."""
    found = f"{free_mb:,.0f} MB free in /dev/shm, ray.object_store_mb is {wanted_mb}"
    if free_mb < wanted_mb:
        remedy = f"docker run --shm-size={wanted_mb + 512}m, or lower ray.object_store_mb: Ray uses slow /tmp instead"
        return Finding("shared memory", "warning", found, remedy)
    return Finding("shared memory", "ok", found)


def _open_files(config: Config) -> Iterator[Finding]:
    del config
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_OPEN_FILES:
        yield Finding("open files", "warning", f"limit {soft} (hard {hard})", f"ulimit -n {min(65536, hard)}")
    else:
        yield Finding("open files", "ok", f"limit {soft}")


def _disk(config: Config) -> Iterator[Finding]:
    place = _nearest(config.workspace)
    usage = shutil.disk_usage(place)
    yield judge_disk(f"disk of {config.workspace}", usage.free / GIGABYTE)
    temporary = shutil.disk_usage(tempfile.gettempdir())
    yield judge_spill(temporary.used / temporary.total)


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.is_dir())


def judge_disk(place: str, free_gb: float) -> Finding:
    """Whether the quickstart's artefacts fit."""
    found = f"{free_gb:,.1f} GB free"
    if free_gb < LEAST_DISK_GB:
        return Finding(place, "problem", found, "make room, or give another --workspace")
    if free_gb < ROOMY_DISK_GB:
        return Finding(place, "warning", found, "enough for the sample; `skillmatch plan` tells what your data needs")
    return Finding(place, "ok", found)


def judge_spill(used_share: float) -> Finding:
    """Whether Ray may still write objects to its temporary directory."""
    found = f"{used_share:.0%} used"
    if used_share > FULLEST_SHARE:
        remedy = f"make room: Ray stops spilling above {FULLEST_SHARE:.0%}; or set TMPDIR to another disk"
        return Finding("disk of Ray's temporary files", "warning", found, remedy)
    return Finding("disk of Ray's temporary files", "ok", found)


def _workspace(config: Config) -> Iterator[Finding]:
    """Whether it can be written, and whether its disk keeps this machine's time."""
    probe = _nearest(config.workspace) / f".skillmatch-doctor-{os.getpid()}"
    try:
        if config.workspace.exists() and not config.workspace.is_dir():
            raise NotADirectoryError(f"{config.workspace} is a file")
        before = time.time()
        write_text(probe, "probe")
        skew = probe.stat().st_mtime - before
        probe.unlink()
    except OSError as e:
        yield Finding("workspace", "problem", str(e), "give a directory that you may write with --workspace")
        return
    yield Finding("workspace", "ok", f"{config.workspace} can be written")
    yield judge_skew(skew)
    yield from _release(config, time.time())


def judge_skew(seconds: float) -> Finding:
    """Whether the disk's clock and this machine's agree, on which the locks among hosts rely."""
    found = f"the workspace's disk is {abs(seconds):.1f} s {'ahead of' if seconds >= 0 else 'behind'} this machine"
    if abs(seconds) > MOST_SKEW_S:
        remedy = "synchronise both clocks (chrony or systemd-timesyncd): locks among hosts go by them"
        return Finding("clock", "warning", found, remedy)
    return Finding("clock", "ok", found)


def _release(config: Config, now: float) -> Iterator[Finding]:
    """A release from the future tells of a clock that was set back."""
    pointer = config.workspace / "active.json"
    if pointer.is_file():
        written = pointer.stat().st_mtime
        active = f"release {read_json(pointer)['active']} is active"
        if written > now + MOST_SKEW_S:
            remedy = "set this machine's clock: releases are ordered by time"
            yield Finding("release", "warning", f"{active} since {written - now:,.0f} s in the future", remedy)
        else:
            yield Finding("release", "ok", active)


def _backbone(config: Config) -> Iterator[Finding]:
    name = config.backbone.name
    if name.startswith(EMBEDDED_PREFIX):
        yield _embedded(name)
    elif Path(name).is_dir():
        yield _local_checkpoint(name)
    else:
        yield _hub(name)


def _local_checkpoint(name: str) -> Finding:
    try:
        return Finding("backbone", "ok", f"{resolve_backbone(name)}, a local checkpoint")
    except SkillmatchError as e:
        return Finding("backbone", "warning", str(e), "correct backbone.name, or leave it out for the embedded one")


def _embedded(name: str) -> Finding:
    target = unpacked_directory()
    if target.is_dir():
        return Finding("backbone", "ok", f"{name}, unpacked in {target}")
    free = shutil.disk_usage(_nearest(cache_directory())).free / GIGABYTE
    if free < UNPACKED_GB:
        remedy = "make room, or set SKILLMATCH_CACHE to a directory on another disk"
        return Finding("backbone", "problem", f"{target} is not there and {free:.2f} GB are free for it", remedy)
    return Finding("backbone", "ok", f"{name}, will be unpacked into {cache_directory()} at first use (15 s)")


def _hub(name: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if all(isinstance(try_to_load_from_cache(name, file), str) for file in CHECKPOINT_FILES):
        return Finding("backbone", "ok", f"{name}, in the cache of the hub")
    remedy = "it is downloaded at first use; without a network give a local checkpoint directory"
    return Finding("backbone", "warning", f"{name} is neither a directory here nor in the cache of the hub", remedy)


def _milvus(config: Config) -> Iterator[Finding]:
    if config.milvus.uri is None:
        yield _lite(config)
    else:
        yield _server(config)


def _lite(config: Config) -> Finding:
    from skillmatch_ray.index.backend import Backend

    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            Backend(config.milvus, Path(directory) / "probe.db") as backend,
        ):
            return Finding("Milvus", "ok", f"embedded, {backend.capabilities.version}")
    except SkillmatchError as e:
        return Finding("Milvus", "problem", str(e), "pip install --upgrade milvus-lite pymilvus")


def _server(config: Config) -> Finding:
    from skillmatch_ray.index.backend import Backend

    place = f"{config.milvus.uri}"
    try:
        with Backend(config.milvus) as backend:
            able = backend.capabilities
    except SkillmatchError as e:
        remedy = (
            f"start it, correct milvus.uri, or set ${config.milvus.token_env}; without milvus.uri Milvus is embedded"
        )
        return Finding("Milvus", "warning", str(e), remedy)
    if not able.aliases:
        remedy = "use Milvus 2.2 or newer: a release is switched by its alias"
        return Finding("Milvus", "warning", f"{place} ({able.version}) has no aliases", remedy)
    return Finding("Milvus", "ok", f"{place}, version {able.version}, aliases")


def _ports(config: Config) -> Iterator[Finding]:
    host, port = config.serving.host, config.serving.port
    if can_bind(host, port):
        yield Finding("port of the service", "ok", f"{host}:{port} is free")
    else:
        remedy = "stop what listens there, or --set serving.port=N"
        yield Finding("port of the service", "warning", f"{host}:{port} is in use{_listener(port)}", remedy)
    taken = [port for port in RAY_PORTS if not can_bind("127.0.0.1", port)]
    if taken:
        found = ", ".join(f"{port}{_listener(port)}" for port in taken)
        remedy = "nothing, if this is the Ray you mean; a second `ray start --head` needs --port and --dashboard-port"
        yield Finding("ports of a Ray head", "warning", f"in use: {found}", remedy)
    else:
        yield Finding("ports of a Ray head", "ok", f"{', '.join(map(str, RAY_PORTS))} are free")


def can_bind(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _listener(port: int) -> str:
    """The process that listens on a port, where this user may know."""
    try:
        connections = psutil.net_connections("tcp")
        listening = [c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
        owners = {connection.pid for connection in listening if connection.pid}
        return "".join(f" by {psutil.Process(pid).name()} (process {pid})" for pid in sorted(owners))
    except psutil.Error:
        return ""


def _cluster(config: Config) -> Iterator[Finding]:
    """An address that leads nowhere stops even the embedded default: it is preferred to a local Ray."""
    address = cluster_address(config.ray)
    if not address:
        yield Finding("Ray cluster", "ok", "none given: a local Ray is started")
        return
    host, _, port = address.rpartition("://")[2].partition(":")
    if not port.isdigit() or answers(host, int(port)):
        yield Finding("Ray cluster", "ok", f"{address} is used")
    else:
        remedy = "unset RAY_ADDRESS (or ray.address) to use a local Ray, or start the cluster"
        yield Finding("Ray cluster", "problem", f"nothing answers at {address}", remedy)


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((host, port), CONNECT_S):
            return True
    except OSError:
        return False


def _authentication(config: Config) -> Iterator[Finding]:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled" and config.serving.host not in {"127.0.0.1", "localhost", "::1"}:
        remedy = "export RAY_AUTH_MODE=token on every node: whoever reaches Ray's ports runs code there"
        yield Finding("authentication", "warning", "Ray's is disabled, and the service listens beyond loopback", remedy)
    named = any(os.environ.get(name) for name in ("SKILLMATCH_API_KEYS", "SKILLMATCH_API_KEYS_FILE"))
    if config.serving.host not in {"127.0.0.1", "localhost", "::1"} and not named:
        remedy = "set SKILLMATCH_API_KEYS=key1,key2 in the service's environment; it does not start without"
        yield Finding("API keys", "warning", f"none, and the service listens on {config.serving.host}", remedy)


CHECKS: Final[tuple[Callable[[Config], Iterator[Finding]], ...]] = (
    _python,
    _packages,
    _cores,
    _memory,
    _gpus,
    _shared_memory,
    _open_files,
    _disk,
    _workspace,
    _backbone,
    _milvus,
    _ports,
    _cluster,
    _authentication,
)
