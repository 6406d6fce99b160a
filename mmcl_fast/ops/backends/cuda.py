"""The `cuda` backend: launches mmcl_fast._C.cuda's kernels on the current stream of the tensors' device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmcl_fast._extension import load
from mmcl_fast.ops.backends import gpu

HERE = sys.modules[__name__]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LIB: Any = getattr(load()[0], "cuda", None)

alignment_rows = functools.partial(gpu.alignment_rows, HERE)
realign_forward = functools.partial(gpu.realign_forward, HERE)
realign_backward = functools.partial(gpu.realign_backward, HERE)


def _launch(kernel: Callable[..., int], x: Tensor, *args: object) -> None:
    """Launches on the current stream of x's device, which gpu.py has made the current one; x gives the dtype code."""
    code = kernel(*args, DTYPES[x.dtype], torch.cuda.current_stream(x.device).cuda_stream)
    if code:
        raise RuntimeError(f"mmcl_fast CUDA kernel: {LIB.error(code)} (cudaError {code})")


def _at(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _scale(scale: float | Tensor) -> tuple[int, float]:
    """Address and value; the kernels read float32."""
    return (scale.data_ptr(), 0.0) if isinstance(scale, Tensor) else (0, scale)


def row_norm(x: Tensor) -> Tensor:
    inv = x.new_empty(x.shape[0], dtype=torch.float32)
    _launch(LIB.row_norm, x, x.data_ptr(), x.stride(0), inv.data_ptr(), *x.shape)
    return inv


@cache
def _hopper(index: int) -> int:
    """Multiprocessors of a Hopper device that the one-pass kernel was compiled for, else 0."""
    properties = torch.cuda.get_device_properties(index)
    return properties.multi_processor_count if hasattr(LIB, "one_pass") and properties.major == 9 else 0


def one_pass_fits(z: Tensor, text: Tensor) -> bool:
    """What the Hopper kernel takes: half precision, up to 512 wide, rows at multiples of 16 bytes."""
    aligned = all(x.stride(0) % 8 == 0 and x.data_ptr() % 16 == 0 for x in (z, text))
    half = z.dtype != torch.float32
    return half and aligned and z.shape[1] <= 512 and z.shape[1] % 8 == 0 and _hopper(z.device.index) > 0


def one_pass(
    z: Tensor, text: Tensor, labels: Tensor, inv_z: Tensor, inv_t: Tensor, scale: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (b, d), c = z.shape, text.shape[0]
    splits, per_split = gpu.split_classes(c, -(-b // 64), _hopper(z.device.index))
    o = z.new_empty(splits, b, d, dtype=torch.float32)
    top, total = z.new_empty(2, splits, b, dtype=torch.float32)
    own = z.new_empty(b, dtype=torch.float32)
    _launch(
        LIB.one_pass,
        z,
        z.data_ptr(),
        z.stride(0),
        text.data_ptr(),
        text.stride(0),
        labels.data_ptr(),
        inv_z.data_ptr(),
        inv_t.data_ptr(),
        *_scale(scale),
        o.data_ptr(),
        top.data_ptr(),
        total.data_ptr(),
        own.data_ptr(),
        b,
        c,
        d,
        per_split,
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
    _launch(
        LIB.exp_rows,
        x,
        x.data_ptr(),
        x.stride(0),
        *x.shape,
        labels.data_ptr(),
        first,
        inv_z.data_ptr(),
        inv_t.data_ptr(),
        *_scale(scale),
        start,
        top.data_ptr(),
        total.data_ptr(),
        fix.data_ptr(),
        own.data_ptr(),
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
    _launch(
        LIB.finish,
        z,
        o.data_ptr(),
        z.data_ptr(),
        z.stride(0),
        text.data_ptr(),
        text.stride(0),
        _at(mean),
        labels.data_ptr(),
        inv_z.data_ptr(),
        inv_t.data_ptr(),
        *_scale(scale),
        top.data_ptr(),
        total.data_ptr(),
        own.data_ptr(),
        loss.data_ptr(),
        _at(dz),
        dscale.data_ptr(),
        _at(ratio),
        _at(label_coef),
        z.shape[0],
        text.shape[0],
        z.shape[1],
        ignore,
        smoothing,
        o.shape[0],
    )


def shift_normalise(z: Tensor, h: Tensor, gate: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    (b, d), scaled = z.shape, torch.empty_like(h)
    e, inv = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32)
    _launch(LIB.gate_rows, z, h.data_ptr(), gate.data_ptr(), gate.stride(0), scaled.data_ptr(), b, gate.shape[1], rank)
    shift = torch.mm(scaled, up)
    _launch(LIB.add_norm, z, z.data_ptr(), z.stride(0), shift.data_ptr(), e.data_ptr(), inv.data_ptr(), b, d)
    return e, inv


def project(de: Tensor, e: Tensor, inv: Tensor) -> Tensor:
    dv = torch.empty_like(e)
    _launch(LIB.project, e, de.data_ptr(), de.stride(0), e.data_ptr(), inv.data_ptr(), dv.data_ptr(), *e.shape)
    return dv


def gate_back(d: Tensor, h: Tensor, gate: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    scaled, dgate = torch.empty_like(h), h.new_empty(gate.shape)
    _launch(
        LIB.gate_back,
        h,
        d.data_ptr(),
        h.data_ptr(),
        gate.data_ptr(),
        gate.stride(0),
        scaled.data_ptr(),
        dgate.data_ptr(),
        h.shape[0],
        gate.shape[1],
        rank,
    )
    return scaled, dgate
