"""Shares of samples, ranges and batches, one for each process of the group."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from mmcl_fast.distributed.process_group import rank, world_size

SHARD_BLOCK = 512  # samples that ``shard`` hands out at once

T = TypeVar("T")


def shard(items: Sequence[T]) -> list[T]:
    """Return this process's items: blocks of up to 512, handed out to the processes in turn.

    Neighbours share a block so that each process reads files in order. Blocks alternate so that a stretch of samples
    that the feature cache lacks is spread over all processes.
    """
    size = max(1, min(SHARD_BLOCK, -(-len(items) // world_size())))
    return [
        item for start in range(rank() * size, len(items), world_size() * size) for item in items[start : start + size]
    ]


def shard_ranges(count: int) -> list[range]:
    """Return contiguous parts of ``range(count)``, one for each process; their lengths differ by at most one."""
    edges = [count * i // world_size() for i in range(world_size() + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def shard_batch(rows: Tensor, weight: Tensor | None = None) -> tuple[Tensor, float | Tensor]:
    """Return this process's rows of a batch, and their share of the batch's weight.

    The (weighted) mean over the batch is the sum over processes of ``share * mean over their rows``. A loss that is
    multiplied by ``share`` therefore has the batch's gradient once the gradients are summed.

    Args:
        rows: ``[B]`` int64, the rows of the batch.
        weight: ``[n]``, the weight of every row that exists; None: equal weights.

    Returns:
        Rows ``[b]`` and a share from 0 to 1. A process without a row gets one row with share 0, because it must take
        part in the sum of gradients.
    """
    if world_size() == 1:
        return rows, 1.0
    part = shard_ranges(len(rows))[rank()]
    if not part:
        return rows[:1], 0.0
    chosen = rows[part.start : part.stop]
    return chosen, len(part) / len(rows) if weight is None else weight[chosen].sum() / weight[rows].sum()
