"""The alignment loss in Triton: one pass over the classes with both matrix products, or the rows between
library ones.

Loss of row i: log(1 + sum_{c != y} exp(x_ic - x_iy)), x = s cos(z_i, t_c). Sums and running maximum leave the label's
column out; `finish` adds it exactly. A confident row then loses nothing to rounding: with the label in the maximum, its
other exponentials would be too small for float16. See mmcl_fast/ops/backends/gpu.py for the order.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
EPS = tl.constexpr(1e-12)
LOW = tl.constexpr(-1e30)  # the maximum of no class; finite, so that differences make no NaN
NEVER = tl.constexpr(-3e38)  # a logit that no sum may see: its exponential is 0 even beside LOW


@triton.jit
def row_norm(x, ldx, inv, width, BLOCK: tl.constexpr):
    """inv = 1 / max(|x|, 1e-12) per row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, width, BLOCK):
        cols = j + tl.arange(0, BLOCK)
        v = tl.load(x + row * ldx + cols, mask=cols < width, other=0.0).to(tl.float32)
        total += v * v
    tl.store(inv + row, 1.0 / tl.maximum(tl.sqrt(tl.sum(total)), EPS))


@triton.jit
def one_pass(
    z,
    ldz,
    text,
    ldt,
    labels,
    inv_z,
    inv_t,
    scale_ptr,
    scale,
    out,
    row_max,
    row_sum,
    label_logit,
    rows,
    classes,
    width,
    per_split,
    HAS_SCALE: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
):
    """Program (row block, split of the classes): sums of exp(x - max) t / |t| into out [splits, rows, width]
    float32.

    Keys and values are the same tile of class texts: loaded once, used by both products. Offsets inside a
    tile are 32 bits wide (the registers are needed for the sums), those of the tile 64.
    """
    split = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * BM
    i = tl.arange(0, BM)
    live = i < rows - start
    cols = tl.arange(0, D)
    inside = cols < width
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    zt = tl.load(z + start * ldz + (i[:, None] * ldz + cols[None, :]), mask=live[:, None] & inside[None, :], other=0.0)
    if UPCAST:
        zt = zt.to(tl.float32)
    pull = tl.load(inv_z + start + i, mask=live, other=0.0) * (scale * LOG2E)  # logits in powers of two
    first = split * per_split
    last = tl.minimum(first + per_split, classes)
    y = (tl.load(labels + start + i, mask=live, other=-1) - first).to(tl.int32)
    high = tl.full([BM], LOW, tl.float32)
    total = tl.zeros([BM], tl.float32)
    own = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    text += first * ldt
    inv_t += first
    many = (last - first).to(tl.int32)
    for n in range(0, many, BN):
        j = tl.arange(0, BN)
        there = j < many - n
        t = tl.load(text + (j[:, None] * ldt + cols[None, :]), mask=there[:, None] & inside[None, :], other=0.0)
        if UPCAST:
            t = t.to(tl.float32)
        unit = tl.load(inv_t + n + j, mask=there, other=0.0)
        x = tl.dot(zt, tl.trans(t), input_precision="ieee") * pull[:, None] * unit[None, :]
        mine = (y - n)[:, None] == j[None, :]
        own += tl.sum(tl.where(mine, x, 0.0), 1)  # a sum, not a maximum: it lets a NaN through
        x = tl.where(there[None, :] & (mine == 0), x, NEVER)
        above = tl.maximum(high, tl.max(x, 1))
        fix = tl.exp2(high - above)
        e = tl.exp2(x - above[:, None])
        total = total * fix + tl.sum(e, 1)
        acc = acc * fix[:, None]
        acc = tl.dot((e * unit[None, :]).to(t.dtype), t, acc, input_precision="ieee")
        high = above
        text += BN * ldt
    at = split * rows + start
    tl.store(out + at * width + (i[:, None] * width + cols[None, :]), acc, mask=live[:, None] & inside[None, :])
    tl.store(row_max + at + i, high * LN2, mask=live)
    tl.store(row_sum + at + i, total, mask=live)
    tl.store(label_logit + start + i, own * LN2, mask=live & (y >= 0) & (y < many))


@triton.jit
def exp_rows(
    x,
    ldx,
    cols,
    labels,
    first,
    inv_z,
    inv_t,
    scale_ptr,
    scale,
    row_max,
    row_sum,
    row_fix,
    label_logit,
    START: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One chunk of logits in place: x <- exp(s x / |z| / |t| - max) / |t|, 0 in the label's column; one row
    each. The maximum is that of the other columns."""
    row = tl.program_id(0).to(tl.int64)
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    pull = tl.load(inv_z + row) * (scale * LOG2E)
    y = tl.load(labels + row) - first
    x += row * ldx
    if (y >= 0) & (y < cols):
        tl.store(label_logit + row, tl.load(x + y).to(tl.float32) * pull * tl.load(inv_t + y) * LN2)
    top = tl.full([BLOCK], LOW, tl.float32)
    for j in range(0, cols, BLOCK):
        c = j + tl.arange(0, BLOCK)
        v = (
            tl.load(x + c, mask=c < cols, other=0.0).to(tl.float32)
            * pull
            * tl.load(inv_t + c, mask=c < cols, other=0.0)
        )
        top = tl.maximum(top, tl.where((c < cols) & (c != y), v, LOW))
    above = tl.max(top)
    before = LOW
    if not START:
        before = tl.load(row_max + row) * LOG2E
    above = tl.maximum(above, before)
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, cols, BLOCK):
        c = j + tl.arange(0, BLOCK)
        unit = tl.load(inv_t + c, mask=c < cols, other=0.0)
        v = tl.load(x + c, mask=c < cols, other=0.0).to(tl.float32) * pull * unit
        e = tl.where((c == y) | (c >= cols), 0.0, tl.exp2(v - above))
        total += e
        tl.store(x + c, (e * unit).to(x.dtype.element_ty), mask=c < cols)
    fix = 0.0
    sum_before = 0.0
    if not START:
        fix = tl.exp2(before - above)
        sum_before = tl.load(row_sum + row)
    tl.store(row_fix + row, fix)
    tl.store(row_max + row, above * LN2)
    tl.store(row_sum + row, sum_before * fix + tl.sum(total))


@triton.jit
def finish(
    o,
    z,
    ldz,
    text,
    ldt,
    mean_text,
    labels,
    inv_z,
    inv_t,
    scale_ptr,
    scale,
    row_max,
    row_sum,
    label_logit,
    loss,
    dz,
    dscale,
    ratio,
    label_coef,
    rows,
    classes,
    width,
    ignore,
    smoothing,
    SPLITS: tl.constexpr,
    SMOOTH: tl.constexpr,
    NEED_Z: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    D: tl.constexpr,
):
    """Loss and gradients of one row from the sums of all splits; NaN where the label is out of range."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, D)
    live = cols < width
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    y = tl.load(labels + row)
    inside = (y >= 0) & (y < classes)
    y_safe = tl.where(inside, y, 0)
    high = LOW
    for k in range(SPLITS):
        high = tl.maximum(high, tl.load(row_max + k * rows + row))
    others = 0.0
    g = tl.zeros([D], tl.float32)
    for k in range(SPLITS):
        fix = tl.exp(tl.load(row_max + k * rows + row) - high)
        others += fix * tl.load(row_sum + k * rows + row)
        g += fix * tl.load(o + (k * rows + row) * width + cols, mask=live, other=0.0)
    own = tl.load(label_logit + row, mask=inside, other=0.0)
    d = tl.where(others == 0, LOW + own, tl.log(others) + high - own)  # a NaN stays one, also where no class is left
    small = tl.exp(-tl.abs(d))
    q = tl.where(d > 0, 1.0, small) / (1.0 + small)  # 1 - p_label
    value = tl.maximum(d, 0.0) + tl.where(small < 1e-4, small * (1 - 0.5 * small), tl.log(1.0 + small))
    rate = tl.where(others == 0, 0.0, q / others)
    nan = tl.where(inside | (y == ignore), 0.0, float("nan"))
    unit = tl.load(inv_z + row)
    zr = tl.load(z + row * ldz + cols, mask=live, other=0.0).to(tl.float32) * unit
    t = tl.load(text + y_safe * ldt + cols, mask=live, other=0.0).to(tl.float32) * tl.load(inv_t + y_safe)
    g = g * rate + (smoothing - q) * t + nan
    if SMOOTH:
        mean = tl.load(mean_text + cols, mask=live, other=0.0)
        g -= smoothing * mean
        value += smoothing * (own - scale * tl.sum(mean * zr))
    along = tl.sum(tl.where(live, g * zr, 0.0))
    keep = y != ignore
    tl.store(loss + row, tl.where(keep, value + nan, 0.0))
    tl.store(dscale + row, tl.where(keep, along, 0.0))
    tl.store(ratio + row, tl.where(keep, rate + nan, 0.0))
    tl.store(label_coef + row, tl.where(keep, smoothing - q, 0.0))
    if NEED_Z:
        value_z = tl.where(keep, (g - along * zr) * (scale * unit), 0.0)
        tl.store(dz + row * width + cols, value_z.to(dz.dtype.element_ty), mask=live)


# by padded width: (block sizes, warps, stages). All compile for sm_90 without spills and with wgmma, under Triton 3.6
# and 3.9. The first one also fits the 99 KB of shared memory and the registers of sm_80, 89, 100 and 120.
CONFIGS = {
    "one_pass": {
        64: [({"BM": 64, "BN": 64}, 4, 2), ({"BM": 128, "BN": 64}, 8, 3)],
        128: [({"BM": 64, "BN": 32}, 4, 2), ({"BM": 64, "BN": 64}, 4, 2), ({"BM": 128, "BN": 64}, 8, 2)],
        256: [({"BM": 64, "BN": 32}, 8, 2), ({"BM": 128, "BN": 64}, 8, 2), ({"BM": 64, "BN": 32}, 4, 2)],
    }
}
