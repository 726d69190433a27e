"""What the deployments do, as plain classes that run without Serve."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ConfigError, FingerprintError, LockedError, MilvusError, SkillmatchError, StorageError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.releases import Desk, Release, active_release, status
from skillmatch_ray.index.retriever import Retriever, SearchResult
from skillmatch_ray.serving.operations import Activate, Operation, Operations, Order, Prune, Update
from skillmatch_ray.workspace import Workspace

if TYPE_CHECKING:
    from skillmatch_ray.model.matcher import Matcher

Vector = NDArray[np.float32]

logger = logging.getLogger(__name__)

_LOCK_PATIENCE_S = 10.0
"""`release activate` holds the new index for a moment before and after it points to it."""


@dataclass(frozen=True)
class Loaded:
    """A matcher and the name of its space, which is dear to compute."""

    matcher: Matcher
    fingerprint: str


class EncoderService:
    """Documents to vectors, and reasons for scores, by the model of the active release.

    The model before stays loaded, for requests that began with it.

    Args:
        config: workspace.
        threads: of torch.

    Raises:
        ReleaseError: if the workspace has no active release.
        FingerprintError: if the model is no longer the one that built the index.
    """

    def __init__(self, config: Config, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._workspace = Workspace(config.workspace)
        self._switching = threading.Lock()
        self._loaded: tuple[Loaded, ...] = ()
        self.follow()

    @property
    def fingerprint(self) -> str:
        """Of the model that encodes new requests."""
        return self._loaded[0].fingerprint

    def follow(self) -> None:
        """Take over the model of the active release if it is another one than now."""
        with self._switching:
            release = active_release(self._workspace)
            if not self._loaded or release.fingerprint != self.fingerprint:
                self._loaded = (self._load(release), *self._loaded[:1])

    def _load(self, release: Release) -> Loaded:
        from skillmatch_ray.model.matcher import load_matcher, read_model_config

        config = read_model_config(release.model_dir)
        current = self._loaded[0].matcher.backbone if self._loaded else None
        same = current is not None and (
            current.settings == BackboneSettings(**config["backbone"])
            and current.fingerprint == config["backbone_fingerprint"]
        )
        matcher = load_matcher(release.model_dir, backbone=current if same else None)
        loaded = Loaded(matcher, matcher.fingerprint)
        if loaded.fingerprint != release.fingerprint:
            raise FingerprintError(
                f"{release.model_dir} is now model {loaded.fingerprint[:12]}, but release {release.name} was built by "
                f"{release.fingerprint[:12]}: run `skillmatch reindex`"
            )
        return loaded

    def cost(self, project: Project) -> int:
        """About how many tokens of the backbone a brief is: a token is some four characters."""
        limit = self._loaded[0].matcher.backbone.settings.max_section_tokens
        return sum(min(limit, 2 + len(section.text) // 4) for section in project.sections())

    def encode(self, projects: Sequence[Project]) -> list[tuple[Vector, str]]:
        """(D,) float32 and the fingerprint of its space for each project."""
        loaded = self._loaded[0]
        return [(vector, loaded.fingerprint) for vector in loaded.matcher.encode_projects(projects)]

    def encode_freelancer(self, freelancer: Freelancer) -> tuple[Vector, str]:
        """(D,) float32 and the fingerprint of its space."""
        loaded = self._loaded[0]
        return loaded.matcher.encode_freelancers([freelancer])[0], loaded.fingerprint

    def explain(self, project: Project, freelancers: Sequence[Freelancer], fingerprint: str) -> list[dict[str, Any]]:
        """Shares of sections and skills for each freelancer, by the model that made the scores.

        Raises:
            FingerprintError: if that model is neither the present nor the previous one.
        """
        matcher = (self._find(fingerprint) or self._follow_to(fingerprint)).matcher
        return [asdict(one) for one in matcher.explain_many(project, freelancers)]

    def _find(self, fingerprint: str) -> Loaded | None:
        return next((loaded for loaded in self._loaded if loaded.fingerprint == fingerprint), None)

    def _follow_to(self, fingerprint: str) -> Loaded:
        """Another replica may have seen the switch first."""
        self.follow()
        found = self._find(fingerprint)
        if found is None:
            raise FingerprintError(f"model {fingerprint[:12]} is not loaded any more: send the request again")
        return found


@dataclass(frozen=True)
class Found:
    """What a search found, and where.

    Attributes:
        release: name of the release that answered.
        fingerprint: of its space.
        result: candidates, best first.
    """

    release: str
    fingerprint: str
    result: SearchResult


@dataclass(frozen=True)
class SearchRequest:
    """One search.

    Attributes:
        vector: (D,) of a project.
        filters: hard filters.
        top_k: candidates wanted.
        fingerprint: of the model that made `vector`.
        brief: that `vector` was made from; its words may count too.
    """

    vector: Vector
    filters: Filters
    top_k: int
    fingerprint: str
    brief: Project | None = None


@dataclass
class _Opened:
    """An open index, and who still needs it."""

    retriever: Retriever
    users: int = 0
    last_used: float = 0.0


class RetrieverService:
    """The one owner of the open indexes: that of the active release, and the one before until it is drained.

    Args:
        config: workspace, milvus and serving settings.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._workspace = Workspace(config.workspace)
        self._switching = threading.Lock()
        self._counting = threading.Lock()
        self._opened: list[_Opened] = []
        self._desk = Desk(config)
        self._operations = Operations(self._workspace.operations)
        self.follow()

    def follow(self) -> None:
        """Open the active release if it is another one than now, and close those that nobody needs any more."""
        with self._switching:
            release = active_release(self._workspace)
            opened = self._opened
            current = next((o for o in opened if o.retriever.release.name == release.name), None)
            if current is None:
                current = _Opened(self._open(release), last_used=time.monotonic())
            with self._counting:
                self._opened = [current, *(o for o in opened if o is not current)]
            self._close_drained()

    def _open(self, release: Release) -> Retriever:
        patience = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                return Retriever(self._config, release)
            except LockedError:
                if not self._opened or time.monotonic() > patience:
                    raise
                time.sleep(0.1)

    def _close_drained(self) -> None:
        idle_since = time.monotonic() - self._config.serving.drain_s
        with self._counting:
            drained = [o for o in self._opened[1:] if not o.users and o.last_used < idle_since]
            self._opened = [o for o in self._opened if o not in drained]
        for opened in drained:
            opened.retriever.close()

    @contextlib.contextmanager
    def _use(self, fingerprint: str | None = None) -> Iterator[Retriever]:
        """The newest open index of one space (default: the active one), kept open meanwhile."""
        opened = self._take(fingerprint)
        if opened is None:
            self.follow()  # the encoder saw the switch first
            opened = self._take(fingerprint)
        if opened is None:
            raise FingerprintError(f"no open index belongs to model {str(fingerprint)[:12]}: send the request again")
        try:
            yield opened.retriever
        finally:
            with self._counting:
                opened.users -= 1
                opened.last_used = time.monotonic()

    def _take(self, fingerprint: str | None) -> _Opened | None:
        with self._counting:
            for opened in self._opened:
                if fingerprint in (None, opened.retriever.release.fingerprint):
                    opened.users += 1
                    return opened
        return None

    def release(self, fingerprint: str | None = None) -> dict[str, Any]:
        """Name, fingerprint, rows, time of building of the release that answers a model's vectors.

        Raises:
            FingerprintError: if there is none.
        """
        with self._use(fingerprint) as retriever:
            release = retriever.release
            return {
                "name": release.name,
                "fingerprint": release.fingerprint,
                "rows": release.rows,
                "built_at": release.built_at.isoformat(),
            }

    def ready(self, fingerprint: str) -> dict[str, Any]:
        """`release` of a space, if its index is there.

        Raises:
            FingerprintError: if no index of that space is open.
            MilvusError: if it does not answer, or has lost the collection.
        """
        with self._use(fingerprint) as retriever:
            collection = retriever.release.collection
            if not retriever.backend.has(collection):
                raise MilvusError(f"{retriever.backend.place} has lost {collection}: run `skillmatch reindex`")
        return self.release(fingerprint)

    def search_many(self, requests: Sequence[SearchRequest]) -> list[Found]:
        """Candidates for each request, from the index of its vector's own space; like requests are one search.

        Raises:
            FingerprintError: if no index of a space is open.
            MilvusError: if one does not answer.
        """
        alike: dict[Hashable, list[int]] = {}
        for at, request in enumerate(requests):
            words_count = (request.brief.language if request.brief else None) in self._config.milvus.hybrid
            alone = at if words_count else None  # BM25 takes one query at a time
            alike.setdefault((request.filters, request.top_k, request.fingerprint, alone), []).append(at)
        found: dict[int, Found] = {}
        for places in alike.values():
            found.update(zip(places, self._search_alike([requests[at] for at in places]), strict=True))
        return [found[at] for at in range(len(requests))]

    def _search_alike(self, requests: Sequence[SearchRequest]) -> list[Found]:
        one, fingerprint = requests[0], requests[0].fingerprint
        with self._use(fingerprint) as retriever:
            if len(requests) == 1:
                results = [
                    retriever.search(
                        one.vector, one.filters, one.top_k, fingerprint=fingerprint, plan=True, brief=one.brief
                    )
                ]
            else:
                vectors = [request.vector for request in requests]
                results = retriever.search_many(vectors, one.filters, one.top_k, fingerprint=fingerprint)
            return [Found(retriever.release.name, fingerprint, result) for result in results]

    def similar(self, freelancer_id: str, top_k: int) -> Found | None:
        """Freelancers like one, or None if there is no such one."""
        with self._use() as retriever:
            result = retriever.similar(freelancer_id, top_k=top_k)
            if result is None:
                return None
            return Found(retriever.release.name, retriever.release.fingerprint, result)

    def profiles(self, freelancer_ids: Sequence[str], fingerprint: str | None = None) -> list[Freelancer | None]:
        """What the encoder reads of each freelancer."""
        with self._use(fingerprint) as retriever:
            return [retriever.profile(freelancer_id) for freelancer_id in freelancer_ids]

    def upsert(self, freelancer: Freelancer, vector: Vector, fingerprint: str) -> None:
        """Add or replace a freelancer, durably; found from now on.

        Raises:
            StorageError: if the disk is full, or nearly; nothing was written then.
        """
        self._check_room()
        with self._use(fingerprint) as retriever:
            retriever.upsert(freelancer, vector, fingerprint=fingerprint)

    def _check_room(self) -> None:
        """Milvus needs room too, and cannot give back a half-written change; deletions are never refused here."""
        free_mb = shutil.disk_usage(self._workspace.root).free // 2**20
        if free_mb < self._config.serving.min_free_mb:
            raise StorageError(
                f"{self._workspace.root} has {free_mb} MB left, serving.min_free_mb is "
                f"{self._config.serving.min_free_mb}: make room on its disk"
            )

    def delete(self, freelancer_id: str) -> None:
        """Remove a freelancer, durably and for good."""
        with self._use() as retriever:
            retriever.delete(freelancer_id)

    def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases, oldest first."""
        return self._desk.releases()

    def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""
        self.follow()
        with self._use() as retriever:
            return status(self._workspace, self._config, retriever.backend)

    def operate(self, order: Order) -> Operation | None:
        """Begin an operation on releases, once however often it is ordered; None while another one runs."""
        return self._operations.start(order.id, order.do, lambda: self._carry_out(order))

    def operation(self, operation_id: str) -> Operation | None:
        """How an operation goes."""
        return self._operations.get(operation_id)

    def _carry_out(self, order: Order) -> Any:
        if isinstance(order, Prune):
            return self._desk.prune(order.keep).as_dict()
        if isinstance(order, Update):
            with self._use() as retriever:
                return retriever.update(Dataset(self._permitted(order.dataset))).as_dict()
        name = self._desk.activate(order.release) if isinstance(order, Activate) else self._desk.rollback()
        self.follow()
        return name

    def _permitted(self, dataset: Path) -> Path:
        """A dataset's directory, if the service may read it."""
        root = (self._config.serving.datasets or self._workspace.root).resolve()
        wanted = (root / dataset).resolve()
        if not wanted.is_relative_to(root):
            raise ConfigError(
                f"the service reads datasets below {root} only, not {dataset}: set serving.datasets where it is started"
            )
        return wanted

    def close(self) -> None:
        """Let go of every index."""
        with self._switching:
            for opened in self._opened:
                opened.retriever.close()
            self._opened = []


def follow_forever(follow: Callable[[], None], period_s: float) -> threading.Event:
    """Call `follow` every `period_s` seconds in a thread of its own; set the event to end it.

    A release that cannot be taken over is logged, and the present one goes on answering.
    """
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(period_s):
            try:
                follow()
            except (SkillmatchError, OSError, ValueError) as e:
                logger.error("the active release is not taken over, the present one goes on: %s", e)  # noqa: TRY400

    threading.Thread(target=run, name="follow-release", daemon=True).start()
    return stopped
