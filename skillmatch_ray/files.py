"""Files that a kill at any moment leaves whole: atomic writes, JSON, hashes and owner locks.

A place is a path of this machine or a URI of an object store (s3://, gs://, file://). Of the latter `locate`
makes an object with the methods of `Path`, so that whoever reads and writes need not know.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.errors import ConfigError, LockedError

_INSTALL = {"s3": "skillmatch-ray[s3]", "gs": "skillmatch-ray[gcs]"}


def locate(place: str | Path) -> Path:
    """The path that `place` names, or for the URI of an object store something with a path's methods.

    Example:
        >>> locate("file:///data/x.jsonl")
        PosixPath('/data/x.jsonl')

    Raises:
        ConfigError: if the kind of store is unknown, or its package is not installed.
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return Path(place)
    if scheme == "file":
        return Path(rest)
    from fsspec import available_protocols
    from upath import UPath

    if scheme not in available_protocols():
        raise ConfigError(
            f"{place}: unknown kind of store {scheme!r}: give a directory, s3://..., gs://... or file://..."
        )
    try:
        # Other workers write there too: a listing must not come from memory.
        path = UPath(str(place), use_listings_cache=False)
        path.fs  # noqa: B018 -- finds out now whether the store's package is there
    except ImportError as e:
        package = _INSTALL.get(scheme, f"fsspec[{scheme}]")
        raise ConfigError(f"{place}: the package for {scheme}:// is missing ({e}): pip install '{package}'") from e
    return cast("Path", path)


def is_uri(place: str | Path) -> bool:
    """Whether it is written as the URI of a store, and not as a path of this machine."""
    return "://" in str(place)


def is_remote(path: Path) -> bool:
    """Whether it lies in an object store: no rename, no lock, no directories, but whole objects only."""
    return not isinstance(path, Path)


def reachable(path: Path) -> bool:
    """Whether a directory is there.

    Raises:
        ConfigError: if its object store does not answer or refuses.
    """
    try:
        return path.is_dir()
    except Exception as e:
        raise ConfigError(
            f"{path} cannot be reached ({type(e).__name__}: {e}): check the address, and the credentials in the "
            "environment"
        ) from e


def temporary_sibling(path: Path) -> Path:
    """A fresh name beside `path`, hidden, so that a rename onto `path` stays on one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends well, and vanishes otherwise."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as directory:
            temporary = Path(directory) / path.name
            yield temporary
            upload(temporary, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def upload(source: Path, target: Path) -> None:
    """Put a file into an object store, where it appears whole or not at all."""
    remote = cast("Any", target)
    remote.fs.put_file(str(source), remote.path)


def create_text(path: Path, text: str) -> bool:
    """Write a file that must not be there yet, in an object store or here; whether it was so."""
    try:
        if is_remote(path):
            remote = cast("Any", path)
            remote.fs.pipe_file(remote.path, text.encode(), mode="create")
        else:
            temporary = temporary_sibling(path)
            temporary.write_text(text, encoding="utf-8")
            try:
                path.hardlink_to(temporary)
            finally:
                temporary.unlink()
    except FileExistsError:
        return False
    return True


def make_directory(path: Path) -> None:
    """A directory with its parents; an object store needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_dir():
        remote = cast("Any", path)
        remote.fs.rm(remote.path, recursive=True)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, from wherever it lies."""
    with path.open("rb") as file:
        return pq.read_table(file, columns=columns)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends well.

    A directory that stands at `path` already is replaced: it is moved aside first, since a rename
    cannot replace a directory that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        replace_directory(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Put the directory `source` at `target`, dropping what stood there."""
    old = temporary_sibling(target)
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON with a final newline."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        ValueError: if the file is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not valid JSON: {e}") from e


def hash_files(paths: list[Path]) -> str:
    """SHA-256 (hex) over names and contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def owner_lock(path: Path, purpose: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the file lock `path` for one owner; the kernel frees it if the owner is killed.

    With `wait`, a second owner waits for the first instead of failing.

    Raises:
        LockedError: if somebody else holds it; the message names the owner and what they do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as e:
            file.seek(0)
            owner = file.read().strip() or "an owner that left no name"
            raise LockedError(f"{path.parent} is in use: {owner}. Wait for it to end, or stop it.") from e
        file.truncate(0)
        file.write(f"{purpose} by {getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})")
        file.flush()
        yield
