"""Work on releases that takes longer than a request may: one request starts it, others ask how it goes."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from skillmatch_ray.serving.problems import documented

if TYPE_CHECKING:
    from skillmatch_ray.serving.flow import Searcher

logger = logging.getLogger(__name__)

_REMEMBERED = 32


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


OperationId = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{32}$")]
Order = Annotated[Activate | Rollback | Prune | Update, Field(discriminator="do")]


class Operation(BaseModel):
    """One piece of work and how it goes."""

    id: str
    do: str
    state: Literal["running", "done", "failed"] = "running"
    result: Any = None
    error: str | None = Field(None, description="why it failed, and what to do")


class Operations:
    """Carries out one order at a time, each in a thread of its own; the last ones are remembered."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._known: dict[str, Operation] = {}

    def start(self, do: str, work: Callable[[], Any]) -> Operation | None:
        """Begin; None while another operation runs."""
        with self._starting:
            if any(one.state == "running" for one in self._known.values()):
                return None
            begun = Operation(id=uuid.uuid4().hex, do=do)
            self._known = {**dict(list(self._known.items())[1 - _REMEMBERED :]), begun.id: begun}
        threading.Thread(target=self._run, args=(begun, work), name=f"operation-{do}", daemon=True).start()
        return begun

    def get(self, operation_id: str) -> Operation | None:
        """An operation as it stands, or None if there was none lately."""
        return self._known.get(operation_id)

    def _run(self, begun: Operation, work: Callable[[], Any]) -> None:
        try:
            ended = begun.model_copy(update={"state": "done", "result": work()})
        except Exception as e:  # whoever asks must learn of every failure
            logger.exception("operation %s (%s) failed", begun.id, begun.do)
            ended = begun.model_copy(update={"state": "failed", "error": f"{type(e).__name__}: {e}"})
        self._known[begun.id] = ended


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

    @router.post("/operations", status_code=202, tags=["releases"], responses=documented(403, 409, 415))
    async def operate(order: Order) -> Operation:
        """Begin to activate, roll back, prune or update; one operation runs at a time."""
        if not is_open:
            raise HTTPException(403, "operations need an API key, or a service that listens on loopback only")
        begun = await searcher.operate(order)
        if begun is None:
            raise HTTPException(409, "another operation on releases is running: wait until it has ended")
        return begun

    @router.get("/operations/{operation_id}", tags=["releases"], responses=documented(404))
    async def operation(operation_id: OperationId) -> Operation:
        """How an operation goes."""
        found = await searcher.operation(operation_id)
        if found is None:
            raise HTTPException(404, "there is no such operation; the service forgets them when it restarts")
        return found
