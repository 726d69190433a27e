"""A release: one model and the index built by it; where releases lie, and which one is active."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from skillmatch_ray.config import Config, MilvusSettings
from skillmatch_ray.errors import ReleaseError
from skillmatch_ray.files import is_remote, is_uri, locate, owner_lock, read_json, write_json
from skillmatch_ray.index.backend import Backend, IndexType
from skillmatch_ray.index.journal import Journal
from skillmatch_ray.index.schema import Layout
from skillmatch_ray.workspace import Workspace

DATABASE = "freelancers.db"
SAMPLE_FILE = "sample.parquet"
APPLIED_FILE = "applied.json"
BUILD_FILE = "build.json"
LITE_COLLECTION = "freelancers"

Located = Annotated[Path, PlainValidator(locate), PlainSerializer(str)]
"""A directory here or in an object store."""


class Release(BaseModel):
    """The manifest of one release.

    Attributes:
        name: first letters of the fingerprint, time of building, and four random letters.
        fingerprint: of the embedding space; queries must come from the same.
        dim: D of the vectors.
        rows: freelancers at the time of building.
        built_at: UTC.
        model_dir: the model that encodes its queries.
        vectors_dir: the vectors it was built from, here or in an object store.
        uri: address of the server that holds it; None = Milvus Lite in the workspace.
        collection: its name there.
        languages: those with a column of their own.
        index: type and parameters of the vector index.
        backend: version of Milvus that it was built with.
        validation: what the gate measured.
        journal_seq: last change of the journal that it was built with.
        bm25: whether it holds the words of profiles too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    fingerprint: str
    dim: int
    rows: int
    built_at: dt.datetime
    model_dir: Path
    vectors_dir: Located
    uri: str | None
    collection: str
    languages: tuple[str, ...]
    index: dict[str, Any]
    backend: str
    validation: dict[str, Any]
    journal_seq: int
    bm25: bool = False

    @property
    def kind(self) -> Literal["lite", "server"]:
        """Embedded in one process, or behind an address."""
        return "lite" if self.uri is None else "server"

    @property
    def index_type(self) -> IndexType:
        """Of its vector index."""
        return cast("IndexType", self.index["index_type"])

    @property
    def layout(self) -> Layout:
        """Its columns."""
        return Layout(self.dim, self.languages, self.bm25)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return self.model_dump(mode="json")


class ReleaseStore:
    """The releases of one workspace.

    Args:
        workspace: where they lie.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.root = workspace.root
        self.indexes = workspace.root / "indexes"
        self.manifests = workspace.root / "releases"
        self.pointer = workspace.root / "active.json"
        self.journal = Journal(workspace.root / "vectors" / "journal.jsonl")

    def directory(self, name: str) -> Path:
        """Files of one index."""
        return self.indexes / name

    def sample_file(self, name: str) -> Path:
        """Filter columns of some rows."""
        return self.directory(name) / SAMPLE_FILE

    def names(self) -> list[str]:
        """Names of whole releases, oldest first."""
        return [release.name for release in self.all()]

    def all(self) -> list[Release]:
        """Whole releases, oldest first."""
        found = [self.get(path.stem) for path in self.manifests.glob("*.json")]
        return sorted(found, key=lambda release: (release.built_at, release.name))

    def get(self, name: str) -> Release:
        """One release.

        Raises:
            ReleaseError: if there is none of that name; the message lists those that exist.
        """
        path = self.manifests / f"{name}.json"
        if Path(name).name != name or not path.is_file():
            known = ", ".join(sorted(found.stem for found in self.manifests.glob("*.json"))) or "none"
            raise ReleaseError(f"{self.root} has no release {name!r}; it has: {known}")
        values = read_json(path)
        for key in ("model_dir", "vectors_dir"):
            if not is_uri(values[key]):
                values[key] = self.root / values[key]  # an absolute path wins over the root
        return Release.model_validate(values)

    def write(self, release: Release) -> None:
        """Commit a release: from now on it exists."""
        values = release.as_dict()
        values |= {key: str(self._relative(getattr(release, key))) for key in ("model_dir", "vectors_dir")}
        write_json(self.manifests / f"{release.name}.json", values)

    def _relative(self, path: Path) -> Path:
        if is_remote(path):
            return path
        path, root = path.resolve(), self.root.resolve()
        return path.relative_to(root) if path.is_relative_to(root) else path

    def active_name(self) -> str | None:
        """Name of the active release, or None."""
        return read_json(self.pointer)["active"] if self.pointer.is_file() else None

    def previous_name(self) -> str | None:
        """Name of the release that was active before, or None."""
        return read_json(self.pointer)["previous"] if self.pointer.is_file() else None

    def point(self, name: str) -> None:
        """Make a release the active one; this rename is the switch."""
        active = self.active_name()
        previous = active if active != name else self.previous_name()
        now = dt.datetime.now(dt.UTC).isoformat()
        write_json(self.pointer, {"active": name, "previous": previous, "activated_at": now})

    def open(self, release: Release, settings: MilvusSettings, purpose: str) -> Backend:
        """A connection to where the release lies, whatever `settings.uri` says now.

        Raises:
            LockedError: if another process owns its embedded database.
            MilvusError: if its server does not answer.
        """
        settings = settings.model_copy(update={"uri": release.uri})
        if release.uri is not None:
            return Backend(settings)
        path = self.directory(release.name) / DATABASE
        if not path.is_dir():
            raise ReleaseError(f"release {release.name} has lost its database {path}: run `skillmatch reindex`")
        return Backend(settings, path, f"{purpose} release {release.name}")

    def applied(self, release: Release) -> int:
        """Last change of the journal that surely is in the release's index."""
        path = self.directory(release.name) / APPLIED_FILE
        return int(read_json(path)["seq"]) if path.is_file() else release.journal_seq

    def set_applied(self, release: Release, seq: int) -> None:
        """Remember how far the release's index has come."""
        write_json(self.directory(release.name) / APPLIED_FILE, {"seq": seq})

    @contextlib.contextmanager
    def building(self, purpose: str) -> Iterator[None]:
        """Hold the right to build or remove indexes.

        Raises:
            LockedError: if another process builds; the message names it.
        """
        with owner_lock(self.indexes / "building.lock", purpose):
            yield


def collection_name(config: Config, name: str) -> str:
    """What a release's collection is called on its backend."""
    return LITE_COLLECTION if config.milvus.uri is None else f"{config.milvus.alias}_{name.replace('-', '_')}"
