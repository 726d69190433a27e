"""Gathering embeddings of all workers, with gradients.

Shapes: W workers, n rows of one worker, N rows of all, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, number of workers); (0, 1) outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_of(count: int, rank: int, workers: int) -> range:
    """Which of `count` rows one worker embeds; the workers' shares follow one another and differ by one row.

    Example:
        >>> [list(share_of(5, rank, 2)) for rank in range(2)]
        [[0, 1, 2], [3, 4]]
    """
    least, more = divmod(count, workers)
    start = rank * least + min(rank, more)
    return range(start, start + least + (rank < more))


class _AllGather(torch.autograd.Function):
    """All rows of all workers; the gradient of a row is the sum over workers."""

    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.stack(gathered)  # (W, n, D)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """(N, D) rows of all workers, worker by worker, from (n, D) of this one; gradients flow to their owner.

    Every worker must then compute the same loss on the result. The backward pass sums over workers and
    data-parallel training averages, so that the gradient equals that of one worker with all rows.

    Args:
        rows: this worker's share, as cut by `share_of`.
        total: N; the workers' shares may differ by one row.
    """
    rank, workers = world()
    if workers == 1:
        return rows
    counts = [len(share_of(total, r, workers)) for r in range(workers)]
    if counts[rank] != len(rows):
        raise ValueError(f"worker {rank} has {len(rows)} rows, but its share of {total} is {counts[rank]}")
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
    gathered: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    return torch.cat([gathered[r, :count] for r, count in enumerate(counts)])
