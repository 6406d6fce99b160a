"""The `cpp` backend: torch's matrix products in chunks, and between them the row kernels of mmcl_fast._C; in float32
realign, and the loss of few classes, are one call of mmcl_fast._C each, with products of its own.

Column chunks keep the logits in the processor's cache; because every sum over classes is linear in exp(logit
- m), a chunk only adds to what came before. No B x C array is made.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mmcl_fast.core import load
from mmcl_fast.ops import checks
from mmcl_fast.ops.common import add_text_gradient, finish_text_gradient, flat, mean_unit, unit_stride

CHUNK = 1 << 21  # numbers of one chunk of logits
ROWS = 2048
WHOLE = 1 << 18  # numbers of text up to which one call of mmcl_fast._C beats torch's products and the row kernels
FIXED_MAX = 40.0  # below it exp(-2 s) is a normal float32, so |cos| <= 1 gives the maximum for nothing
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
REDUCTIONS = ("none", "sum", "mean")


def _threads(numbers: int) -> int:
    """Threads for a row kernel over so many numbers: waking the others costs more than 2^17 of them."""
    return torch.get_num_threads() if numbers > 1 << 17 else 1


def _onednn():
    """oneDNN's float32 product: twice the rate of torch.mm (MKL) on AMD with AVX-512, equal on Intel."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


LINEAR = _onednn()


@cache
def _vectors() -> bool:
    return load()[0].cpu_isa() != "generic"


def _own_products(z: Tensor) -> bool:
    """Whether mmcl_fast._C has matrix products for this: float32 with AVX2 or AVX-512."""
    return z.dtype == torch.float32 and _vectors()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, k] @ b [k, n], for any strides."""
    if LINEAR is None or a.dtype != torch.float32:
        return torch.mm(a, b)
    return LINEAR(a, b.T, None, "none", [], "")


def alignment_rows(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    coef: Tensor | None,
    scale: float,
    smoothing: float,
    ignore_index: int,
    need_z: bool,
    need_text: bool,
) -> tuple[Tensor, ...]:
    """CE [B], dCE/dz [B, D], d(sum_i coef_i CE_i)/d text [C, D], dCE/ds [B]; what is not needed is empty."""
    if z.dtype == torch.float16:  # no float16 matrix unit on the CPU: computed in float32
        ce, dz, dtext, ds = alignment_rows(
            z.float(), text.float(), labels, coef, scale, smoothing, ignore_index, need_z, need_text
        )
        return ce, dz.to(z.dtype), dtext.to(z.dtype), ds
    lib, _ = load()
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    (b, d), c = z.shape, text.shape[0]
    kind, wide = DTYPES[z.dtype], torch.float32
    scale = float(scale)
    rows = min(b, max(1, CHUNK // c) if need_text else ROWS)
    cols = c if need_text else min(c, max(256, CHUNK // rows))
    fixed = scale <= FIXED_MAX
    ce, ds, stats = z.new_empty(b, dtype=wide), z.new_empty(b, dtype=wide), z.new_empty(7, rows, dtype=wide)
    start, row = stats.data_ptr(), 4 * rows
    top, total, fix, own, ratio, label_coef, inv_z = range(start, start + 7 * row, row)
    in_place = rows == b and z.dtype == wide  # dz takes the place of the sums over classes
    dz = z.new_empty((b, d)) if need_z and not in_place else z.new_empty(0)
    inv_t = z.new_empty(c, dtype=wide)
    at_t = inv_t.data_ptr()
    lib.row_norm(text.data_ptr(), 0, at_t, text.stride(0), 0, c, d, kind, _threads(c * d))
    mean = mean_unit(text, inv_t) if smoothing else None
    dtext = z.new_zeros(c, d, dtype=wide) if need_text else z.new_empty(0)
    for r in range(0, b, rows):
        u, y = z[r : r + rows], labels.data_ptr() + 8 * r
        m, at_u = len(u), u.data_ptr()
        threads = _threads(m * d)
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
                _threads(x.numel()),
            )
            part = product(x, t)
            if not need_text:
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
        if need_text:
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
    if need_text:
        dtext = finish_text_gradient(dtext, text, inv_t, scale)
    return ce, dz, dtext, ds


def takes_whole(z: Tensor, text: Tensor, labels: Tensor) -> bool:
    """Whether `alignment_whole` computes this: float32, text frozen and small enough for the processor's cache."""
    return (
        not text.requires_grad
        and text.numel() <= WHOLE
        and z.dtype == torch.float32
        and labels.dtype == torch.int64
        and _vectors()
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
    given = z, text, labels, weight
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    if weight is not None:
        weight = weight.float().contiguous()
    (b, d), c = z.shape, text.shape[0]
    kind = REDUCTIONS.index(reduction)
    loss, stats, dz = z.new_empty(() if kind else b), z.new_empty(3 * b + 1), z.new_empty((b, d) if need_z else 0)
    at, row = stats.data_ptr(), 4 * b
    wrong = not scale > 0 or load()[0].align_rows(
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
        _threads(b * c * d >> 6),
    )
    if wrong:
        checks.values(*given, scale, ignore_index)
    return loss, stats, dz


def realign_forward(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D], 1 / |v| [B] and h = source [down_1 .. down_M] [B, M r]"""
    if z.dtype == torch.float16:
        e, inv, h = realign_forward(*(x if x is None else x.float() for x in (z, gate, down, up, source)))
        return e.to(z.dtype), inv, h.to(z.dtype)
    lib, _ = load()
    z, gate = unit_stride(z), unit_stride(gate)
    u = z if source is None else source
    (b, d), (m, _, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], _threads(z.numel()), z.element_size()
    a, w = flat(down, up)
    e, inv, h = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32), z.new_empty(b, m * r)
    if _own_products(z):
        u, a, w = unit_stride(u), a.contiguous(), w.contiguous()
        lib.realign_forward(
            u.data_ptr(),
            z.data_ptr(),
            gate.data_ptr(),
            a.data_ptr(),
            w.data_ptr(),
            e.data_ptr(),
            inv.data_ptr(),
            h.data_ptr(),
            u.stride(0),
            z.stride(0),
            gate.stride(0),
            b,
            d,
            a.shape[0],
            m,
            r,
            threads,
        )
        return e, inv, h
    step = min(b, max(64, CHUNK // 8 // d))
    scaled = z.new_empty(step, m * r)
    for i in range(0, b, step):
        n = min(step, b - i)
        h[i : i + n] = product(u[i : i + n], a)
        lib.gate_rows(
            h.data_ptr() + i * m * r * size,
            gate.data_ptr() + i * gate.stride(0) * size,
            scaled.data_ptr(),
            m * r,
            gate.stride(0),
            m * r,
            n,
            m,
            r,
            kind,
            threads,
        )
        shift = product(scaled[:n], w)
        lib.add_norm(
            z.data_ptr() + i * z.stride(0) * size,
            shift.data_ptr(),
            e.data_ptr() + i * d * size,
            inv.data_ptr() + 4 * i,
            z.stride(0),
            d,
            d,
            n,
            d,
            kind,
            threads,
        )
    return e, inv, h


def realign_backward(
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
    if z.dtype == torch.float16:
        inputs = (de, e, inv, h, z, gate, down, up, source)
        grads = realign_backward(*(x if x is None else x.float() for x in inputs), need)
        return tuple(g.to(z.dtype) for g in grads)
    lib, _ = load()
    de, gate = unit_stride(de), unit_stride(gate)
    u = z if source is None else source
    (b, d), (m, du, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], _threads(z.numel()), z.element_size()
    need_z, need_gate, need_down, need_up, need_source = (bool(need & 1 << k) for k in range(5))
    need_u = need_source or (need_z and source is None)
    a, w = flat(down, up)
    none, wide = z.new_empty(0), torch.float32
    if _own_products(z):
        return _realign_backward(
            de, e, inv, h, unit_stride(u), gate, a.contiguous(), w.contiguous(), need, source is None, threads
        )
    dz = z.new_empty(b, d) if need_z else none
    dsource = u.new_empty(b, du) if need_source else none
    dgate = z.new_empty(b, m)
    step = min(b, max(64, CHUNK // 8 // d))
    dv_chunk = z.new_empty(step, d)
    scaled = z.new_empty(step, m * r) if need_up else none
    da = z.new_zeros(du, m * r, dtype=wide) if need_down else none
    dw = z.new_zeros(m * r, d, dtype=wide) if need_up else none
    for i in range(0, b, step):
        n = min(step, b - i)
        dv = dz[i : i + n] if need_z else dv_chunk[:n]
        lib.project(
            de.data_ptr() + i * de.stride(0) * size,
            e.data_ptr() + i * d * size,
            inv.data_ptr() + 4 * i,
            dv.data_ptr(),
            de.stride(0),
            d,
            d,
            n,
            d,
            kind,
            threads,
        )
        if need == 1 and source is not None:
            continue
        dh = product(dv, w.T)
        lib.gate_back(
            dh.data_ptr(),
            h.data_ptr() + i * m * r * size,
            gate.data_ptr() + i * gate.stride(0) * size,
            scaled.data_ptr() if need_up else 0,
            dgate.data_ptr() + i * m * size,
            m * r,
            m * r,
            gate.stride(0),
            m * r,
            m,
            n,
            m,
            r,
            kind,
            threads,
        )
        if need_up:
            dw.add_(product(scaled[:n].T, dv))
        if need_down:
            da.add_(product(u[i : i + n].T, dh))
        if need_source:
            dsource[i : i + n] = product(dh, a.T)
        elif need_u:
            dv.add_(product(dh, a.T))
    ddown = da.view(du, m, r).permute(1, 0, 2).to(down.dtype) if need_down else none
    dup = dw.view(m, r, d).to(up.dtype) if need_up else none
    return dz, dgate if need_gate else none, ddown.contiguous(), dup, dsource


def _realign_backward(
    de: Tensor,
    e: Tensor,
    inv: Tensor,
    h: Tensor,
    u: Tensor,
    gate: Tensor,
    a: Tensor,
    w: Tensor,
    need: int,
    adds: bool,
    threads: int,
) -> tuple[Tensor, ...]:
    (b, d), du, m, n = e.shape, u.shape[1], gate.shape[1], h.shape[1]
    none = e.new_empty(0)
    dz, dgate, da, dw, dsource = (
        e.new_empty(shape) if need & 1 << k else none
        for k, shape in enumerate(((b, d), (b, m), (du, n), (n, d), (b, du)))
    )
    at = [x.data_ptr() if x.numel() else 0 for x in (dz, dgate, da, dw, dz if adds else dsource)]
    load()[0].realign_back(
        *(x.data_ptr() for x in (de, e, inv, h, u, gate, a, w)),
        *at,
        de.stride(0),
        u.stride(0),
        gate.stride(0),
        b,
        d,
        du,
        m,
        n // m,
        adds,
        threads,
    )
    ddown = da.view(du, m, -1).permute(1, 0, 2).contiguous() if need & 4 else none
    return dz, dgate, ddown, dw.view(m, -1, d) if need & 8 else none, dsource
