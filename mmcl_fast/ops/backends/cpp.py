"""The `cpp` backend: torch's matrix products in chunks, and between them the row kernels of mmcl_fast._C; in float32
realign, and the loss of few classes, are one call of mmcl_fast._C each, with products of its own.

Column chunks keep the logits in the processor's cache; because every sum over classes is linear in exp(logit
- m), a chunk only adds to what came before. No B x C array is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast._extension import compiled
from mmcl_fast.ops import checks
from mmcl_fast.ops.backends.common import add_text_gradient, finish_text_gradient, mean_unit, unit_stride
from mmcl_fast.ops.backends.cpp_products import CHUNK, DTYPES, product, threads_for, vectors
from mmcl_fast.ops.backends.cpp_realign import realign_backward, realign_forward

__all__ = ["alignment_rows", "alignment_whole", "realign_backward", "realign_forward", "takes_whole"]

ROWS = 2048
WHOLE = 1 << 18  # numbers of text up to which one call of mmcl_fast._C beats torch's products and the row kernels
FIXED_MAX = 40.0  # below it exp(-2 s) is a normal float32, so |cos| <= 1 gives the maximum for nothing
REDUCTIONS = ("none", "sum", "mean")


def alignment_rows(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    coef: Tensor | None,
    scale: float,
    smoothing: float,
    ignore_index: int,
    need_z: bool,
) -> tuple[Tensor, ...]:
    """CE [B], dCE/dz [B, D], d(sum_i coef_i CE_i)/d text [C, D], dCE/ds [B]; what is not needed is empty.

    coef: [B], or None where text wants no gradient. Gradients of float16 come in float32.
    """
    if z.dtype == torch.float16:  # no float16 matrix unit on the CPU: computed in float32
        return alignment_rows(z.float(), text.float(), labels, coef, scale, smoothing, ignore_index, need_z)
    lib = compiled()
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    (b, d), c = z.shape, text.shape[0]
    kind, wide = DTYPES[z.dtype], torch.float32
    scale = float(scale)
    rows = min(b, max(1, CHUNK // c) if coef is not None else ROWS)
    cols = c if coef is not None else min(c, max(256, CHUNK // rows))
    fixed = scale <= FIXED_MAX
    ce, ds, stats = z.new_empty(b, dtype=wide), z.new_empty(b, dtype=wide), z.new_empty(7, rows, dtype=wide)
    start, row = stats.data_ptr(), 4 * rows
    top, total, fix, own, ratio, label_coef, inv_z = range(start, start + 7 * row, row)
    in_place = rows == b and z.dtype == wide  # dz takes the place of the sums over classes
    dz = z.new_empty((b, d)) if need_z and not in_place else z.new_empty(0)
    inv_t = z.new_empty(c, dtype=wide)
    at_t = inv_t.data_ptr()
    lib.row_norm(text.data_ptr(), 0, at_t, text.stride(0), 0, c, d, kind, threads_for(c * d))
    mean = mean_unit(text, inv_t) if smoothing else None
    dtext = z.new_zeros(c, d, dtype=wide) if coef is not None else z.new_empty(0)
    for r in range(0, b, rows):
        u, y = z[r : r + rows], labels.data_ptr() + 8 * r
        m, at_u = len(u), u.data_ptr()
        threads = threads_for(m * d)
        lib.row_norm(at_u, 0, inv_z, z.stride(0), 0, m, d, kind, threads)
        if fixed:
            stats[0].fill_(scale)
        for n in range(0, c, cols):
            t = text[n : n + cols]
            x = product(u, t.T)
            lib.align_chunk(
                x.data_ptr(),
                len(t),
                m,
                len(t),
                inv_z,
                at_t + 4 * n,
                y,
                n,
                scale,
                fixed,
                n == 0,
                top,
                total,
                fix,
                own,
                kind,
                threads_for(x.numel()),
            )
            part = product(x, t)
            if coef is None:
                del x  # before the next chunk is made
            if n == 0:
                o = part if part.dtype == wide else part.float()
            else:
                (o if fixed else o.mul_(stats[2, :m, None])).add_(part)
        at_dz = 0 if not need_z else o.data_ptr() if in_place else dz[r:].data_ptr()
        lib.align_finish(
            o.data_ptr(),
            at_u,
            text.data_ptr(),
            at_dz,
            d,
            z.stride(0),
            text.stride(0),
            d,
            m,
            d,
            inv_z,
            at_t,
            0 if mean is None else mean.data_ptr(),
            y,
            ignore_index,
            scale,
            smoothing,
            top,
            total,
            own,
            ce.data_ptr() + 4 * r,
            ds.data_ptr() + 4 * r,
            ratio,
            label_coef,
            kind,
            threads,
        )
        if coef is not None:
            add_text_gradient(
                dtext,
                x,
                u.float() * stats[6, :m, None],
                stats[4, :m],
                stats[5, :m],
                labels[r : r + m],
                coef[r : r + m],
                inv_t,
                smoothing,
                product,
            )
    if need_z and in_place:
        dz = o
    if coef is not None:
        dtext = finish_text_gradient(dtext, text, inv_t, scale)
    return ce, dz, dtext, ds


def takes_whole(z: Tensor, text: Tensor, labels: Tensor) -> bool:
    """Whether `alignment_whole` computes this: float32, text frozen and small enough for the processor's cache."""
    return (
        not text.requires_grad
        and text.numel() <= WHOLE
        and z.dtype == torch.float32
        and labels.dtype == torch.int64
        and vectors()
    )


def alignment_whole(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    scale: float,
    smoothing: float,
    ignore_index: int,
    reduction: str,
    need_z: bool,
    folded: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss; CE [B], w [B], dCE/ds [B] and 1 / sum w one after the other; dCE/dz [B, D], or folded: d loss/dz.

    Raises ValueError for labels, weights and scales that cannot be.
    """
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    if weight is not None:
        weight = weight.float().contiguous()
    (b, d), c = z.shape, text.shape[0]
    kind = REDUCTIONS.index(reduction)
    loss, stats, dz = z.new_empty(() if kind else b), z.new_empty(3 * b + 1), z.new_empty((b, d) if need_z else 0)
    at, row = stats.data_ptr(), 4 * b
    wrong = not scale > 0 or compiled().align_rows(
        z.data_ptr(),
        text.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        labels.data_ptr(),
        loss.data_ptr(),
        at,
        at + row,
        at + 3 * row,
        dz.data_ptr() if need_z else 0,
        at + 2 * row,
        z.stride(0),
        text.stride(0),
        b,
        c,
        d,
        ignore_index,
        scale,
        smoothing,
        FIXED_MAX,
        kind,
        folded,
        threads_for(b * c * d >> 6),
    )
    if wrong:
        checks.classes(text, labels, ignore_index)
        checks.weights_and_scale(z, weight, scale)
    return loss, stats, dz
