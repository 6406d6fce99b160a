"""realign of the `cpp` backend, e = normalize(z + (h gate) up) with h = source down.

In float32 each direction is one call of mmcl_fast._C, products included. Otherwise chunks of rows alternate torch's
matrix products with the row kernels of mmcl_fast._C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast._extension import compiled
from mmcl_fast.ops.arguments import RealignArguments, RealignGradients, RealignResult
from mmcl_fast.ops.backends.common import concatenate_modalities, unit_stride
from mmcl_fast.ops.backends.cpp_products import CHUNK, DTYPES, has_compiled_products, product, threads_for


def _float(a: RealignArguments) -> RealignArguments:
    source = None if a.source is None else a.source.float()
    return RealignArguments(a.z.float(), a.gate.float(), a.down.float(), a.up.float(), source)


def forward(a: RealignArguments) -> RealignResult:
    """Return the unit rows, 1 / |v| and h."""
    if a.z.dtype == torch.float16:
        e, inv, h = forward(_float(a))
        return RealignResult(e.to(a.z.dtype), inv, h.to(a.z.dtype))
    lib = compiled()
    z, gate = unit_stride(a.z), unit_stride(a.gate)
    u = z if a.source is None else a.source
    (b, d), (m, _, r) = z.shape, a.down.shape
    threads = threads_for(z.numel())
    down, up = concatenate_modalities(a.down, a.up)
    e, inv, h = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32), z.new_empty(b, m * r)
    if has_compiled_products(z):
        u, down, up = unit_stride(u), down.contiguous(), up.contiguous()
        lib.realign_forward(
            u.data_ptr(), z.data_ptr(), gate.data_ptr(), down.data_ptr(), up.data_ptr(),
            e.data_ptr(), inv.data_ptr(), h.data_ptr(),
            u.stride(0), z.stride(0), gate.stride(0), b, d, down.shape[0], m, r, threads,
        )  # fmt: skip
        return RealignResult(e, inv, h)
    dtype, size = DTYPES[z.dtype], z.element_size()
    step = min(b, max(64, CHUNK // 8 // d))
    scaled = z.new_empty(step, m * r)
    for i in range(0, b, step):
        n = min(step, b - i)
        h[i : i + n] = product(u[i : i + n], down)
        lib.gate_rows(
            h.data_ptr() + i * m * r * size, gate.data_ptr() + i * gate.stride(0) * size, scaled.data_ptr(),
            m * r, gate.stride(0), m * r, n, m, r, dtype, threads,
        )  # fmt: skip
        shift = product(scaled[:n], up)
        lib.add_norm(
            z.data_ptr() + i * z.stride(0) * size, shift.data_ptr(), e.data_ptr() + i * d * size,
            inv.data_ptr() + 4 * i, z.stride(0), d, d, n, d, dtype, threads,
        )  # fmt: skip
    return RealignResult(e, inv, h)


def backward(de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
    """Return the gradients of z, gate, down, up and source; bit k of ``needs`` asks for the k-th."""
    if a.z.dtype == torch.float16:
        wide = RealignResult(result.e.float(), result.inv, result.h.float())
        dz, dgate, ddown, dup, dsource = (x.to(a.z.dtype) for x in backward(de.float(), wide, _float(a), needs))
        return dz, dgate, ddown, dup, dsource
    if has_compiled_products(a.z):
        return _fused_backward(de, result, a, needs)
    de, gate = unit_stride(de), unit_stride(a.gate)
    lib, z, (e, inv, h) = compiled(), a.z, result
    u = z if a.source is None else a.source
    (b, d), (m, du, r) = z.shape, a.down.shape
    dtype, threads, size = DTYPES[z.dtype], threads_for(z.numel()), z.element_size()
    need_z, need_gate, need_down, need_up, need_source = (bool(needs & 1 << k) for k in range(5))
    down, up = concatenate_modalities(a.down, a.up)
    none, wide_dtype = z.new_empty(0), torch.float32
    dz = z.new_empty(b, d) if need_z else none
    dsource = u.new_empty(b, du) if need_source else none
    dgate = z.new_empty(b, m)
    step = min(b, max(64, CHUNK // 8 // d))
    dv_chunk = z.new_empty(step, d)
    scaled = z.new_empty(step, m * r) if need_up else none
    # Sums over chunks are float32: each bfloat16 sum would round once a chunk.
    ddown_sum = z.new_zeros(du, m * r, dtype=wide_dtype) if need_down else none
    dup_sum = z.new_zeros(m * r, d, dtype=wide_dtype) if need_up else none
    for i in range(0, b, step):
        n = min(step, b - i)
        dv = dz[i : i + n] if need_z else dv_chunk[:n]
        lib.project(
            de.data_ptr() + i * de.stride(0) * size, e.data_ptr() + i * d * size, inv.data_ptr() + 4 * i,
            dv.data_ptr(), de.stride(0), d, d, n, d, dtype, threads,
        )  # fmt: skip
        if needs == 1 and a.source is not None:  # dz = dv alone
            continue
        dh = product(dv, up.T)
        lib.gate_back(
            dh.data_ptr(), h.data_ptr() + i * m * r * size, gate.data_ptr() + i * gate.stride(0) * size,
            scaled.data_ptr() if need_up else 0, dgate.data_ptr() + i * m * size,
            m * r, m * r, gate.stride(0), m * r, m, n, m, r, dtype, threads,
        )  # fmt: skip
        if need_up:
            dup_sum.add_(product(scaled[:n].T, dv))
        if need_down:
            ddown_sum.add_(product(u[i : i + n].T, dh))
        if need_source:
            dsource[i : i + n] = product(dh, down.T)
        elif need_z and a.source is None:
            dv.add_(product(dh, down.T))
    ddown = ddown_sum.view(du, m, r).permute(1, 0, 2).to(z.dtype) if need_down else none
    dup = dup_sum.view(m, r, d).to(z.dtype) if need_up else none
    return dz, dgate if need_gate else none, ddown.contiguous(), dup, dsource


def _fused_backward(de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
    """Compute the gradients in float32 by one call of mmcl_fast._C."""
    e, inv, h = result
    de, gate, u = unit_stride(de), unit_stride(a.gate), unit_stride(a.z if a.source is None else a.source)
    down, up = concatenate_modalities(a.down, a.up)
    down, up = down.contiguous(), up.contiguous()
    (b, d), du, m, n = e.shape, u.shape[1], gate.shape[1], h.shape[1]
    none = e.new_empty(0)
    dz, dgate, ddown, dup, dsource = (
        e.new_empty(shape) if needs & 1 << k else none
        for k, shape in enumerate(((b, d), (b, m), (du, n), (n, d), (b, du)))
    )
    source_is_z = a.source is None  # then dz holds both shares
    compiled().realign_back(  # inputs, outputs (0 where not wanted), strides and sizes
        de.data_ptr(), e.data_ptr(), inv.data_ptr(), h.data_ptr(), u.data_ptr(), gate.data_ptr(), down.data_ptr(),
        up.data_ptr(),
        *(x.data_ptr() if x.numel() else 0 for x in (dz, dgate, ddown, dup, dz if source_is_z else dsource)),
        de.stride(0), u.stride(0), gate.stride(0), b, d, du, m, n // m, source_is_z, threads_for(a.z.numel()),
    )  # fmt: skip
    ddown = ddown.view(du, m, -1).permute(1, 0, 2).contiguous() if needs & 4 else none
    return dz, dgate, ddown, dup.view(m, -1, d) if needs & 8 else none, dsource
