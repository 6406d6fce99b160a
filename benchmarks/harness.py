"""Interleaved timing and peak memory, on the CPU and on a GPU, for functions that run forward and backward
once."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

Run = Callable[[], None]


def _clock(run: Run, device: str, flush: torch.Tensor | None) -> float:
    """Milliseconds of one run; on a GPU between two events, after the level-2 cache was overwritten.

    With one CPU thread it is that thread's processor time, which neighbours on a shared machine do not
    stretch.
    """
    if device == "cpu":
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        run()
        return 1e3 * (clock() - start)
    if flush is not None:
        flush.zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def interleaved(
    runs: dict[str, Run], device: str, seconds: float = 3.0, least: int = 5, most: int = 200
) -> dict[str, dict[str, float]]:
    """Rounds of all runs in turn until the time is spent: median, 10 % and 90 % quantiles in ms, and
    rounds."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device=device) if device == "cuda" else None
    for run in runs.values():  # warm: compilers, autotuners, allocators
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + seconds
    while len(times[next(iter(runs))]) < least or (time.perf_counter() < until and len(times[next(iter(runs))]) < most):
        for name, run in runs.items():
            times[name].append(_clock(run, device, flush))
    return {
        name: {
            "median": statistics.median(t),
            "q10": sorted(t)[len(t) // 10],
            "q90": sorted(t)[len(t) * 9 // 10],
            "rounds": len(t),
        }
        for name, t in times.items()
    }


def graphed(run: Run) -> Run | None:
    """The run as a CUDA graph, which shows the device's time without the host's; None where it cannot be
    captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def _status(key: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return 1024 * int(line.split()[1])


def peak_memory(run: Run, device: str) -> int:
    """Bytes above what was allocated before, gradients included; on the CPU from the process' resident
    set."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    run()
    return max(0, _status("VmHWM") - before)


def fresh(tensors: Iterable[torch.Tensor]) -> None:
    for x in tensors:
        x.grad = None
