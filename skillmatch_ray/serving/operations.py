"""Work on releases that takes longer than a request may: one request starts it, others ask how it goes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from skillmatch_ray.errors import LockedError, StorageError
from skillmatch_ray.files import owner_lock, write_text
from skillmatch_ray.serving.problems import documented

if TYPE_CHECKING:
    from skillmatch_ray.serving.flow import Searcher

logger = logging.getLogger(__name__)

_REMEMBERED = 32
_LOCK_PATIENCE_S = 0.5
_LOST = "its replica ended before it did: look at /v1/releases/status, then send the order again"


_OPERATION_ID = r"^[0-9a-f]{32}$"


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(
        default_factory=lambda: uuid.uuid4().hex,
        pattern=_OPERATION_ID,
        description="of the operation; an order that is sent again under its id is not carried out again",
    )


class Activate(_Order):
    """Make a release the one that answers."""

    do: Literal["activate"]
    release: str = Field(min_length=1, max_length=256)


class Rollback(_Order):
    """Make the release answer again that answered before."""

    do: Literal["rollback"]


class Prune(_Order):
    """Delete all but the active release, the one before it and the `keep` newest."""

    do: Literal["prune"]
    keep: int = Field(2, ge=0)


class Update(_Order):
    """Bring the active index up to date with a dataset whose vectors lie in the workspace."""

    do: Literal["update"]
    dataset: Path = Field(description="directory on the service's machine, below `serving.datasets`")


OperationId = Annotated[str, PathParameter(pattern=_OPERATION_ID)]
Order = Annotated[Activate | Rollback | Prune | Update, Field(discriminator="do")]


class Operation(BaseModel):
    """One piece of work and how it goes."""

    id: str
    do: str
    state: Literal["running", "done", "failed"] = "running"
    result: Any = None
    error: str | None = Field(None, description="why it failed, and what to do")


class Operations:
    """Carries out one order at a time, whichever replica took it; every replica can tell how the last ones go.

    An operation is a file named by its id, and whoever carries it out holds a lock to its end. A running operation
    whose lock is free was lost with its replica. An id that is known is never begun again, so whoever got no answer
    may send the order once more.

    Args:
        directory: on storage that all replicas see; made when the first operation begins.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = directory / "lock"

    def start(self, operation_id: str, do: str, work: Callable[[], Any]) -> Operation | None:
        """Begin, or tell how it stands if it was begun before; None while another operation runs.

        Raises:
            StorageError: if the disk is full; nothing was begun then.
        """
        with contextlib.ExitStack() as held:
            try:
                self._hold(held, do)
                if known := self._settled(operation_id):
                    return known
                self._forget()
                begun = Operation(id=operation_id, do=do)
                self._write(begun)
            except LockedError:
                return self._read(operation_id)
            except OSError as e:
                raise StorageError(f"{self._directory} takes no more ({e.strerror}): make room on its disk") from e
            arguments = (begun, work, held.pop_all())
        threading.Thread(target=self._run, args=arguments, name=f"operation-{do}", daemon=True).start()
        return begun

    def get(self, operation_id: str) -> Operation | None:
        """An operation as it stands, or None if there was none lately."""
        found = self._read(operation_id)
        if found and found.state == "running":
            with contextlib.suppress(LockedError), owner_lock(self._lock, "a look at a lost operation"):
                return self._settled(operation_id)
        return found

    def _settled(self, operation_id: str) -> Operation | None:
        """An operation as it stands, for whoever holds the lock: nobody carries it out now."""
        found = self._read(operation_id)
        if found and found.state == "running":
            found = found.model_copy(update={"state": "failed", "error": _LOST})
            self._write(found)
        return found

    def _hold(self, held: contextlib.ExitStack, do: str) -> None:
        """Take the lock; the operation before may have told its end already and be about to let go."""
        patience = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                held.enter_context(owner_lock(self._lock, do))
            except LockedError:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.02)
            else:
                return

    def _run(self, begun: Operation, work: Callable[[], Any], held: contextlib.ExitStack) -> None:
        with held:
            try:
                ended = begun.model_copy(update={"state": "done", "result": work()})
            except Exception as e:  # whoever asks must learn of every failure
                logger.exception("operation %s (%s) failed", begun.id, begun.do)
                ended = begun.model_copy(update={"state": "failed", "error": f"{type(e).__name__}: {e}"})
            self._write(ended)

    def _path(self, operation_id: str) -> Path:
        return self._directory / f"{operation_id}.json"

    def _read(self, operation_id: str) -> Operation | None:
        try:
            return Operation.model_validate_json(self._path(operation_id).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _write(self, operation: Operation) -> None:
        write_text(self._path(operation.id), operation.model_dump_json() + "\n")

    def _forget(self) -> None:
        """All but the latest ones."""
        known = sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in known[_REMEMBERED - 1 :]:
            path.unlink()


def add_operations(router: APIRouter, searcher: Searcher, *, is_open: bool = True) -> None:
    """The routes for those who run the service: releases, their status, operations on them.

    Args:
        router: of the API.
        searcher: carries them out.
        is_open: whether operations are accepted; they are not where anybody could send them.
    """

    @router.get("/releases", tags=["releases"])
    async def releases() -> list[dict[str, Any]]:
        """Manifests of all releases of the service's workspace, oldest first."""
        return await searcher.releases()

    @router.get("/releases/status", tags=["releases"])
    async def status() -> dict[str, Any]:
        """The active release, the one before it, and whether what they need is there."""
        return await searcher.status()

    @router.post("/operations", status_code=202, tags=["releases"], responses=documented(403, 409, 415, 507))
    async def operate(order: Order) -> Operation:
        """Begin to activate, roll back, prune or update; one operation runs at a time."""
        if not is_open:
            raise HTTPException(403, "operations need an API key, or a service that listens on loopback only")
        begun = await searcher.operate(order)
        if begun is None:
            raise HTTPException(409, "another operation on releases is running: wait until it has ended")
        if begun.do != order.do:
            raise HTTPException(409, f"{order.id} is the id of an order to {begun.do}: give each order its own")
        return begun

    @router.get("/operations/{operation_id}", tags=["releases"], responses=documented(404))
    async def operation(operation_id: OperationId) -> Operation:
        """How an operation goes."""
        found = await searcher.operation(operation_id)
        if found is None:
            raise HTTPException(404, f"there is no such operation; the service remembers the latest {_REMEMBERED}")
        return found
