"""API keys: from the environment or a file that it names, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import threading
from pathlib import Path

from skillmatch_ray.config import ServingSettings
from skillmatch_ray.errors import ConfigError

KEYS_VARIABLE = "SKILLMATCH_API_KEYS"
"""Environment variable with the accepted keys, separated by commas."""

KEYS_FILE_VARIABLE = "SKILLMATCH_API_KEYS_FILE"
"""Environment variable that names a file with one key a line; it is read again when it changes."""


class ApiKeys:
    """The keys that are accepted now; none known: no key is asked for.

    A file can be changed while the service runs: write the new key beside the old one, move the clients,
    take the old one out.

    Raises:
        ConfigError: if the named file cannot be read or holds no key.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fixed = [_digest(key) for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
        name = os.environ.get(KEYS_FILE_VARIABLE)
        self._file = Path(name) if name else None
        self._stamp: tuple[int, int, int] | None = None
        self._read: list[bytes] = []
        self._refresh()
        if self._file and not self._read:
            raise ConfigError(f"{KEYS_FILE_VARIABLE}: {self._file} cannot be read or holds no key: one key a line")

    @property
    def wanted(self) -> bool:
        """Whether requests must carry a key."""
        return bool(self._fixed) or self._file is not None

    def accepts(self, given: str) -> bool:
        """Whether `given` is one of the keys, in a time that tells nothing about them."""
        self._refresh()
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, known) for known in (*self._fixed, *self._read)]
        return any(matches)

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            stat = self._file.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            with self._lock:
                if stamp != self._stamp:
                    lines = self._file.read_text(encoding="utf-8").splitlines()
                    self._read, self._stamp = [_digest(line) for line in lines if line.strip()], stamp
        except OSError:
            return  # in the middle of being replaced: the keys of before stay valid until it is there again


def _digest(key: str) -> bytes:
    """Of one length, so that not even a key's length can be measured."""
    return hashlib.sha256(key.strip().encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_keys(settings: ServingSettings, *, wanted: bool, expected: bool = False) -> None:
    """Refuse to serve without keys where they are asked for.

    Args:
        settings: host, and whether keys are required.
        wanted: whether this process has keys.
        expected: whether the process that deployed the service had them.

    Raises:
        ConfigError: if a key is required, or the service listens beyond this machine, and there is none.
    """
    required = settings.require_api_key
    if required is None:
        required = not is_loopback(settings.host)
    if (required or expected) and not wanted:
        raise ConfigError(
            f"serving.host {settings.host} with serving.require_api_key {settings.require_api_key} needs API keys: set "
            f"{KEYS_VARIABLE} or {KEYS_FILE_VARIABLE} where Ray is started (with `skillmatch serve`: before it)"
        )
