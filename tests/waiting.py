"""Wait for what other processes do, and find ports for them."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    """Look until the condition holds; fails after a time that a loaded machine does not need."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports from below the range that systems deal out, or another program may have one before its owner does."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)  # Ray's workers have those from 10,002 to 19,999
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]
