"""Re-alignment of the `cpp` backend: in chunks torch's matrix products and between them the row kernels of
mmcl_fast._C; in float32 one call of mmcl_fast._C, with products of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast._extension import compiled
from mmcl_fast.ops.backends.common import flat, unit_stride
from mmcl_fast.ops.backends.cpp_products import CHUNK, DTYPES, own_products, product, threads_for


def realign_forward(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D], 1 / |v| [B] and h = source [down_1 .. down_M] [B, M r]"""
    if z.dtype == torch.float16:
        wide = None if source is None else source.float()
        e, inv, h = realign_forward(z.float(), gate.float(), down.float(), up.float(), wide)
        return e.to(z.dtype), inv, h.to(z.dtype)
    lib = compiled()
    z, gate = unit_stride(z), unit_stride(gate)
    u = z if source is None else source
    (b, d), (m, _, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], threads_for(z.numel()), z.element_size()
    a, w = flat(down, up)
    e, inv, h = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32), z.new_empty(b, m * r)
    if own_products(z):
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
        de, e, inv, h = de.float(), e.float(), inv.float(), h.float()
        other = None if source is None else source.float()
        grads = realign_backward(de, e, inv, h, z.float(), gate.float(), down.float(), up.float(), other, need)
        return tuple(g.to(z.dtype) for g in grads)
    lib = compiled()
    de, gate = unit_stride(de), unit_stride(gate)
    u = z if source is None else source
    (b, d), (m, du, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], threads_for(z.numel()), z.element_size()
    need_z, need_gate, need_down, need_up, need_source = (bool(need & 1 << k) for k in range(5))
    need_u = need_source or (need_z and source is None)
    a, w = flat(down, up)
    none, wide = z.new_empty(0), torch.float32
    if own_products(z):
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
    compiled().realign_back(
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
