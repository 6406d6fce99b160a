"""Measures one case of the operations' benchmark: ours beside the rivals, interleaved in one run.

A row has median and quantiles in ms, rate, share of the floor, peak memory above the inputs and ratio to ours. The
floor is the longer of two times: arithmetic at the measured product rate, least bytes at the measured copy rate. A
competitor that cannot run has "why" in place of numbers, whatever it raised.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable

import torch

from benchmarks import harness, rivals
from benchmarks.cases import Case, LossCase, label
from mmcl_fast.ops import choice

Row = dict[str, object]
Watch = Callable[[str], None]
PATIENCE = 60.0  # seconds for a competitor to be built and run, or to be timed


class DeviceLost(Exception):
    """A competitor left the GPU unusable for this process: (who, why)."""


def reason(error: BaseException) -> str:
    """One line of at most 120 characters."""
    if isinstance(error, rivals.CannotRun):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:120].rstrip(": ")


def _check(who: str, device: str, error: BaseException) -> None:
    """DeviceLost where no kernel can run any more: an illegal access stays until the process ends."""
    if device != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        raise DeviceLost(who, reason(error)) from error


def measure(
    makers: dict[str, Callable[[], Callable[[], None]]],
    device: str,
    ours: str,
    flops: float,
    floor_ms: float,
    seconds: float,
    lost: dict[str, str],
    watch: Watch = lambda who: None,
) -> dict[str, Row]:
    """Rows by competitor. `lost`: those that are not tried again, and why; `watch` is told what is tried next."""
    runs: dict[str, Callable[[], None]] = {}
    rows: dict[str, Row] = {name: {"why": why} for name, why in lost.items()}
    for name in (name for name in makers if name not in lost):
        watch(name)
        try:
            runs[name] = makers[name]()
            for _ in range(2):
                runs[name]()
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:  # whatever a rival raises, the others are measured
            rows[name] = {"why": reason(error)}
            runs.pop(name, None)
            _check(name, device, error)
    watch("all together")
    failed: dict[str, Exception] = {}
    timed = harness.interleaved(runs, device, seconds, failed=failed)
    for name, raised in failed.items():
        rows[name] = {"why": reason(raised)}
        _check(name, device, raised)
    for name, time in timed.items():
        rows[name] = {**time, "tflops": flops / time["median"] / 1e9, "floor_share": floor_ms / time["median"]}
        if ours in timed:
            rows[name]["ratio"] = time["median"] / timed[ours]["median"]
        watch(name)
        try:
            rows[name]["peak_mb"] = harness.peak_memory(runs[name], device) / 2**20
            if device == "cuda" and (replay := harness.graphed(runs[name])):
                rows[name]["graph_ms"] = harness.interleaved({name: replay}, device, seconds / 4)[name]["median"]
        except Exception as error:
            rows[name]["note"] = reason(error)
            _check(name, device, error)
    return {name: rows[name] for name in makers if name in rows}


def patience(seconds: float = PATIENCE) -> Watch:
    """A watch that ends the process where one competitor takes longer: a kernel that hangs cannot be interrupted."""

    def watch(who: str) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)

    return watch


def run(case: Case, seconds: float, lost: dict[str, str], watch: Watch = lambda who: None) -> dict[str, object]:
    """Everything known of one case."""
    what, device, dtype = case
    picked = choice.explain(what.problem(dtype), torch.device(device))
    size = dtype.itemsize
    arithmetic = 1e3 * what.flops / harness.product_rate(device, dtype)
    traffic = 1e3 * what.bytes(size) / harness.copy_rate(device)
    if isinstance(what, LossCase):
        inputs = what.inputs(device, dtype)
        makers: dict = {name: (lambda make=make: make(*inputs)) for name, make in rivals.LOSS.items()}
    else:
        makers = dict(rivals.realign_runs(*what.inputs(device, dtype)))
    floor = max(arithmetic, traffic)
    rows = measure(makers, device, picked.backend, what.flops, floor, seconds, lost, watch)
    for row in rows.values():
        if isinstance(row.get("median"), float):
            row["gbs"] = what.bytes(size) / row["median"] / 1e6  # type: ignore[operator]
    problem = what.problem(dtype)
    return {
        "label": label(case),
        "op": what.op,
        "case": what.name,
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
