"""Both operations beside their rivals, interleaved in one run. `python -m benchmarks` runs this and prints
the table.

pytest-benchmark keeps the time of ours (the backend that "auto" takes) and, in extra_info, one row per
competitor: median and quantiles in ms, rate, share of the floor, peak memory above the inputs, ratio to ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from benchmarks import cases, harness, rivals
from mmcl_fast import ops

SECONDS = float(os.environ.get("BENCH_SECONDS", "2"))


def label(value: object) -> str:
    return getattr(value, "name", str(value).removeprefix("torch."))


def measure(makers: dict, device: str, ours: str, flops: float) -> dict[str, dict]:
    """Rows by competitor; one that cannot run has "why" in place of numbers."""
    runs: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict] = {}
    for name, make in makers.items():
        try:
            runs[name] = make()
            runs[name]()
        except rivals.CannotRun as why:
            rows[name] = {"why": str(why)}
            runs.pop(name, None)
        except torch.OutOfMemoryError:
            rows[name] = {"why": "out of memory"}
            runs.pop(name, None)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # a rival's own limits
            if name in ops.backends():
                raise
            rows[name] = {"why": f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"}
            runs.pop(name, None)
    timed = harness.interleaved(runs, device, SECONDS)
    floor = timed.get(rivals.FLOOR, {}).get("median")
    for name, time in timed.items():
        rows[name] = time | {
            "tflops": flops / time["median"] / 1e9,
            "ratio": time["median"] / timed[ours]["median"],
            "peak_mb": harness.peak_memory(runs[name], device) / 2**20,
        }
        if floor:
            rows[name]["floor_share"] = floor / time["median"]
        if device == "cuda" and (replay := harness.graphed(runs[name])):
            rows[name]["graph_ms"] = harness.interleaved({name: replay}, device, SECONDS / 4)[name]["median"]
    return rows


@pytest.mark.parametrize(("case", "device", "dtype"), cases.loss_cases(), ids=label)
def test_alignment_loss(benchmark, case, device, dtype):
    inputs = case.inputs(device, dtype)
    ours = ops.choice.choose("alignment_loss", inputs[0], case.c, None)
    makers = {name: (lambda make=make: make(*inputs)) for name, make in rivals.LOSS.items()}
    rows = measure(makers, device, ours, case.flops)
    benchmark.extra_info |= {
        "op": "alignment_loss",
        "case": case.name,
        "size": case.c,
        "device": device,
        "dtype": label(dtype),
        "ours": ours,
        "rows": rows,
    }
    benchmark.pedantic(makers[ours](), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize(("case", "device", "dtype"), cases.realign_cases(), ids=label)
def test_realign(benchmark, case, device, dtype):
    leaves, de = case.inputs(device, dtype)
    ours = ops.choice.choose("realign", leaves["z"], case.m * case.r, None)
    makers = rivals.realign_runs(leaves, de)
    rows = measure(makers, device, ours, case.flops)
    for row in rows.values():
        if "median" in row:
            row["gbs"] = case.bytes(de.element_size()) / row["median"] / 1e6
    benchmark.extra_info |= {
        "op": "realign",
        "case": case.name,
        "size": case.m * case.r,
        "device": device,
        "dtype": label(dtype),
        "ours": ours,
        "rows": rows,
    }
    benchmark.pedantic(makers[ours](), rounds=3, warmup_rounds=1)
