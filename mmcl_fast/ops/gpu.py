"""The order of work on a GPU for the `triton` and `cuda` backends: kernels around the library's products.

Nothing here synchronises with the device, so everything can be captured in a CUDA graph. `k` is the backend's
module: row_norm, exp_rows, finish, project, gate_back, shift_normalise, and one_pass where `one_pass_fits`.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from mmcl_fast.ops.common import add_text_gradient, finish_text_gradient, flat, mean_unit, unit_stride

CHUNK_BYTES = 30 << 20  # of logits: half of an H200's level-2 cache
ROWS = 4096
TEXT_ROWS = 2048  # rows of a chunk that needs all classes at once


def split_classes(classes: int, row_blocks: int, processors: int) -> tuple[int, int]:
    """(splits, classes of each): so many that every multiprocessor has a block, of 256 classes or more."""
    wanted = max(1, min(processors // row_blocks, classes // 256, 16))
    per_split = -(-classes // wanted)
    return -(-classes // per_split), per_split


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

    coef: [B], or None where text wants no gradient.
    """
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    (b, d), c = z.shape, text.shape[0]
    inv_z, inv_t = k.row_norm(z), k.row_norm(text)
    mean = mean_unit(text, inv_t) if smoothing else None
    ce, ds = torch.empty_like(inv_z), torch.empty_like(inv_z)
    dz = z.new_empty((b, d) if need_z else 0)
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
        return ce, dz, z.new_empty(0), ds
    dtext = z.new_zeros(c, d, dtype=torch.float32) if coef is not None else z.new_empty(0)
    rows = min(b, TEXT_ROWS if coef is not None else ROWS)
    cols = c if coef is not None else min(c, max(512, CHUNK_BYTES // (rows * z.element_size())))
    top, total, fix, own, ratio, label_coef = z.new_empty(6, rows, dtype=torch.float32)
    for r in range(0, b, rows):
        here = slice(r, r + rows)
        u, y, inv = z[here], labels[here], inv_z[here]
        m = len(u)
        for n in range(0, c, cols):
            t = text[n : n + cols]
            x = torch.mm(u, t.T)
            k.exp_rows(x, y, n, inv, inv_t[n : n + cols], scale, top, total, fix, own, n == 0)
            part = torch.mm(x, t)
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


def realign_forward(
    k: ModuleType, z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D], 1 / |v| [B] and h = source [down_1 .. down_M] [B, M r]"""
    z, gate = unit_stride(z), unit_stride(gate)
    a, w = flat(down, up)
    h = torch.mm(z if source is None else source, a)
    e, inv = k.shift_normalise(z, h, gate, w, down.shape[2])
    return e, inv, h


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
