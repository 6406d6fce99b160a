"""Triton kernels of realign: the second product of the forward, and the row kernels between library products.

With u the source, h = u [down_1 .. down_M] and h gate each rank's column times the gate of its modality::

    v  = z + (h gate) [up_1; ..; up_M],      e  = v / |v|
    dv = (de - (de . e) e) / |v|,            dgate_m = sum_k dh_mk h_mk,      dh <- dh gate

mmcl_fast/ops/backends/gpu.py has the order of the launches. Letters: B rows, D width, M modalities, r rank of each.
"""

from __future__ import annotations

import triton
import triton.language as tl

EPS = tl.constexpr(1e-12)


@triton.jit
def shift_normalise(
    z,  # (B, D), row stride ldz
    ldz,
    h,  # (B, M r)
    gate,  # (B, M), row stride ldg
    ldg,
    up,  # (M r, D)
    e,  # (B, D)
    inv,  # (B,) float32, 1 / |v|
    rows,
    width,
    ranks,  # M r
    rank,  # r
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """e = normalize(z + (h gate) up) for BM rows.

    The unnormalised rows are stored in e and read again for the division. They are still in the cache then; a whole row
    of D numbers would not fit the registers.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    row_mask = row < rows
    row = row.to(tl.int64)
    square = tl.zeros([BM], tl.float32)
    for n in range(0, width, BN):
        cols = n + tl.arange(0, BN)
        mask = row_mask[:, None] & (cols[None, :] < width)
        v = tl.load(z + row[:, None] * ldz + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        for k in range(0, ranks, BK):
            r = k + tl.arange(0, BK)
            rank_mask = row_mask[:, None] & (r[None, :] < ranks)
            a = tl.load(h + row[:, None] * ranks + r[None, :], mask=rank_mask, other=0.0).to(tl.float32)
            a *= tl.load(gate + row[:, None] * ldg + r[None, :] // rank, mask=rank_mask, other=0.0).to(tl.float32)
            b = tl.load(
                up + r[:, None] * width + cols[None, :], mask=(r[:, None] < ranks) & (cols[None, :] < width), other=0.0
            )
            if UPCAST:
                b = b.to(tl.float32)
            v = tl.dot(a.to(b.dtype), b, v, input_precision="ieee")
        v = tl.where(mask, v, 0.0)
        square += tl.sum(v * v, 1)
        tl.store(e + row[:, None] * width + cols[None, :], v.to(e.dtype.element_ty), mask=mask)
    scale = 1.0 / tl.maximum(tl.sqrt(square), EPS)
    tl.store(inv + row, scale, mask=row_mask)
    tl.debug_barrier()  # other threads of this program stored parts of the row
    for n in range(0, width, BN):
        cols = n + tl.arange(0, BN)
        mask = row_mask[:, None] & (cols[None, :] < width)
        at = e + row[:, None] * width + cols[None, :]
        v = tl.load(at, mask=mask, other=0.0).to(tl.float32) * scale[:, None]
        tl.store(at, v.to(e.dtype.element_ty), mask=mask)


@triton.jit
def project(de, ldde, e, inv, dv, width, D: tl.constexpr):
    """dv = (de - (de . e) e) / |v|, one row for each program."""
    # de (B, D), row stride ldde; e and dv (B, D); inv (B,) float32, 1 / |v|
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, D)
    mask = cols < width
    g = tl.load(de + row * ldde + cols, mask=mask, other=0.0).to(tl.float32)
    unit = tl.load(e + row * width + cols, mask=mask, other=0.0).to(tl.float32)
    out = tl.load(inv + row) * (g - tl.sum(g * unit) * unit)
    tl.store(dv + row * width + cols, out.to(dv.dtype.element_ty), mask=mask)


@triton.jit
def gate_back(d, h, gate, ldg, scaled, dgate, groups, rank, R: tl.constexpr):
    """dgate_m = sum_k d_mk h_mk, scaled = h gate and d <- d gate, one row for each program."""
    # d, h and scaled (B, M r); gate (B, M), row stride ldg; dgate (B, M). d is the gradient of h gate, then of h.
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, R)
    mask = k < rank
    for m in range(groups):
        at = row * groups * rank + m * rank + k
        g = tl.load(gate + row * ldg + m).to(tl.float32)
        dk = tl.load(d + at, mask=mask, other=0.0).to(tl.float32)
        hk = tl.load(h + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dgate + row * groups + m, tl.sum(dk * hk).to(dgate.dtype.element_ty))
        tl.store(scaled + at, (hk * g).to(scaled.dtype.element_ty), mask=mask)
        tl.store(d + at, (dk * g).to(d.dtype.element_ty), mask=mask)


# For each precision: (block sizes, warps, stages). Those for half precision spill nowhere, and use wgmma on Hopper.
# The others have a stack of at most 8 bytes. This holds under Triton 3.6 and 3.9.
CONFIGS = {
    "shift_normalise": {
        "half": [({"BM": 64, "BN": 64, "BK": 64}, 4, 3), ({"BM": 128, "BN": 64, "BK": 32}, 8, 2)],
        "wide": [({"BM": 32, "BN": 32, "BK": 16}, 4, 2), ({"BM": 16, "BN": 64, "BK": 16}, 4, 2)],
    }
}
