"""Several processes that learn one stream together, one per GPU or per share of the cores.

They are started by ``torchrun`` or by ``mmcl-fast train --devices N`` and all run the same program. Every function
here does nothing with one process, and where several are there all of them must come to it in the same order.
CUDA tensors travel by NCCL, everything else by gloo.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, RunError, UserError

RENDEZVOUS, PARENT = "MMCL_FAST_RENDEZVOUS", "MMCL_FAST_PARENT"  # set by ``cli.launch``
BESIDE = "MMCL_FAST_BESIDE"  # set by ``compare.sweep``: processes that learn other runs on this machine at once
JOIN = timedelta(minutes=10)  # for processes to find each other, and for an exchange between GPUs
WAIT = timedelta(days=2)  # for one that decodes while the others wait; a death is noticed at once
BLOCK = 512  # samples dealt out at once

T = TypeVar("T")


class PeerLost(RunError):
    """Another process of the run is gone."""


@dataclass
class _Company:
    rank: int
    world: int
    local_world: int
    device: str
    group: Any  # for tensors that are not on a GPU


_company: _Company | None = None
_alone = False


def start(device: str) -> None:
    """Join the others that the environment (RANK, WORLD_SIZE, LOCAL_RANK as torchrun sets them) speaks of.

    Args:
        device: as in train.device; auto and cuda stand for GPU number LOCAL_RANK where there is one.

    Raises:
        ConfigError: ``device`` names one GPU.
        RunError: a machine has fewer GPUs than processes, or the others do not come.
    """
    global _company
    if PARENT in os.environ:
        threading.Thread(target=_stop_with_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if world == 1:
        return
    local = int(os.environ.get("LOCAL_RANK", rank))
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        if ":" in device:
            raise ConfigError(f"train.device = {device!r}: several processes take one GPU each; use cuda or auto")
        count = torch.cuda.device_count()
        if local >= count:
            raise RunError(
                f"process {rank}: is to take GPU {local}, but torch finds {count} here; start as many "
                "processes on a machine as it has GPUs, or set train.device to cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    import torch.distributed as dist

    where = f"file://{os.environ[RENDEZVOUS]}" if RENDEZVOUS in os.environ else "env://"
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=where,
            rank=rank,
            world_size=world,
            timeout=JOIN,
            device_id=torch.device(device) if gpu else None,
        )
        group = dist.new_group(backend="gloo", timeout=WAIT)
    except (RuntimeError, ValueError) as fault:
        why = str(fault).splitlines()
        raise PeerLost(
            f"process {rank} of {world}: the others can't be reached ({why[0] if why else fault!r}); start all "
            "of them at once"
        ) from None
    _company = _Company(rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)), device, group)


def stop() -> None:
    """Leave the others, at the end of what all of them finished."""
    global _company
    if _company is not None:
        import torch.distributed as dist

        dist.destroy_process_group()
        _company = None


def _stop_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the parent is gone
    os.kill(os.getpid(), signal.SIGTERM)


# ---- who is here ----------------------------------------------------------------------------------------------


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _company is None or _alone else _company.rank


def world_size() -> int:
    """How many processes there are; 1 inside ``single_process``."""
    return 1 if _company is None or _alone else _company.world


def is_main_process() -> bool:
    """Whether this is the one process that writes and speaks."""
    return _company is None or _company.rank == 0


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device(name: str) -> str:
    """This process's device, where ``name`` is train.device."""
    return name if _company is None else _company.device


def processes_per_machine() -> int:
    """Processes on this machine, which share its memory."""
    return int(os.environ.get(BESIDE, "1")) if _company is None else _company.local_world


def spans_machines() -> bool:
    """Whether processes are on other machines too."""
    return _company is not None and _company.local_world < _company.world


def reports_fault(fault: BaseException) -> bool:
    """Whether this process tells the user of what ends the run, so that it is told once; twice where nobody knows who
    is left."""
    if PARENT in os.environ:
        return is_main_process() and not isinstance(fault, PeerLost)
    shared = isinstance(fault, UserError) and not isinstance(fault, PeerLost)
    return _company is None or _company.rank < (1 if shared else 2)


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, each process works for itself."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


# ---- shares of the work ---------------------------------------------------------------------------------------


def shard(items: Sequence[T]) -> list[T]:
    """This process's samples: blocks of up to 512, dealt in turn, so that what the cache lacks is spread."""
    size = max(1, min(BLOCK, -(-len(items) // world_size())))
    return [
        item for start in range(rank() * size, len(items), world_size() * size) for item in items[start : start + size]
    ]


def shard_ranges(count: int) -> list[range]:
    """Contiguous shares of range(count), one for each process."""
    edges = [count * i // world_size() for i in range(world_size() + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def shard_batch(rows: Tensor, weight: Tensor | None = None) -> tuple[Tensor, float | Tensor]:
    """This process's rows of a batch ``[B]``, and their share of its weight: the (weighted) mean over the batch is
    the sum over processes of share * mean over their rows.

    Args:
        weight: ``[n]``, of all rows there are; None: all the same.
    """
    if world_size() == 1:
        return rows, 1.0
    own = shard_ranges(len(rows))[rank()]
    if not own:
        return rows[:1], 0.0  # a process without any still comes to the sum of gradients
    mine = rows[own.start : own.stop]
    return mine, len(own) / len(rows) if weight is None else weight[mine].sum() / weight[rows].sum()


# ---- exchange -------------------------------------------------------------------------------------------------


@contextmanager
def _reaching() -> Iterator[Any]:
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as fault:
        if hasattr(signal, "pthread_sigmask"):  # torchrun sends it when it notices; the user is still to be told
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        raise PeerLost("another process of this run ended or can't be reached; what was saved is as it was") from fault


def _group(x: Tensor) -> Any:
    return None if x.is_cuda else _cpu_group()


def _cpu_group() -> Any:
    return None if _company is None else _company.group


def sum_step(parameters: Iterable[Tensor], loss: Tensor, asked: int) -> tuple[Tensor, Tensor]:
    """Sum the gradients over the processes, in place, so that all of them take the same step.

    Args:
        loss: this process's part of it, a scalar.
        asked: not 0 where this process was asked to stop.

    Returns:
        The sums of ``loss`` and ``asked``.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in grads), loss.detach().reshape(1), loss.new_full((1,), float(asked))])
    with _reaching() as dist:
        dist.all_reduce(flat, group=_group(flat))
    for grad, summed in zip(grads, flat.split([*(g.numel() for g in grads), 1, 1])):
        grad.copy_(summed.view_as(grad))
    return flat[-2], flat[-1]


def broadcast_tensors(*tensors: Tensor) -> None:
    """Overwrite tensors by those of the first process."""
    if world_size() > 1:
        with _reaching() as dist:
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=_group(tensor))


def broadcast_object(value: T) -> T:
    """The first process's value."""
    if world_size() == 1:
        return value
    out = [value]
    with _reaching() as dist:
        dist.broadcast_object_list(out, 0, group=_cpu_group())
    return out[0]


def all_gather_object(value: T) -> list[T]:
    """Every process's value."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    with _reaching() as dist:
        dist.all_gather_object(out, value, group=_cpu_group())
    return out


def all_gather_rows(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows ``[n_r, ...]`` of every process r -> ``[sum n_r, ...]``; ``counts``: n_r of each."""
    if world_size() == 1:
        return x
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    out = [torch.empty_like(padded) for _ in counts]
    with _reaching() as dist:
        dist.all_gather(out, padded, group=_group(x))
    return torch.cat([rows[:count] for rows, count in zip(out, counts)])


def tree_sum(count: int, block: Callable[[int], Tensor], like: Tensor) -> Tensor:
    """block(0) + ... + block(count - 1), each computed by one process only.

    They are added in pairs, and pairs of pairs, whoever holds them: the same bits for any number of processes. One
    block alone is computed by all.

    Args:
        count: at least 1.
        block: a number -> a new tensor.
        like: shape, dtype and device of a block.
    """
    size = 1 << (count - 1).bit_length()
    trees = min(size, 1 << (world_size() - 1).bit_length())
    leaves = size // trees
    if count == 1 or world_size() == 1:
        return _pairwise(block(i) if i < count else None for i in range(size))
    owner = [tree * world_size() // trees for tree in range(trees)]
    own = {
        tree: _pairwise(block(i) if i < count else None for i in range(tree * leaves, (tree + 1) * leaves))
        for tree in range(trees)
        if owner[tree] == rank() and tree * leaves < count
    }

    def received(tree: int) -> Tensor | None:
        if tree * leaves >= count:
            return None
        out = own[tree].contiguous() if tree in own else torch.empty_like(like, memory_format=torch.contiguous_format)
        with _reaching() as dist:
            dist.broadcast(out, owner[tree], group=_group(out))
        return out

    return _pairwise(map(received, range(trees)))


def _pairwise(items: Iterable[Tensor | None]) -> Tensor:
    """Sum of 2^k items as of a binary tree's leaves, keeping k + 1 of them at most; None counts as nothing."""
    waiting: list[tuple[int, Tensor | None]] = []
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


# ---- agreement ------------------------------------------------------------------------------------------------


@contextmanager
def barrier_on_error() -> Iterator[None]:
    """What is inside ends for all processes at once. A fault of the input in one of them is raised in all, which
    else would wait for it in vain."""
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
    """Raises RunError where processes do not see the same run."""
    with barrier_on_error():
        here = broadcast_object(values)
        for name, value in values.items():
            if value != here[name]:
                raise RunError(
                    f"process {rank()}: {name} is {value!r}, but {here[name]!r} in process 0; give all "
                    "processes the same command, data and packages, and a run folder that they share"
                )
