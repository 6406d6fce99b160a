"""Triton kernels of the alignment loss: both matrix products in one pass, or the row kernels between library products.

With x_c = s cos(z, t_c) the loss of a row with label y, without smoothing, is::

    CE      = log(1 + sum_{c != y} exp(x_c - x_y))
    d CE/dz = s / |z| (g - (g . u) u),   u = z / |z|,
    g       = q / sum_{c != y} exp(x_c) * sum_{c != y} exp(x_c) t_c / |t_c|  -  q t_y / |t_y|,   q = 1 - p_y

Sums and maximum leave the label's class out; `finish` adds it exactly. Then a confident row loses nothing to rounding:
with the label in the maximum, its other exponentials would be too small for float16.

mmcl_fast/ops/backends/gpu.py has the order of the launches. B rows, C classes, D width, S splits of the classes.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
EPS = tl.constexpr(1e-12)
LOW = tl.constexpr(-1e30)  # the maximum of no class; finite, so that differences make no NaN
NEVER = tl.constexpr(-3e38)  # a logit that no sum may see: its exponential is 0 even if the maximum is LOW


@triton.jit
def row_norm(x, ldx, inv, width, BLOCK: tl.constexpr):
    """inv = 1 / max(|x|, 1e-12), one row for each program."""
    # x (rows, width), row stride ldx; inv (rows,) float32
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, width, BLOCK):
        cols = j + tl.arange(0, BLOCK)
        v = tl.load(x + row * ldx + cols, mask=cols < width, other=0.0).to(tl.float32)
        total += v * v
    tl.store(inv + row, 1.0 / tl.maximum(tl.sqrt(tl.sum(total)), EPS))


@triton.jit
def one_pass(
    z,  # (B, D), row stride ldz
    ldz,
    text,  # (C, D), row stride ldt
    ldt,
    labels,  # (B,) int64
    inv_z,  # (B,) float32, 1 / |z|
    inv_t,  # (C,) float32, 1 / |t|
    scale_ptr,  # 0-d float32, used if HAS_SCALE
    scale,
    out,  # (S, B, D) float32
    row_max,  # (S, B) float32
    row_sum,  # (S, B) float32
    label_logit,  # (B,) float32
    rows,
    classes,
    width,
    per_split,  # classes of each split
    HAS_SCALE: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
):
    """out = sum_c exp(x_c - row_max) t_c / |t_c| and row_sum = sum_c exp(x_c - row_max), for BM rows and one split.

    This is flash attention with K = V = text: a tile of texts is loaded once and used by both products.
    """
    # Offsets inside a tile are 32 bits wide, because the sums need the registers. Offsets of the tile are 64 bits wide.
    split = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * BM
    i = tl.arange(0, BM)
    row_mask = i < rows - start
    cols = tl.arange(0, D)
    col_mask = cols < width
    z_mask = row_mask[:, None] & col_mask[None, :]
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    zt = tl.load(z + start * ldz + (i[:, None] * ldz + cols[None, :]), mask=z_mask, other=0.0)  # (BM, D)
    if UPCAST:
        zt = zt.to(tl.float32)
    row_scale = tl.load(inv_z + start + i, mask=row_mask, other=0.0) * (scale * LOG2E)  # logits in powers of two
    first = split * per_split
    last = tl.minimum(first + per_split, classes)
    y = (tl.load(labels + start + i, mask=row_mask, other=-1) - first).to(tl.int32)
    high = tl.full([BM], LOW, tl.float32)
    total = tl.zeros([BM], tl.float32)
    at_label = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    text += first * ldt
    inv_t += first
    count = (last - first).to(tl.int32)
    for n in range(0, count, BN):
        j = tl.arange(0, BN)
        class_mask = j < count - n
        t_mask = class_mask[:, None] & col_mask[None, :]
        t = tl.load(text + (j[:, None] * ldt + cols[None, :]), mask=t_mask, other=0.0)  # (BN, D)
        if UPCAST:
            t = t.to(tl.float32)
        unit = tl.load(inv_t + n + j, mask=class_mask, other=0.0)
        x = tl.dot(zt, tl.trans(t), input_precision="ieee") * row_scale[:, None] * unit[None, :]  # (BM, BN)
        is_label = (y - n)[:, None] == j[None, :]
        at_label += tl.sum(tl.where(is_label, x, 0.0), 1)  # a sum, not a maximum: it lets a NaN through
        x = tl.where(class_mask[None, :] & (is_label == 0), x, NEVER)
        new_high = tl.maximum(high, tl.max(x, 1))
        fix = tl.exp2(high - new_high)
        e = tl.exp2(x - new_high[:, None])
        total = total * fix + tl.sum(e, 1)
        acc = acc * fix[:, None]
        acc = tl.dot((e * unit[None, :]).to(t.dtype), t, acc, input_precision="ieee")
        high = new_high
        text += BN * ldt
    at = split * rows + start
    tl.store(out + at * width + (i[:, None] * width + cols[None, :]), acc, mask=z_mask)
    tl.store(row_max + at + i, high * LN2, mask=row_mask)
    tl.store(row_sum + at + i, total, mask=row_mask)
    tl.store(label_logit + start + i, at_label * LN2, mask=row_mask & (y >= 0) & (y < count))


@triton.jit
def exp_rows(
    x,  # (B, cols), row stride ldx: z . t, overwritten
    ldx,
    cols,
    labels,  # (B,) int64
    first,  # the class of column 0
    inv_z,  # (B,) float32
    inv_t,  # (cols,) float32
    scale_ptr,  # 0-d float32, used if HAS_SCALE
    scale,
    row_max,  # (B,) float32, of the columns without the label's
    row_sum,  # (B,) float32
    row_fix,  # (B,) float32, factor of the sums of earlier chunks
    label_logit,  # (B,) float32
    START: tl.constexpr,  # the first chunk: nothing to carry over
    HAS_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x <- exp(s x / |z| |t| - row_max) / |t|, 0 in the label's column: one chunk of logits, one row a program.

    The row is read twice; the second time it is in the cache.
    """
    row = tl.program_id(0).to(tl.int64)
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    row_scale = tl.load(inv_z + row) * (scale * LOG2E)  # logits in powers of two
    y = tl.load(labels + row) - first
    x += row * ldx
    if (y >= 0) & (y < cols):
        tl.store(label_logit + row, tl.load(x + y).to(tl.float32) * row_scale * tl.load(inv_t + y) * LN2)
    high = tl.full([BLOCK], LOW, tl.float32)
    for j in range(0, cols, BLOCK):
        c = j + tl.arange(0, BLOCK)
        v = (
            tl.load(x + c, mask=c < cols, other=0.0).to(tl.float32)
            * row_scale
            * tl.load(inv_t + c, mask=c < cols, other=0.0)
        )
        high = tl.maximum(high, tl.where((c < cols) & (c != y), v, LOW))
    new_max = tl.max(high)
    old_max = LOW
    if not START:
        old_max = tl.load(row_max + row) * LOG2E
    new_max = tl.maximum(new_max, old_max)
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, cols, BLOCK):
        c = j + tl.arange(0, BLOCK)
        unit = tl.load(inv_t + c, mask=c < cols, other=0.0)
        v = tl.load(x + c, mask=c < cols, other=0.0).to(tl.float32) * row_scale * unit
        e = tl.where((c == y) | (c >= cols), 0.0, tl.exp2(v - new_max))
        total += e
        tl.store(x + c, (e * unit).to(x.dtype.element_ty), mask=c < cols)
    fix = 0.0
    old_sum = 0.0
    if not START:
        fix = tl.exp2(old_max - new_max)
        old_sum = tl.load(row_sum + row)
    tl.store(row_fix + row, fix)
    tl.store(row_max + row, new_max * LN2)
    tl.store(row_sum + row, old_sum * fix + tl.sum(total))


@triton.jit
def finish(
    o,  # (S, B, D) float32, sum_c exp(x_c - row_max) t_c / |t_c|
    z,  # (B, D), row stride ldz
    ldz,
    text,  # (C, D), row stride ldt
    ldt,
    mean_text,  # (D,) float32, mean of the unit texts; used if SMOOTH
    labels,  # (B,) int64
    inv_z,  # (B,) float32
    inv_t,  # (C,) float32
    scale_ptr,  # 0-d float32, used if HAS_SCALE
    scale,
    row_max,  # (S, B) float32
    row_sum,  # (S, B) float32
    label_logit,  # (B,) float32
    loss,  # (B,) float32
    dz,  # (B, D), written if NEED_Z
    dscale,  # (B,) float32
    ratio,  # (B,) float32, q / row_sum: turns exponentials into probabilities
    label_coef,  # (B,) float32, smoothing - q
    rows,
    classes,
    width,
    ignore,  # the label of rows without a loss
    smoothing,
    SPLITS: tl.constexpr,
    SMOOTH: tl.constexpr,
    NEED_Z: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    D: tl.constexpr,
):
    """CE = log(1 + exp(d)) with d = log(sum_{c != y} exp(x_c)) - x_y, and its gradients: one row for each program.

    The loss is NaN if the label is out of range: nothing on the host has read the labels.
    """
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, D)
    col_mask = cols < width
    if HAS_SCALE:
        scale = tl.load(scale_ptr).to(tl.float32)
    y = tl.load(labels + row)
    is_class = (y >= 0) & (y < classes)
    y_safe = tl.where(is_class, y, 0)
    high = LOW
    for k in range(SPLITS):
        high = tl.maximum(high, tl.load(row_max + k * rows + row))
    others = 0.0
    g = tl.zeros([D], tl.float32)
    for k in range(SPLITS):
        fix = tl.exp(tl.load(row_max + k * rows + row) - high)
        others += fix * tl.load(row_sum + k * rows + row)
        g += fix * tl.load(o + (k * rows + row) * width + cols, mask=col_mask, other=0.0)
    at_label = tl.load(label_logit + row, mask=is_class, other=0.0)
    # LOW + at_label where no other class is left: log(0) would be -inf, and a NaN must stay NaN.
    d = tl.where(others == 0, LOW + at_label, tl.log(others) + high - at_label)
    small = tl.exp(-tl.abs(d))
    q = tl.where(d > 0, 1.0, small) / (1.0 + small)  # 1 - p_label
    # log(1 + small) by its series for a small argument: Triton has no log1p.
    value = tl.maximum(d, 0.0) + tl.where(small < 1e-4, small * (1 - 0.5 * small), tl.log(1.0 + small))
    rate = tl.where(others == 0, 0.0, q / others)
    nan = tl.where(is_class | (y == ignore), 0.0, float("nan"))
    unit = tl.load(inv_z + row)
    zr = tl.load(z + row * ldz + cols, mask=col_mask, other=0.0).to(tl.float32) * unit
    t = tl.load(text + y_safe * ldt + cols, mask=col_mask, other=0.0).to(tl.float32) * tl.load(inv_t + y_safe)
    g = g * rate + (smoothing - q) * t + nan
    if SMOOTH:
        mean = tl.load(mean_text + cols, mask=col_mask, other=0.0)
        g -= smoothing * mean
        value += smoothing * (at_label - scale * tl.sum(mean * zr))
    radial = tl.sum(tl.where(col_mask, g * zr, 0.0))  # g . z / |z|, the gradient of the scale
    keep = y != ignore
    tl.store(loss + row, tl.where(keep, value + nan, 0.0))
    tl.store(dscale + row, tl.where(keep, radial, 0.0))
    tl.store(ratio + row, tl.where(keep, rate + nan, 0.0))
    tl.store(label_coef + row, tl.where(keep, smoothing - q, 0.0))
    if NEED_Z:
        value_z = tl.where(keep, (g - radial * zr) * (scale * unit), 0.0)
        tl.store(dz + row * width + cols, value_z.to(dz.dtype.element_ty), mask=col_mask)


# For each padded width: (block sizes, warps, stages). None spills, under Triton 3.6 and 3.9. On Hopper all use wgmma,
# and each warp has 16 rows of its own. The others fit the 99 KB of shared memory of sm_89 and 120.
CONFIGS = {
    "one_pass": {
        "hopper": {
            64: [({"BM": 64, "BN": 64}, 4, 2), ({"BM": 128, "BN": 64}, 8, 3)],
            128: [({"BM": 64, "BN": 32}, 4, 2), ({"BM": 64, "BN": 64}, 4, 2), ({"BM": 128, "BN": 64}, 8, 2)],
            256: [({"BM": 64, "BN": 32}, 4, 2), ({"BM": 128, "BN": 64}, 8, 2)],
        },
        "other": {
            64: [({"BM": 64, "BN": 64}, 4, 2), ({"BM": 128, "BN": 64}, 8, 3)],
            128: [({"BM": 64, "BN": 32}, 4, 2), ({"BM": 64, "BN": 64}, 8, 2)],
            256: [({"BM": 64, "BN": 32}, 8, 2), ({"BM": 64, "BN": 16}, 8, 2)],
        },
    }
}
