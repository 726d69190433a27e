"""A Ray head of its own: free ports, own temporary directory, ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from waiting import free_port, free_ports

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = Path(sys.executable).parent
START_S = 180.0
ON_CPUS = ("-s", "encode.workers=1", "-s", "encode.gpus_per_worker=0", "-s", "encode.cpus_per_worker=1")
SMALL_BLOCKS = ("-s", "encode.rows_per_block=2", "-s", "encode.threads_per_worker=1")
"""Options of encoding: without the GPUs that jobs/encode.yaml asks for, and with many parts."""


@dataclass(frozen=True)
class Head:
    """Where a head answers.

    Attributes:
        dashboard: address of jobs.
        gcs: address of the cluster, host:port.
        environment: for its clients.
        temporary: its directory.
    """

    dashboard: str
    gcs: str
    environment: dict[str, str]
    temporary: Path

    def cli(self, *arguments: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run one of Ray's commands in the root of the repository, against this head."""
        command, *rest = map(str, arguments)
        return subprocess.run(
            [str(SCRIPTS / command), *rest], cwd=ROOT, env=self.environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip


@contextlib.contextmanager
def ray_head(
    num_cpus: int = 4, *, ports: Sequence[int] | None = None, directory: Path | None = None, **more: str
) -> Iterator[Head]:
    """A head that lives as long as the block.

    Args:
        num_cpus: logical ones.
        ports: four; default: free ones.
        directory: of its logs and sockets; default: one that goes with it.
        more: environment.
    """
    gcs, dashboard, agent, client = ports or free_ports(4)
    with contextlib.nullcontext(directory) if directory else short_directory() as temporary:
        environment = _environment(more)
        command = [
            "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", f"--num-cpus={num_cpus}", f"--temp-dir={temporary}",
        ]  # fmt: skip
        with _started(command, environment, temporary / "start.log") as process:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_until_it_answers(process, address, temporary / "start.log")
            yield Head(address, f"127.0.0.1:{gcs}", {**environment, "RAY_API_SERVER_ADDRESS": address}, temporary)


@contextlib.contextmanager
def ray_worker(gcs: str, num_cpus: int, log: Path, **more: str) -> Iterator[None]:
    """A node that joins the head at `gcs`, as long as the block; what it says goes to `log`."""
    command = [f"--address={gcs}", f"--num-cpus={num_cpus}", f"--dashboard-agent-listen-port={free_port()}"]
    with _started(command, _environment(more), log):
        yield


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short name: Unix sockets lie below, whose paths may not be longer than 107 characters."""
    temporary = Path(tempfile.mkdtemp(prefix="sm-ray-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **more}


@contextlib.contextmanager
def _started(options: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(SCRIPTS / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=200000000", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end_tree(process)


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the head ended: {log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/api/jobs/", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the head does not answer after {START_S} s: {log.read_text()[-3000:]}")


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything it started, and wait for their end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait(30)
