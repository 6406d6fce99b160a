"""The order of work on a GPU for the `triton` and `cuda` backends: kernels around the library's products.

Nothing here synchronises with the device, so everything can be captured in a CUDA graph. `k` is the backend's
module: row_norm, exp_rows, finish, project, gate_back, shift_normalise, and one_pass where `one_pass_fits`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from mmcl_fast.ops.backends.common import (
    add_text_gradient,
    finish_text_gradient,
    flat,
    gradient_dtype,
    mean_unit,
    unit_stride,
)

P = ParamSpec("P")
R = TypeVar("R")

CHUNK_BYTES = 30 << 20  # of logits: half of an H200's level-2 cache
ROWS = 4096
TEXT_ROWS = 2048  # rows of a chunk that needs all classes at once
HALF_SUM = 1 << 15  # exponentials of at most 1 whose sum float16 surely holds


def device_of(x: Tensor) -> AbstractContextManager:
    """x's GPU as the current one: kernels are launched on the current device, whatever their tensors are on."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def _on_device(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run with the device of its second argument as the current one."""

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        x = args[1]
        assert isinstance(x, Tensor)
        with device_of(x):
            return function(*args, **options)

    return run


def _logits(z: Tensor, text: Tensor) -> Tensor:
    """z text^T; for float16 in float32: its range ends at 65504, and its rounding would be 2 % of a probability."""
    if z.dtype != torch.float16:
        return torch.mm(z, text.T)
    if z.device.type == "cuda":
        return torch.mm(z, text.T, out_dtype=torch.float32)
    return torch.mm(z.float(), text.T.float())


def _texts_sum(x: Tensor, text: Tensor) -> Tensor:
    """x text; for float16 and many classes in parts, summed in float32, which no sum leaves."""
    if x.dtype != torch.float16 or len(text) <= HALF_SUM:
        return torch.mm(x, text)
    parts = zip(x.split(HALF_SUM, dim=1), text.split(HALF_SUM), strict=True)
    return sum((torch.mm(a, b).float() for a, b in parts), torch.zeros((), device=x.device))


def split_classes(classes: int, row_blocks: int, processors: int) -> tuple[int, int]:
    """(splits, classes of each): so many that every multiprocessor has a block, of 256 classes or more."""
    wanted = max(1, min(processors // row_blocks, classes // 256, 16))
    per_split = -(-classes // wanted)
    return -(-classes // per_split), per_split


@_on_device
def alignment_rows(
    k: ModuleType,
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    coef: Tensor | None,
    scale: float | Tensor,
    smoothing: float,
    ignore_index: int,
    need_z: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CE [B], dCE/dz [B, D], d(sum_i coef_i CE_i)/d text [C, D], dCE/ds [B]; what is not needed is empty.

    coef: [B], or None where text wants no gradient. Gradients of float16 come in float32.
    """
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    (b, d), c = z.shape, text.shape[0]
    inv_z, inv_t = k.row_norm(z), k.row_norm(text)
    mean = mean_unit(text, inv_t) if smoothing else None
    ce, ds = torch.empty_like(inv_z), torch.empty_like(inv_z)
    dz = z.new_empty((b, d) if need_z else 0, dtype=gradient_dtype(z.dtype))
    if coef is None and k.one_pass_fits(z, text):
        o, top, total, own = k.one_pass(z, text, labels, inv_z, inv_t, scale)
        k.finish(
            o,
            z,
            text,
            mean,
            labels,
            inv_z,
            inv_t,
            scale,
            top,
            total,
            own,
            ce,
            dz if need_z else None,
            ds,
            None,
            None,
            ignore_index,
            smoothing,
        )
        return ce, dz, z.new_empty(0, dtype=gradient_dtype(z.dtype)), ds
    wide = torch.float32
    dtext = z.new_zeros(c, d, dtype=wide) if coef is not None else z.new_empty(0, dtype=gradient_dtype(z.dtype))
    rows = min(b, TEXT_ROWS if coef is not None else ROWS)
    cols = c if coef is not None else min(c, max(512, CHUNK_BYTES // (rows * gradient_dtype(z.dtype).itemsize)))
    top, total, fix, own, ratio, label_coef = z.new_empty(6, rows, dtype=torch.float32)
    for r in range(0, b, rows):
        here = slice(r, r + rows)
        u, y, inv = z[here], labels[here], inv_z[here]
        m = len(u)
        for n in range(0, c, cols):
            t = text[n : n + cols]
            x = _logits(u, t)
            k.exp_rows(x, y, n, inv, inv_t[n : n + cols], scale, top, total, fix, own, n == 0)
            x = x.to(z.dtype)
            part = _texts_sum(x, t)
            o = part.float() if n == 0 else torch.addcmul(part, o, fix[:m, None])
        k.finish(
            o[None],
            u,
            text,
            mean,
            y,
            inv,
            inv_t,
            scale,
            top[None, :m],
            total[None, :m],
            own,
            ce[here],
            dz[here] if need_z else None,
            ds[here],
            ratio,
            label_coef,
            ignore_index,
            smoothing,
        )
        if coef is not None:
            add_text_gradient(
                dtext, x, u.float() * inv[:, None], ratio[:m], label_coef[:m], y, coef[here], inv_t, smoothing, torch.mm
            )
    return ce, dz, finish_text_gradient(dtext, text, inv_t, scale) if coef is not None else dtext, ds


@_on_device
def realign_forward(
    k: ModuleType, z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D], 1 / |v| [B] and h = source [down_1 .. down_M] [B, M r]"""
    z, gate = unit_stride(z), unit_stride(gate)
    a, w = flat(down, up)
    h = torch.mm(z if source is None else source, a)
    e, inv = k.shift_normalise(z, h, gate, w, down.shape[2])
    return e, inv, h


@_on_device
def realign_backward(
    k: ModuleType,
    de: Tensor,
    e: Tensor,
    inv: Tensor,
    h: Tensor,
    z: Tensor,
    gate: Tensor,
    down: Tensor,
    up: Tensor,
    source: Tensor | None,
    need: int,
) -> tuple[Tensor, ...]:
    """Gradients of z, gate, down, up, source; bit k of need asks for the k-th, the others come back empty."""
    de, gate, none = unit_stride(de), unit_stride(gate), z.new_empty(0)
    u = z if source is None else source
    m, du, r = down.shape
    need_z, need_gate, need_down, need_up, need_source = (bool(need & 1 << bit) for bit in range(5))
    a, w = flat(down, up)
    dv = k.project(de, e, inv)
    dh = torch.mm(dv, w.T)
    scaled, dgate = k.gate_back(dh, h, gate, r)  # dh becomes the gradient of h
    ddown = torch.mm(u.T, dh).view(du, m, r).permute(1, 0, 2).contiguous() if need_down else none
    dup = torch.mm(scaled.T, dv).view(up.shape) if need_up else none
    dsource = torch.mm(dh, a.T) if need_source else none
    dz = (dv if source is not None else torch.addmm(dv, dh, a.T)) if need_z else none
    return dz, dgate if need_gate else none, ddown, dup, dsource
