"""Interleaved timing and peak memory of functions that run forward and backward once, on the CPU or a GPU."""

from __future__ import annotations

import ctypes
import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Run = Callable[[], object]


def _clock(run: Run, device: str, flush: torch.Tensor | None) -> float:
    """Return the milliseconds of one run; on a GPU between two events, after ``flush`` has emptied the level-2 cache.

    With one CPU thread it is the thread's processor time, which other programs on a shared machine do not lengthen.
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


def time_interleaved(
    runs: Mapping[str, Run],
    device: str,
    seconds: float = 3.0,
    least: int = 5,
    most: int = 200,
    failed: dict[str, Exception] | None = None,
) -> dict[str, dict[str, float]]:
    """Time all runs in turn, round by round, so that a change of the machine's speed meets all of them.

    Args:
        runs: the functions by name.
        device: "cpu" or "cuda".
        seconds: no further round begins after them.
        least, most: the bounds of the number of rounds.
        failed: gets the exception of a run that raises, which is then left out; None: the exception is raised.

    Returns:
        for each name "median", "q10" and "q90", the 10 % and 90 % quantiles, in ms, and "rounds".
    """
    flush = torch.empty(1 << 28, dtype=torch.int8, device=device) if device == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in runs}

    def for_each_run(step: Callable[[str], object]) -> None:
        for name in list(times):
            try:
                step(name)
            except Exception as error:
                if failed is None:
                    raise
                failed[name] = error
                del times[name]

    for _ in range(2):  # warm: compilers, autotuners, allocators
        for_each_run(lambda name: runs[name]())
    until = time.perf_counter() + seconds
    rounds = 0
    while times and (rounds < least or (time.perf_counter() < until and rounds < most)):
        for_each_run(lambda name: times[name].append(_clock(runs[name], device, flush)))
        rounds += 1
    return {
        name: {
            "median": statistics.median(t),
            "q10": sorted(t)[len(t) // 10],
            "q90": sorted(t)[len(t) * 9 // 10],
            "rounds": len(t),
        }
        for name, t in times.items()
    }


@functools.cache
def product_rate(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large square matrix product: what arithmetic can reach on this machine."""
    n = 1024 if device == "cpu" else 8192 if dtype.itemsize == 2 else 4096
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = time_interleaved({"product": functools.partial(torch.mm, a, b)}, device, seconds=0.3)["product"]
    return 2e3 * n**3 / times["q10"]  # not the median: a busy machine must not raise the floor


@functools.cache
def copy_rate(device: str) -> float:
    """Return the bytes/s of a large copy, counting bytes read and bytes written."""
    a = torch.empty(1 << (26 if device == "cpu" else 30), dtype=torch.int8, device=device).fill_(1)
    b = torch.empty_like(a)
    times = time_interleaved({"copy": functools.partial(b.copy_, a)}, device, seconds=0.2)["copy"]
    return 2e3 * a.numel() / times["q10"]


def capture_graph(run: Run) -> Run | None:
    """Return the run as a CUDA graph, whose replay costs no time on the host; None if it cannot be captured."""
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
    except Exception:  # a rival may do anything that a capture forbids
        torch.cuda.synchronize()
        return None
    return graph.replay


def process_bytes(key: str) -> int:
    """Return a memory size of this process in bytes; key: "VmRSS" (now), "VmHWM" (the peak), "RssAnon"."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return 1024 * int(line.split()[1])


def peak_memory(run: Run, device: str) -> int:
    """Return the peak of the run's memory above the memory before it, in bytes; on the CPU by the resident set."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = process_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    run()
    return max(0, process_bytes("VmHWM") - before)
