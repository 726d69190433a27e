"""Batches of concurrent calls: bounds, order, errors, cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest

from skillmatch_ray.serving.batching import Batcher


def double(items):
    return [2 * item for item in items]


def test_every_caller_gets_its_own_answer_in_batches_of_bounded_size():
    told = []

    async def run():
        batcher = Batcher(double, size=4, observe=lambda *values: told.append(values))
        return await asyncio.gather(*(batcher(i) for i in range(10)))

    assert asyncio.run(run()) == [2 * i for i in range(10)]
    assert [items for items, _, _ in told] == [4, 4, 2]
    assert [fill for _, fill, _ in told] == [1.0, 1.0, 0.5]
    assert all(waited >= 0 for _, _, waited in told)


@pytest.mark.parametrize(
    ("costs", "batches"),
    [
        ([3, 3, 3, 3], [[3, 3], [3, 3]]),  # a third one would be 9 of 8
        ([2, 9, 2], [[2], [9], [2]]),  # dearer than the budget: alone
        ([8, 1], [[8], [1]]),
        ([1, 1, 1], [[1, 1, 1]]),
    ],
)
def test_the_budget_of_a_batch_is_kept(costs, batches):
    seen = []

    def note(items):
        seen.append(list(items))
        return items

    async def run():
        batcher = Batcher(note, size=10, budget=8, cost=lambda item: item)
        await asyncio.gather(*(batcher(cost) for cost in costs))

    asyncio.run(run())
    assert seen == batches


def test_what_comes_while_a_batch_runs_is_the_next_batch():
    go, seen = threading.Event(), []

    def hold(items):
        seen.append(list(items))
        assert go.wait(30)
        return items

    async def run():
        batcher = Batcher(hold, size=10)
        first = asyncio.create_task(batcher(0))
        while not seen:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher(i)) for i in (1, 2, 3)]
        while batcher.waiting < 3:
            await asyncio.sleep(0.001)
        others[1].cancel()
        await asyncio.sleep(0)
        go.set()
        return [await first, await others[0], await others[2]]

    assert asyncio.run(run()) == [0, 1, 3]
    assert seen == [[0], [1, 3]]  # whoever was cancelled is left out


def test_one_bad_item_fails_alone():
    def picky(items):
        if 13 in items:
            raise ValueError("thirteen")
        return items

    async def run():
        batcher = Batcher(picky, size=10)
        answers = await asyncio.gather(*(batcher(i) for i in (12, 13, 14)), return_exceptions=True)
        return answers, await batcher(15)

    (first, bad, last), later = asyncio.run(run())
    assert (first, last, later) == (12, 14, 15)
    assert isinstance(bad, ValueError)
