"""Measures one case of the operations' benchmark: our backends and the rivals, interleaved in one run.

A measurement has median and quantiles in ms, rate, share of the floor, peak memory above the inputs and ratio to ours.
The floor is the longer of two times: the arithmetic at the measured product rate, and the least bytes at the measured
copy rate. A competitor that raised an error has "why" in place of numbers.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable

import torch

from benchmarks import harness, rivals
from benchmarks.cases import Case, LossCase, label
from mmcl_fast.ops import choice

Measurement = dict[str, object]
Watch = Callable[[str], None]  # called with the name of each competitor before it runs
TIME_LIMIT = 60.0  # seconds for a competitor to be built and run, or to be timed


class DeviceLost(Exception):
    """A competitor left the GPU unusable for this process; args are its name and the reason."""


def describe_error(error: BaseException) -> str:
    """Return one line of at most 120 characters."""
    if isinstance(error, rivals.CannotRun):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:120].rstrip(": ")


def check_device(who: str, device: str, error: BaseException) -> None:
    """Raise DeviceLost if no kernel can run any more: after an illegal access none can until the process ends."""
    if device != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        raise DeviceLost(who, describe_error(error)) from error


def measure(
    makers: dict[str, Callable[[], Callable[[], None]]],
    device: str,
    ours: str,
    flops: float,
    floor_ms: float,
    seconds: float,
    lost: dict[str, str],
    watch: Watch = lambda who: None,
) -> dict[str, Measurement]:
    """Return the measurement of each competitor.

    Args:
        makers: the competitors, see rivals.py.
        device: "cpu" or "cuda".
        ours: the backend that the ratios refer to.
        flops, floor_ms: the case's arithmetic, and its least time.
        seconds: of timing.
        lost: competitors that are not tried again, with the reason.
        watch: called with the name of each competitor before it runs.
    """
    runs: dict[str, Callable[[], None]] = {}
    rows: dict[str, Measurement] = {name: {"why": why} for name, why in lost.items()}
    for name in (name for name in makers if name not in lost):
        watch(name)
        try:
            runs[name] = makers[name]()
            for _ in range(2):
                runs[name]()
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:  # any error of a rival: the others are measured
            rows[name] = {"why": describe_error(error)}
            runs.pop(name, None)
            check_device(name, device, error)
    watch("all together")
    failed: dict[str, Exception] = {}
    timed = harness.time_interleaved(runs, device, seconds, failed=failed)
    for name, raised in failed.items():
        rows[name] = {"why": describe_error(raised)}
        check_device(name, device, raised)
    for name, time in timed.items():
        rows[name] = {**time, "tflops": flops / time["median"] / 1e9, "floor_share": floor_ms / time["median"]}
        if ours in timed:
            rows[name]["ratio"] = time["median"] / timed[ours]["median"]
        watch(name)
        try:
            rows[name]["peak_mb"] = harness.peak_memory(runs[name], device) / 2**20
            if device == "cuda" and (replay := harness.capture_graph(runs[name])):
                rows[name]["graph_ms"] = harness.time_interleaved({name: replay}, device, seconds / 4)[name]["median"]
        except Exception as error:
            rows[name]["note"] = describe_error(error)
            check_device(name, device, error)
    return {name: rows[name] for name in makers if name in rows}


def end_after(seconds: float = TIME_LIMIT) -> Watch:
    """Return a watch that ends the process if one competitor takes longer: a hanging kernel cannot be interrupted."""

    def watch(who: str) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)

    return watch


def measure_case(
    case: Case, seconds: float, lost: dict[str, str], watch: Watch = lambda who: None
) -> dict[str, object]:
    """Return the case's facts and the measurement of each competitor, as the results' JSON has them."""
    shape, device, dtype = case
    picked = choice.explain(shape.problem(dtype), torch.device(device))
    size = dtype.itemsize
    arithmetic = 1e3 * shape.flops / harness.product_rate(device, dtype)
    traffic = 1e3 * shape.bytes(size) / harness.copy_rate(device)
    if isinstance(shape, LossCase):
        inputs = shape.inputs(device, dtype)
        makers: dict = {name: (lambda make=make: make(*inputs)) for name, make in rivals.LOSS.items()}
    else:
        makers = dict(rivals.realign_makers(*shape.inputs(device, dtype)))
    floor = max(arithmetic, traffic)
    rows = measure(makers, device, picked.backend, shape.flops, floor, seconds, lost, watch)
    for row in rows.values():
        if isinstance(row.get("median"), float):
            row["gbs"] = shape.bytes(size) / row["median"] / 1e6  # type: ignore[operator]
    problem = shape.problem(dtype)
    return {
        "label": label(case),
        "op": shape.op,
        "case": shape.name,
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "grads": problem.grads,
        "sizes": list(problem.sizes),
        "ours": picked.backend,
        "chosen_by": picked.by,
        "floor_ms": floor,
        "arithmetic_ms": arithmetic,
        "bytes_ms": traffic,
        "rows": rows,
    }
