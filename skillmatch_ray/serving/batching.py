"""Concurrent calls put together: one forward pass, or one search, for all that wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Waiting(Generic[ItemT, ResultT]):
    item: ItemT
    cost: int
    future: asyncio.Future[ResultT]
    since: float


class Batcher(Generic[ItemT, ResultT]):
    """Turns a function of many items into a coroutine of one, batching what comes at the same time.

    A batch starts as soon as the one before has ended, with whatever has come meanwhile: an idle service
    answers at once, and a busy one fills its batches by itself. `serve.batch` waits for a clock instead, and
    runs only inside a replica. Who was cancelled while waiting is left out.

    Args:
        function: n items to n results; called in a thread of its own, one batch at a time.
        size: items of a batch at most.
        budget: cost of a batch at most; a single item that costs more goes alone.
        cost: of one item, as in tokens.
        observe: told items, share of size or budget that is filled, and the milliseconds the first one waited.
    """

    def __init__(
        self,
        function: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        size: int,
        budget: int | None = None,
        cost: Callable[[ItemT], int] = lambda _: 0,
        observe: Callable[[int, float, float], None] = lambda *_: None,
    ) -> None:
        self._function = function
        self._size = size
        self._budget = budget
        self._cost = cost
        self._observe = observe
        self._waiting: deque[_Waiting[ItemT, ResultT]] = deque()
        self._worker: asyncio.Task[None] | None = None
        # One thread, always the same: OpenMP keeps a team of threads for each thread that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=getattr(function, "__name__", "batch"))

    @property
    def waiting(self) -> int:
        """Items that are in no batch yet."""
        return len(self._waiting)

    async def __call__(self, item: ItemT) -> ResultT:
        """The result for one item; an error of its own where it alone caused one."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, self._cost(item), future, time.perf_counter()))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while True:
                await asyncio.sleep(0)  # what the same turn of the loop brings comes along
                batch = self._take()
                if not batch:
                    return
                await self._answer(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Waiting[ItemT, ResultT]]:
        batch: list[_Waiting[ItemT, ResultT]] = []
        spent = 0
        while self._waiting and len(batch) < self._size:
            first = self._waiting[0]
            if batch and self._budget is not None and spent + first.cost > self._budget:
                break
            self._waiting.popleft()
            if not first.future.done():
                batch.append(first)
                spent += first.cost
        if batch:
            fill = max(len(batch) / self._size, spent / self._budget if self._budget else 0.0)
            self._observe(len(batch), fill, 1000 * (time.perf_counter() - batch[0].since))
        return batch

    async def _answer(self, batch: list[_Waiting[ItemT, ResultT]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._function, [one.item for one in batch])
        except Exception as e:  # noqa: BLE001  (whatever it is, it belongs to those who wait)
            await self._answer_alone(batch, e)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)

    async def _answer_alone(self, batch: list[_Waiting[ItemT, ResultT]], error: Exception) -> None:
        """One bad item must not fail the others: repeat each alone."""
        if len(batch) > 1:
            for one in batch:
                await self._answer([one])
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)
