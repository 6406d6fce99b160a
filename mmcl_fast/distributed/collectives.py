"""Exchanges between the processes of the group. A process that is alone gets its own values back, at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmcl_fast.distributed.process_group import PeerLost, cpu_group, rank, world_size
from mmcl_fast.errors import RunError, UserError

T = TypeVar("T")


@contextmanager
def _torch_distributed() -> Iterator[Any]:
    """Give ``torch.distributed``; an exchange that fails inside raises ``PeerLost``."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as fault:
        if hasattr(signal, "pthread_sigmask"):
            # torchrun sends SIGTERM when it notices the death, before this process has told the user.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        raise PeerLost("another process of this run ended or can't be reached; what was saved is as it was") from fault


def _group_of(x: Tensor) -> Any:
    return None if x.is_cuda else cpu_group()  # None: the default group, which is NCCL's where there are GPUs


def all_reduce_gradients(parameters: Iterable[Tensor], loss: Tensor, stop_signal: int) -> tuple[Tensor, Tensor]:
    """Sum the gradients over the processes, in place, so that all of them take the same step.

    Args:
        parameters: the tensors whose ``grad`` is summed; one without a gradient is passed over.
        loss: this process's part of the loss, a scalar.
        stop_signal: the signal that asked this process to stop; 0 where none did.

    Returns:
        The sums of ``loss`` and of ``stop_signal`` over the processes, two scalars without a graph.
    """
    if world_size() == 1:
        return loss.detach(), loss.new_tensor(float(stop_signal))
    grads = [p.grad for p in parameters if p.grad is not None]
    # One exchange carries all of it: its latency, not its bytes, is the cost of a small step.
    flat = torch.cat(
        [*(g.reshape(-1) for g in grads), loss.detach().reshape(1), loss.new_full((1,), float(stop_signal))]
    )
    with _torch_distributed() as dist:
        dist.all_reduce(flat, group=_group_of(flat))
    for grad, summed in zip(grads, flat.split([*(g.numel() for g in grads), 1, 1])):
        grad.copy_(summed.view_as(grad))
    return flat[-2], flat[-1]


def broadcast_tensors(*tensors: Tensor) -> None:
    """Overwrite the tensors, in place, by the tensors of rank 0."""
    if world_size() > 1:
        with _torch_distributed() as dist:
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=_group_of(tensor))


def broadcast_object(value: T) -> T:
    """Return rank 0's value in every process; it must pickle."""
    if world_size() == 1:
        return value
    out = [value]
    with _torch_distributed() as dist:
        dist.broadcast_object_list(out, 0, group=cpu_group())
    return out[0]


def all_gather_object(value: T) -> list[T]:
    """Return every process's value, in the order of ranks; values must pickle."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    with _torch_distributed() as dist:
        dist.all_gather_object(out, value, group=cpu_group())
    return out


def all_gather_rows(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all processes, in the order of ranks.

    Args:
        x: ``[n_r, ...]``, the rows of this process r.
        counts: the number of rows n_r of each process.

    Returns:
        ``[sum over r of n_r, ...]``.
    """
    if world_size() == 1:
        return x
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    out = [torch.empty_like(padded) for _ in counts]
    with _torch_distributed() as dist:
        dist.all_gather(out, padded, group=_group_of(x))
    return torch.cat([rows[:count] for rows, count in zip(out, counts)])


def tree_sum(count: int, block: Callable[[int], Tensor], like: Tensor) -> Tensor:
    """Return block(0) + ... + block(count - 1); one process computes each block, and all get the sum.

    It is ours because ``all_reduce`` adds in an order that depends on the number of processes. Here blocks are added
    in pairs, then pairs of pairs, whichever process holds them: the same bits for any number of processes.

    Args:
        count: number of blocks, at least 1. A single block is computed by every process.
        block: number of a block -> a new tensor, which may be changed in place.
        like: a tensor with the shape, dtype and device of a block.
    """
    size = 1 << (count - 1).bit_length()
    trees = min(size, 1 << (world_size() - 1).bit_length())
    leaves = size // trees
    if count == 1 or world_size() == 1:
        return _pairwise_sum(block(i) if i < count else None for i in range(size))
    owner = [tree * world_size() // trees for tree in range(trees)]
    computed = {
        tree: _pairwise_sum(block(i) if i < count else None for i in range(tree * leaves, (tree + 1) * leaves))
        for tree in range(trees)
        if owner[tree] == rank() and tree * leaves < count
    }

    def receive(tree: int) -> Tensor | None:
        if tree * leaves >= count:
            return None
        out = (
            computed[tree].contiguous()
            if tree in computed
            else torch.empty_like(like, memory_format=torch.contiguous_format)
        )
        with _torch_distributed() as dist:
            dist.broadcast(out, owner[tree], group=_group_of(out))
        return out

    return _pairwise_sum(map(receive, range(trees)))


def _pairwise_sum(items: Iterable[Tensor | None]) -> Tensor:
    """Sum 2^k items as the leaves of a binary tree, holding at most k + 1 of them; None adds nothing."""
    waiting: list[tuple[int, Tensor | None]] = []  # (height of a finished subtree, its sum), the largest first
    for item in items:
        level = 0
        while waiting and waiting[-1][0] == level:
            left = waiting.pop()[1]
            if left is not None:
                item = left if item is None else left.add_(item)
            level += 1
        waiting.append((level, item))
    total = waiting[0][1]
    if total is None:
        raise ValueError("nothing to sum")
    return total


@contextmanager
def propagate_errors() -> Iterator[None]:
    """Leave the block in all processes at once; a ``UserError`` inside one of them is raised in all.

    Without it the other processes would wait for the failed one. The lowest rank's error is raised where several
    failed. ``PeerLost`` and errors that are no ``UserError`` leave at once, in their own process alone.

    Example::

        with distributed.propagate_errors():
            if distributed.is_main_process():
                write_file()  # what fails here fails everywhere
    """
    fault = None
    try:
        yield
    except UserError as found:
        if world_size() == 1 or isinstance(found, PeerLost):
            raise
        fault = found
    for other in all_gather_object(fault and (type(fault), str(fault))):
        if other:
            raise other[0](other[1])


def require_same(values: dict[str, Any]) -> None:
    """Check that all processes hold the values that rank 0 holds.

    Args:
        values: what is compared, by the name that the message uses, such as "the stream".

    Raises:
        RunError: a value differs; raised in all processes.
    """
    with propagate_errors():
        expected = broadcast_object(values)
        for name, value in values.items():
            if value != expected[name]:
                raise RunError(
                    f"process {rank()}: {name} is {value!r}, but {expected[name]!r} in process 0; give all "
                    "processes the same command, data and packages, and a run folder that they share"
                )
