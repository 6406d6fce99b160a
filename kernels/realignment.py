"""realign in Triton: what stands between the library's products, and forward the second product itself."""

from __future__ import annotations

import triton
import triton.language as tl

EPS = tl.constexpr(1e-12)


@triton.jit
def shift_normalise(
    z,
    ldz,
    h,
    gate,
    ldg,
    up,
    e,
    inv,
    rows,
    width,
    ranks,
    rank,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """e = normalize(z + (h gate) up) for BM rows; the unnormalised row goes through e, which stays in
    cache."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    live = row < rows
    row = row.to(tl.int64)
    square = tl.zeros([BM], tl.float32)
    for n in range(0, width, BN):
        cols = n + tl.arange(0, BN)
        both = live[:, None] & (cols[None, :] < width)
        v = tl.load(z + row[:, None] * ldz + cols[None, :], mask=both, other=0.0).to(tl.float32)
        for k in range(0, ranks, BK):
            r = k + tl.arange(0, BK)
            inside = live[:, None] & (r[None, :] < ranks)
            a = tl.load(h + row[:, None] * ranks + r[None, :], mask=inside, other=0.0).to(tl.float32)
            a *= tl.load(gate + row[:, None] * ldg + r[None, :] // rank, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(
                up + r[:, None] * width + cols[None, :], mask=(r[:, None] < ranks) & (cols[None, :] < width), other=0.0
            )
            if UPCAST:
                b = b.to(tl.float32)
            v = tl.dot(a.to(b.dtype), b, v, input_precision="ieee")
        v = tl.where(both, v, 0.0)
        square += tl.sum(v * v, 1)
        tl.store(e + row[:, None] * width + cols[None, :], v.to(e.dtype.element_ty), mask=both)
    scale = 1.0 / tl.maximum(tl.sqrt(square), EPS)
    tl.store(inv + row, scale, mask=live)
    tl.debug_barrier()  # the row's parts were stored by other threads of this program
    for n in range(0, width, BN):
        cols = n + tl.arange(0, BN)
        both = live[:, None] & (cols[None, :] < width)
        at = e + row[:, None] * width + cols[None, :]
        v = tl.load(at, mask=both, other=0.0).to(tl.float32) * scale[:, None]
        tl.store(at, v.to(e.dtype.element_ty), mask=both)


@triton.jit
def project(de, ldde, e, inv, dv, width, D: tl.constexpr):
    """dv = (de - (de . e) e) / |v| for one row."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, D)
    live = cols < width
    g = tl.load(de + row * ldde + cols, mask=live, other=0.0).to(tl.float32)
    unit = tl.load(e + row * width + cols, mask=live, other=0.0).to(tl.float32)
    out = tl.load(inv + row) * (g - tl.sum(g * unit) * unit)
    tl.store(dv + row * width + cols, out.to(dv.dtype.element_ty), mask=live)


@triton.jit
def gate_back(d, h, gate, ldg, scaled, dgate, groups, rank, R: tl.constexpr):
    """One row: dgate = sum_k d h per group; scaled = h gate; d <- d gate in place."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, R)
    live = k < rank
    for m in range(groups):
        at = row * groups * rank + m * rank + k
        g = tl.load(gate + row * ldg + m).to(tl.float32)
        dk = tl.load(d + at, mask=live, other=0.0).to(tl.float32)
        hk = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
        tl.store(dgate + row * groups + m, tl.sum(dk * hk).to(dgate.dtype.element_ty))
        tl.store(scaled + at, (hk * g).to(scaled.dtype.element_ty), mask=live)
        tl.store(d + at, (dk * g).to(d.dtype.element_ty), mask=live)


# by dtype: (block sizes, warps, stages). All compile for sm_90 without spills, the half-precision ones with wgmma,
# under Triton 3.6 and 3.9. The first one spills at most 8 bytes on sm_80, 89, 100 and 120.
CONFIGS = {
    "shift_normalise": {
        "half": [
            ({"BM": 64, "BN": 64, "BK": 64}, 4, 3),
            ({"BM": 128, "BN": 64, "BK": 64}, 8, 2),
            ({"BM": 64, "BN": 128, "BK": 32}, 8, 2),
        ],
        "wide": [({"BM": 32, "BN": 32, "BK": 16}, 4, 2), ({"BM": 16, "BN": 64, "BK": 16}, 4, 2)],
    }
}
