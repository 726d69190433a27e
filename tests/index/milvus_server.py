"""Real servers, started and ended by fixtures: Milvus from its PyPI package (extra milvus-server), Milvus Lite."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
from waiting import free_port

from skillmatch_ray.errors import LockedError
from skillmatch_ray.files import owner_lock

SUPERVISOR = """
import os, signal, subprocess, sys
subprocess.Popen(sys.argv[1:])
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""
"""The wrapper of the package leaves the server alive when it ends, and so does a test run that is killed.
This one ends the whole session when its input closes, whatever the reason."""

START_S = 120.0
TURN_S = 300.0
ETCD_PEER_PORT = 2380
"""Of the etcd inside the server; it cannot be set, and a second server dies on it without a word."""


@contextlib.contextmanager
def milvus_server(data: Path, port: int | None = None) -> Iterator[str]:
    """The address of a server that lives as long as the block, and is killed at its end."""
    port = port or free_port()
    with _turn():
        _check_free(ETCD_PEER_PORT)
        _wait_until_free(port)
        yield from _run("milvus-server", ["--data", str(data), "--proxy-port", str(port)], data, port)


@contextlib.contextmanager
def lite_server(data: Path, port: int | None = None) -> Iterator[str]:
    """The address of a `milvus-lite server`, which several processes may share, as long as the block."""
    port = port or free_port()
    options = ["server", "--data-dir", str(data / "lite"), "--host", "127.0.0.1", "--port", str(port)]
    yield from _run("milvus-lite", options, data, port)


class RestartableServer:
    """A `milvus_server` that a test may kill and start again on the same data; use as a context manager."""

    def __init__(self, data: Path) -> None:
        self._data, self._port = data, free_port()
        self._running = contextlib.ExitStack()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._running.enter_context(milvus_server(self._data, self._port))

    def kill(self) -> None:
        self._running.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Wait, but not for ever, until no other test run on this host has a server."""
    lock = Path(tempfile.gettempdir()) / "skillmatch-tests-milvus" / "lock"
    deadline = time.monotonic() + TURN_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(owner_lock(lock, "a test run"))
                break
            except LockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        yield


def _wait_until_free(port: int) -> None:
    """The package binds without SO_REUSEADDR: for a minute after a kill it would quietly take the next port."""
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
        time.sleep(1)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise RuntimeError(f"port {port} is taken, probably by another Milvus or etcd: stop it") from e


def _run(command: str, options: list[str], data: Path, port: int) -> Iterator[str]:
    with (data / "server.log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(Path(sys.executable).with_name(command)), *options],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait_for(uri, supervisor, data / "server.log")
            yield uri
        finally:
            children = psutil.Process(supervisor.pid).children(recursive=True)
            supervisor.communicate()
            _, alive = psutil.wait_procs(children, timeout=10)
            assert not alive, f"children of the server are still alive: {alive}"


def _wait_for(uri: str, wrapper: subprocess.Popen[bytes], log: Path) -> None:
    from pymilvus import MilvusClient

    deadline = time.monotonic() + START_S
    while True:
        if wrapper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Milvus server did not start:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(Exception), contextlib.closing(MilvusClient(uri, timeout=2, dedicated=True)) as client:
            client.list_collections(timeout=2)
            return
        time.sleep(0.5)
