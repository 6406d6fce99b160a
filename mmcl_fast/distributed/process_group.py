"""The process group of a run: how a process joins it, its rank, and its device."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from mmcl_fast.errors import ConfigError, RunError, UserError

# Environment variables between a process of this package and the processes that it starts.
RENDEZVOUS_FILE = "MMCL_FAST_RENDEZVOUS"  # path of the file through which the processes find each other
PARENT_PIPE = "MMCL_FAST_PARENT"  # file descriptor of a pipe that closes when the parent ends
CONCURRENT_RUNS = "MMCL_FAST_CONCURRENT_RUNS"  # how many runs a sweep learns at once on this machine

JOIN_TIMEOUT = timedelta(minutes=10)  # to find each other, and for one exchange between GPUs
WAIT_TIMEOUT = timedelta(days=2)  # for one exchange over gloo, while another process decodes; a death shows at once


class PeerLost(RunError):
    """Another process of the run has ended, or cannot be reached."""


@dataclass
class _ProcessGroup:
    rank: int
    world_size: int
    local_world_size: int
    device: str
    cpu_group: Any  # a torch process group over gloo, for tensors that are not on a GPU


_group: _ProcessGroup | None = None
_single = False  # True inside ``single_process``


def init_process_group(device: str) -> None:
    """Join the processes that RANK, WORLD_SIZE and LOCAL_RANK describe, as torchrun sets these variables.

    Without them, or with WORLD_SIZE 1, the process stays alone.

    Args:
        device: ``train.device`` of the config; ``auto`` and ``cuda`` become GPU number LOCAL_RANK where GPUs exist.

    Raises:
        ConfigError: ``device`` names one GPU, such as ``cuda:0``, and there are several processes.
        PeerLost: the other processes cannot be reached.
        RunError: a machine has fewer GPUs than processes.
    """
    global _group
    exit_with_parent()
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if size == 1:
        return
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        if ":" in device:
            raise ConfigError(f"train.device = {device!r}: several processes take one GPU each; use cuda or auto")
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise RunError(
                f"process {rank}: is to take GPU {local_rank}, but torch finds {count} here; start as many "
                "processes on a machine as it has GPUs, or set train.device to cpu"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    import torch.distributed as dist

    where = f"file://{os.environ[RENDEZVOUS_FILE]}" if RENDEZVOUS_FILE in os.environ else "env://"
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=where,
            rank=rank,
            world_size=size,
            timeout=JOIN_TIMEOUT,
            device_id=torch.device(device) if gpu else None,
        )
        cpu_group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    except (RuntimeError, ValueError) as fault:
        why = str(fault).splitlines()
        raise PeerLost(
            f"process {rank} of {size}: the others can't be reached ({why[0] if why else fault!r}); start all "
            "of them at once"
        ) from None
    _group = _ProcessGroup(rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", size)), device, cpu_group)


def destroy_process_group() -> None:
    """Leave the group. Call it after the last collective, in all processes."""
    global _group
    if _group is not None:
        import torch.distributed as dist

        dist.destroy_process_group()
        _group = None


def exit_with_parent() -> None:
    """Send this process SIGTERM once the parent that started it is gone; do nothing without such a parent."""
    if PARENT_PIPE in os.environ:
        pipe = int(os.environ[PARENT_PIPE])
        threading.Thread(target=_wait_for_parent, args=(pipe,), daemon=True).start()


def _wait_for_parent(pipe: int) -> None:
    os.read(pipe, 1)  # nobody writes to the pipe, so it returns when the parent's end closes
    os.kill(os.getpid(), signal.SIGTERM)


def rank() -> int:
    """Return this process's number, from 0; 0 inside ``single_process``."""
    return 0 if _group is None or _single else _group.rank


def world_size() -> int:
    """Return the number of processes; 1 inside ``single_process``."""
    return 1 if _group is None or _single else _group.world_size


def is_main_process() -> bool:
    """Return whether this process has rank 0 in the group, inside ``single_process`` too.

    It alone writes files and reports progress.
    """
    return _group is None or _group.rank == 0


def is_multi_node() -> bool:
    """Return whether the group spans several machines."""
    return _group is not None and _group.local_world_size < _group.world_size


def processes_per_machine() -> int:
    """Return how many processes share this machine's memory: the group's on this machine, or a sweep's runs."""
    return int(os.environ.get(CONCURRENT_RUNS, "1")) if _group is None else _group.local_world_size


def local_device(name: str) -> str:
    """Return the device of this process: its own GPU in a group, ``name`` (``train.device``) without one."""
    return name if _group is None else _group.device


def cpu_group() -> Any:
    """Return the group over gloo, for objects and CPU tensors; None without a process group."""
    return None if _group is None else _group.cpu_group


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, not divided among the processes on the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def should_report(error: BaseException) -> bool:
    """Return whether this process prints the error that ends the run.

    Under torchrun, rank 0 prints an error that all processes raise. Ranks 0 and 1 print any other error (``PeerLost``,
    a stop by a signal, a crash), because rank 0 may be dead. Under ``train --devices`` rank 0 prints every error except
    ``PeerLost``, which the parent prints.
    """
    if PARENT_PIPE in os.environ:  # the parent prints which process died
        # Not ``is_main_process``: it is true of all until they have found each other.
        return os.environ.get("RANK", "0") == "0" and not isinstance(error, PeerLost)
    raised_in_all = isinstance(error, UserError) and not isinstance(error, PeerLost)  # see ``propagate_errors``
    return _group is None or _group.rank < (1 if raised_in_all else 2)


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, act as a process that is alone: ``rank`` is 0, ``world_size`` is 1, and collectives exchange nothing.

    ``is_main_process``, ``local_device`` and ``processes_per_machine`` still answer for the group.

    Example: evaluation, where each process scores its own shard of samples::

        with distributed.single_process():
            scores = method.scores(tokens, modality, classes, given=True)
    """
    global _single
    before, _single = _single, True
    try:
        yield
    finally:
        _single = before
