"""A Ray head of its own: free ports, own temporary directory, ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = Path(sys.executable).parent
START_S = 180.0
WAIT_S = 400.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look until the condition holds; fails after a time that a loaded machine does not need."""
    limit = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what} did not happen")
        time.sleep(0.05)


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


def free_ports(count: int) -> list[int]:
    """Ports from below the range that systems deal out, or another program may have one before the head does."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)  # Ray's workers have those from 10,002 to 19,999
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


@contextlib.contextmanager
def ray_head(num_cpus: int = 4, *, ports: Sequence[int] | None = None) -> Iterator[Head]:
    """A head that lives as long as the block; it takes four `ports`, by default free ones."""
    gcs, dashboard, agent, client = ports or free_ports(4)
    with short_directory() as temporary:
        environment = _environment()
        command = [
            "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", f"--num-cpus={num_cpus}", f"--temp-dir={temporary}",
        ]  # fmt: skip
        with _started(command, environment, temporary / "start.log") as process:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_until_it_answers(process, address, temporary / "start.log")
            yield Head(address, f"127.0.0.1:{gcs}", {**environment, "RAY_API_SERVER_ADDRESS": address}, temporary)


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short name: Unix sockets lie below, whose paths may not be longer than 107 characters."""
    temporary = Path(tempfile.mkdtemp(prefix="sm-ray-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


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
