"""The `triton` backend: launches kernels/ on a GPU, or on CPU tensors under TRITON_INTERPRET=1."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from mmcl_fast.kernels import alignment as loss_kernels
from mmcl_fast.kernels import realignment as realign_kernels
from mmcl_fast.ops.backends.gpu import (
    GpuBackend,
    LossInputs,
    RowOutputs,
    RowSums,
    RunningSums,
    is_hopper,
    split_classes,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton itself reads it at import
UNFIT = (OutOfResources, triton.CompilationError, PTXASError)

Launch = Callable[..., Any]
_CHOSEN: dict[tuple, tuple[dict[str, int], dict[str, int]]] = {}  # the fastest configuration of each key


def _run(key: tuple, configs: list[tuple[dict[str, int], int, int]], launch: Launch) -> None:
    """Launch with the configuration that was fastest when the key was first seen.

    The key holds the kernel, the device, the dtype and the padded width. It leaves out the number of classes, which
    grows from task to task. Timing waits for the device, and a CUDA graph under capture forbids that. There the first
    configuration is taken and not remembered: every GPU from Ampere on can hold it. Deterministic torch takes it too,
    because another configuration sums in another order.
    """
    candidates = [(sizes, {"num_warps": warps, "num_stages": stages}) for sizes, warps, stages in configs]
    if INTERPRETED:
        launch(**candidates[0][0])
        return
    if torch.are_deterministic_algorithms_enabled():
        sizes, options = candidates[0]
    else:
        if key not in _CHOSEN and not torch.cuda.is_current_stream_capturing():
            _CHOSEN[key] = min(candidates, key=lambda config: _time(launch, *config))
        sizes, options = _CHOSEN.get(key, candidates[0])
    launch(**sizes, **options)


def _time(launch: Launch, sizes: dict[str, int], options: dict[str, int], rounds: int = 5) -> float:
    """Return the median milliseconds of a launch; infinite where the GPU cannot hold the configuration."""
    try:
        launch(**sizes, **options)  # compiles
    except UNFIT:
        return math.inf
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        launch(**sizes, **options)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[rounds // 2]


def _scale(scale: float | Tensor) -> dict:
    """Return the kernels' arguments for a scale that is a number or lies on the device."""
    pointer = isinstance(scale, Tensor)
    return {"scale_ptr": scale if pointer else None, "scale": 0.0 if pointer else scale, "HAS_SCALE": pointer}


def _upcast(x: Tensor) -> bool:
    """Tell whether the kernel must widen x: the interpreter's bfloat16 products are wrong."""
    return INTERPRETED and x.dtype == torch.bfloat16


def _block(width: int, least: int = 16) -> int:
    """Return the power of two that covers the width, as Triton's blocks need."""
    return max(least, triton.next_power_of_2(width))


@cache
def _processors(device: torch.device) -> int:
    """Return the multiprocessors of the GPU; 3 for the interpreter, so that tests see several splits."""
    return 3 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


class TritonBackend(GpuBackend):
    """Launches of kernels/."""

    name = "triton"

    def row_norm(self, x: Tensor) -> Tensor:
        inv = x.new_empty(x.shape[0], dtype=torch.float32)
        loss_kernels.row_norm[(x.shape[0],)](x, x.stride(0), inv, x.shape[1], BLOCK=min(1024, _block(x.shape[1])))
        return inv

    def one_pass_fits(self, z: Tensor, text: Tensor) -> bool:
        """Half precision, up to 256 wide: above, the sums do not fit the registers (tests/ops/test_compile.py)."""
        return z.dtype != torch.float32 and z.shape[1] <= 256

    def one_pass(self, inputs: LossInputs) -> RowSums:
        z, text = inputs.z, inputs.text
        (b, d), c = z.shape, text.shape[0]
        # Two blocks for each multiprocessor: their loads and products overlap.
        splits, per_split = split_classes(c, triton.cdiv(b, 64), 2 * _processors(z.device))
        out = z.new_empty(splits, b, d, dtype=torch.float32)
        row_max, row_sum = z.new_empty(2, splits, b, dtype=torch.float32)
        label_logit = z.new_empty(b, dtype=torch.float32)
        block = _block(d, 64)
        launch = functools.partial(
            loss_kernels.one_pass[lambda meta: (triton.cdiv(b, meta["BM"]), splits)],
            *(z, z.stride(0), text, text.stride(0), inputs.labels, inputs.inv_z, inputs.inv_t),
            out=out,
            row_max=row_max,
            row_sum=row_sum,
            label_logit=label_logit,
            rows=b,
            classes=c,
            width=d,
            per_split=per_split,
            UPCAST=_upcast(z),
            D=block,
            **_scale(inputs.scale),
        )
        configs = loss_kernels.CONFIGS["one_pass"]["hopper" if is_hopper(z.device) else "other"][block]
        _run(("one_pass", z.device, z.dtype, block), configs, launch)
        return RowSums(out, row_max, row_sum, label_logit)

    def exp_rows(self, x: Tensor, inputs: LossInputs, first: int, sums: RunningSums) -> None:
        inv_t = inputs.inv_t[first : first + x.shape[1]]
        loss_kernels.exp_rows[(x.shape[0],)](
            *(x, x.stride(0), x.shape[1], inputs.labels, first, inputs.inv_z, inv_t),
            **sums._asdict(),
            START=first == 0,
            BLOCK=min(4096, _block(x.shape[1])),
            num_warps=8,
            **_scale(inputs.scale),
        )

    def finish(self, inputs: LossInputs, sums: RowSums, out: RowOutputs) -> None:
        z, text, mean = inputs.z, inputs.text, inputs.mean_text
        b, d = z.shape
        if out.ratio is None:  # the kernel stores both in any case
            ratio, label_coef = z.new_empty(2, b, dtype=torch.float32)
            out = out._replace(ratio=ratio, label_coef=label_coef)
        loss_kernels.finish[(b,)](
            *(sums.weighted_text, z, z.stride(0), text, text.stride(0), mean, inputs.labels),
            *(inputs.inv_z, inputs.inv_t),
            row_max=sums.row_max,
            row_sum=sums.row_sum,
            label_logit=sums.label_logit,
            **out._asdict(),
            rows=b,
            classes=text.shape[0],
            width=d,
            ignore=inputs.ignore_index,
            smoothing=inputs.label_smoothing,
            SPLITS=sums.weighted_text.shape[0],
            SMOOTH=mean is not None,
            NEED_Z=out.dz is not None,
            D=_block(d),
            **_scale(inputs.scale),
        )

    def shift_normalise(self, z: Tensor, h: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        (b, d), ranks = z.shape, h.shape[1]
        e, inv = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32)
        launch = functools.partial(
            realign_kernels.shift_normalise[lambda meta: (triton.cdiv(b, meta["BM"]),)],
            *(z, z.stride(0), h, gate, gate.stride(0), up, e, inv),
            *(b, d, ranks, ranks // gate.shape[1]),
            UPCAST=_upcast(z),
        )
        key = ("shift_normalise", z.device, z.dtype, _block(d), _block(ranks))
        precision = "wide" if z.dtype == torch.float32 else "half"
        _run(key, realign_kernels.CONFIGS["shift_normalise"][precision], launch)
        return e, inv

    def project(self, de: Tensor, e: Tensor, inv: Tensor) -> Tensor:
        dv = torch.empty_like(e)
        realign_kernels.project[(e.shape[0],)](de, de.stride(0), e, inv, dv, e.shape[1], D=_block(e.shape[1]))
        return dv

    def gate_back(self, dh: Tensor, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        (b, m), scaled, dgate = gate.shape, torch.empty_like(h), h.new_empty(gate.shape)
        rank = h.shape[1] // m
        realign_kernels.gate_back[(b,)](
            *(dh, h, gate, gate.stride(0), scaled, dgate, m, rank), R=_block(rank), num_warps=1
        )
        return scaled, dgate


BACKEND = TritonBackend()
