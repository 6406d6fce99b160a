"""The `triton` backend: launches kernels/ on a GPU, or on CPU tensors under TRITON_INTERPRET=1."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from mmcl_fast.kernels import alignment as loss_kernels
from mmcl_fast.kernels import realignment as realign_kernels
from mmcl_fast.ops.backends import gpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = sys.modules[__name__]

alignment_rows = functools.partial(gpu.alignment_rows, HERE)
realign_forward = functools.partial(gpu.realign_forward, HERE)
realign_backward = functools.partial(gpu.realign_backward, HERE)


Launch = Callable[..., Any]
_CHOSEN: dict[tuple, tuple[dict[str, int], dict[str, int]]] = {}
UNFIT = (OutOfResources, triton.CompilationError, PTXASError)


def _run(key: tuple, configs: list[tuple[dict[str, int], int, int]], launch: Launch) -> None:
    """Launch with the configuration that was fastest when the key came first.

    The key holds the kernel, the device, the dtype and the padded width. It leaves out the number of classes, which
    grows from task to task. Timing waits for the device, and a CUDA graph under capture forbids that. There the first
    configuration is taken and not remembered: every GPU from Ampere on can hold it. Deterministic torch takes it too,
    because another configuration sums in another order.
    """
    made = [(sizes, {"num_warps": warps, "num_stages": stages}) for sizes, warps, stages in configs]
    if INTERPRETED:
        launch(**made[0][0])
        return
    if torch.are_deterministic_algorithms_enabled():
        sizes, options = made[0]
    else:
        if key not in _CHOSEN and not torch.cuda.is_current_stream_capturing():
            _CHOSEN[key] = min(made, key=lambda config: _time(launch, *config))
        sizes, options = _CHOSEN.get(key, made[0])
    launch(**sizes, **options)


def _time(launch: Launch, sizes: dict[str, int], options: dict[str, int], rounds: int = 5) -> float:
    """Median milliseconds of a launch; infinite where the GPU cannot hold the configuration."""
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
    pointer = isinstance(scale, Tensor)
    return {"scale_ptr": scale if pointer else None, "scale": 0.0 if pointer else scale, "HAS_SCALE": pointer}


def _upcast(x: Tensor) -> bool:
    return INTERPRETED and x.dtype == torch.bfloat16  # its bfloat16 products are wrong there


def _block(width: int, least: int = 16) -> int:
    return max(least, triton.next_power_of_2(width))


def row_norm(x: Tensor) -> Tensor:
    inv = x.new_empty(x.shape[0], dtype=torch.float32)
    loss_kernels.row_norm[(x.shape[0],)](x, x.stride(0), inv, x.shape[1], BLOCK=min(1024, _block(x.shape[1])))
    return inv


def one_pass_fits(z: Tensor, text: Tensor) -> bool:
    """Above 256 wide the sums no longer fit the registers (see tests/ops/test_compile.py)."""
    return z.dtype != torch.float32 and z.shape[1] <= 256


@cache
def _processors(device: torch.device) -> int:
    return 3 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def one_pass(
    z: Tensor, text: Tensor, labels: Tensor, inv_z: Tensor, inv_t: Tensor, scale: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (b, d), c = z.shape, text.shape[0]
    splits, per_split = gpu.split_classes(c, triton.cdiv(b, 64), 2 * _processors(z.device))
    o = z.new_empty(splits, b, d, dtype=torch.float32)
    top, total = z.new_empty(2, splits, b, dtype=torch.float32)
    own = z.new_empty(b, dtype=torch.float32)
    block = _block(d, 64)
    launch = functools.partial(
        loss_kernels.one_pass[lambda meta: (triton.cdiv(b, meta["BM"]), splits)],
        z,
        z.stride(0),
        text,
        text.stride(0),
        labels,
        inv_z,
        inv_t,
        out=o,
        row_max=top,
        row_sum=total,
        label_logit=own,
        rows=b,
        classes=c,
        width=d,
        per_split=per_split,
        UPCAST=_upcast(z),
        D=block,
        **_scale(scale),
    )
    _run(("one_pass", z.device, z.dtype, block), loss_kernels.CONFIGS["one_pass"][block], launch)
    return o, top, total, own


def exp_rows(
    x: Tensor,
    labels: Tensor,
    first: int,
    inv_z: Tensor,
    inv_t: Tensor,
    scale: float | Tensor,
    top: Tensor,
    total: Tensor,
    fix: Tensor,
    own: Tensor,
    start: bool,
) -> None:
    block = min(4096, _block(x.shape[1]))
    loss_kernels.exp_rows[(x.shape[0],)](
        x,
        x.stride(0),
        x.shape[1],
        labels,
        first,
        inv_z,
        inv_t,
        row_max=top,
        row_sum=total,
        row_fix=fix,
        label_logit=own,
        START=start,
        BLOCK=block,
        num_warps=8,
        **_scale(scale),
    )


def finish(
    o: Tensor,
    z: Tensor,
    text: Tensor,
    mean: Tensor | None,
    labels: Tensor,
    inv_z: Tensor,
    inv_t: Tensor,
    scale: float | Tensor,
    top: Tensor,
    total: Tensor,
    own: Tensor,
    loss: Tensor,
    dz: Tensor | None,
    dscale: Tensor,
    ratio: Tensor | None,
    label_coef: Tensor | None,
    ignore: int,
    smoothing: float,
) -> None:
    b, d = z.shape
    if ratio is None:
        ratio, label_coef = z.new_empty(2, b, dtype=torch.float32)
    loss_kernels.finish[(b,)](
        o,
        z,
        z.stride(0),
        text,
        text.stride(0),
        mean,
        labels,
        inv_z,
        inv_t,
        row_max=top,
        row_sum=total,
        label_logit=own,
        loss=loss,
        dz=dz,
        dscale=dscale,
        ratio=ratio,
        label_coef=label_coef,
        rows=b,
        classes=text.shape[0],
        width=d,
        ignore=ignore,
        smoothing=smoothing,
        SPLITS=o.shape[0],
        SMOOTH=mean is not None,
        NEED_Z=dz is not None,
        D=_block(d),
        **_scale(scale),
    )


def shift_normalise(z: Tensor, h: Tensor, gate: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    (b, d), ranks = z.shape, h.shape[1]
    e, inv = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32)
    kind = "wide" if z.dtype == torch.float32 else "half"
    launch = functools.partial(
        realign_kernels.shift_normalise[lambda meta: (triton.cdiv(b, meta["BM"]),)],
        z,
        z.stride(0),
        h,
        gate,
        gate.stride(0),
        up,
        e,
        inv,
        b,
        d,
        ranks,
        rank,
        UPCAST=_upcast(z),
    )
    key = ("shift_normalise", z.device, z.dtype, _block(d), _block(ranks))
    _run(key, realign_kernels.CONFIGS["shift_normalise"][kind], launch)
    return e, inv


def project(de: Tensor, e: Tensor, inv: Tensor) -> Tensor:
    dv = torch.empty_like(e)
    realign_kernels.project[(e.shape[0],)](de, de.stride(0), e, inv, dv, e.shape[1], D=_block(e.shape[1]))
    return dv


def gate_back(d: Tensor, h: Tensor, gate: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    scaled, dgate = torch.empty_like(h), h.new_empty(gate.shape)
    realign_kernels.gate_back[(h.shape[0],)](
        d, h, gate, gate.stride(0), scaled, dgate, gate.shape[1], rank, R=_block(rank), num_warps=1
    )
    return scaled, dgate
