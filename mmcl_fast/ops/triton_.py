"""The `triton` backend: launches kernels/ on a GPU, or on CPU tensors under TRITON_INTERPRET=1."""

from __future__ import annotations

import functools
import os
import sys
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from mmcl_fast.kernels import alignment as loss_kernels
from mmcl_fast.kernels import realignment as realign_kernels
from mmcl_fast.ops import gpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = sys.modules[__name__]

alignment_rows = functools.partial(gpu.alignment_rows, HERE)
realign_forward = functools.partial(gpu.realign_forward, HERE)
realign_backward = functools.partial(gpu.realign_backward, HERE)


@cache
def _tuned(module: str, name: str, key: tuple[str, ...], which: int | str) -> tuple[Any, dict[str, Any]]:
    """The kernel with its configurations timed once per key; the interpreter takes the first one."""
    source = {"loss": loss_kernels, "realign": realign_kernels}[module]
    kernel, configs = getattr(source, name), source.CONFIGS[name][which]
    if INTERPRETED:
        return kernel, configs[0][0]
    made = [triton.Config(sizes, num_warps=warps, num_stages=stages) for sizes, warps, stages in configs]
    return triton.autotune(made, key=list(key))(kernel), {}


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
    kernel, sizes = _tuned("loss", "one_pass", ("classes", "D"), block)
    kernel[lambda meta: (triton.cdiv(b, meta["BM"]), splits)](
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
        **sizes,
    )
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
    kernel, sizes = _tuned(
        "realign", "shift_normalise", ("width", "ranks"), "wide" if z.dtype == torch.float32 else "half"
    )
    kernel[lambda meta: (triton.cdiv(b, meta["BM"]),)](
        z, z.stride(0), h, gate, gate.stride(0), up, e, inv, b, d, ranks, rank, UPCAST=_upcast(z), **sizes
    )
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
