"""The `cpp` backend, for the CPU.

In float32 a loss with few classes is one call of mmcl_fast._C. Any other loss alternates torch's matrix products
with the row kernels of mmcl_fast._C, over chunks of classes whose logits stay in the processor's cache. Every sum over
classes is linear in exp(logit - max), so a chunk only adds to the sums before it. No B x C array is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast._extension import compiled
from mmcl_fast.ops import checks
from mmcl_fast.ops.arguments import (
    NEEDS_TEXT,
    NEEDS_Z,
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignGradients,
    RealignResult,
)
from mmcl_fast.ops.backends import cpp_realign
from mmcl_fast.ops.backends.common import (
    RowResult,
    TextGradientChunk,
    add_text_gradient,
    finish_text_gradient,
    mean_unit,
    reduce_rows,
    unit_stride,
)
from mmcl_fast.ops.backends.cpp_products import CHUNK, DTYPES, has_vector_isa, product, threads_for
from mmcl_fast.ops.backends.protocol import Backend

ROWS = 2048  # rows of a chunk
FUSED_TEXT = 1 << 18  # numbers of text up to which one call of mmcl_fast._C beats torch's products and the row kernels
FIXED_MAX = 40.0  # below it exp(-2 s) is a normal float32, so |cos| <= 1 gives the row maximum without a pass
REDUCTIONS = ("none", "sum", "mean")  # codes of csrc/kernels.h


class CppBackend(Backend):
    """Row kernels and float32 products of mmcl_fast._C; float16 is computed in float32."""

    name = "cpp"

    def alignment_loss(self, a: AlignmentArguments) -> AlignmentResult:
        if a.needs & NEEDS_TEXT or not self.fuses(a.z, a.text, a.labels):
            return reduce_rows(a, alignment_rows)
        loss, stats, dz = _fused_alignment(a, of_loss=False)
        # Copies: views of one tensor may not be returned by a registered operation.
        row_loss, weights, dscale, norm = (x.clone() for x in (*stats[:-1].view(3, -1), stats[-1]))
        return AlignmentResult(loss, row_loss, weights, norm, dz, a.z.new_empty(0), dscale)

    def fuses(self, z: Tensor, text: Tensor, labels: Tensor) -> bool:
        """float32, and the texts frozen and small enough for the processor's cache."""
        return (
            not text.requires_grad
            and text.numel() <= FUSED_TEXT
            and z.dtype == torch.float32
            and labels.dtype == torch.int64
            and has_vector_isa()
        )

    def loss_and_dz(self, a: AlignmentArguments) -> tuple[Tensor, Tensor]:
        loss, _, dz = _fused_alignment(a, of_loss=True)
        return loss, dz

    def realign(self, a: RealignArguments) -> RealignResult:
        return cpp_realign.forward(a)

    def realign_backward(self, de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
        return cpp_realign.backward(de, result, a, needs)


def alignment_rows(a: AlignmentArguments, coef: Tensor | None) -> RowResult:
    """Return losses and gradients of single rows, in chunks.

    coef: (B,), the factor of each row in the loss, or None where text is frozen.
    """
    if a.z.dtype == torch.float16:  # no float16 matrix unit on the CPU
        return alignment_rows(a._replace(z=a.z.float(), text=a.text.float()), coef)
    lib = compiled()
    z, text, labels = unit_stride(a.z), unit_stride(a.text), a.labels.contiguous()
    need_z, smoothing = bool(a.needs & NEEDS_Z), a.label_smoothing
    scale = float(a.scale.detach().float() if isinstance(a.scale, Tensor) else a.scale)
    (b, d), c = z.shape, text.shape[0]
    dtype, wide = DTYPES[z.dtype], torch.float32
    rows = min(b, max(1, CHUNK // c) if coef is not None else ROWS)
    cols = c if coef is not None else min(c, max(256, CHUNK // rows))  # dtext needs a row's sum over all classes
    fixed_max = scale <= FIXED_MAX
    loss, dscale, stats = z.new_empty(b, dtype=wide), z.new_empty(b, dtype=wide), z.new_empty(7, rows, dtype=wide)
    # Addresses: a view for each would cost a microsecond a chunk.
    start, row = stats.data_ptr(), 4 * rows
    row_max, row_sum, row_fix, label_logit, ratio, label_coef, inv_z = range(start, start + 7 * row, row)
    in_place = rows == b and z.dtype == wide  # dz takes the place of the sums over classes
    dz = z.new_empty((b, d)) if need_z and not in_place else z.new_empty(0)
    inv_t = z.new_empty(c, dtype=wide)
    at_inv_t = inv_t.data_ptr()
    lib.row_norm(text.data_ptr(), 0, at_inv_t, text.stride(0), 0, c, d, dtype, threads_for(c * d))
    mean = mean_unit(text, inv_t) if smoothing else None
    dtext = z.new_zeros(c, d, dtype=wide) if coef is not None else z.new_empty(0)
    for r in range(0, b, rows):
        u, at_labels = z[r : r + rows], labels.data_ptr() + 8 * r
        m, at_u = len(u), u.data_ptr()
        threads = threads_for(m * d)
        lib.row_norm(at_u, 0, inv_z, z.stride(0), 0, m, d, dtype, threads)
        if fixed_max:
            stats[0].fill_(scale)
        for n in range(0, c, cols):
            t = text[n : n + cols]
            x = product(u, t.T)
            lib.align_chunk(
                x.data_ptr(), len(t), m, len(t), inv_z, at_inv_t + 4 * n, at_labels, n, scale, fixed_max, n == 0,
                row_max, row_sum, row_fix, label_logit, dtype, threads_for(x.numel()),
            )  # fmt: skip
            part = product(x, t)
            if coef is None:
                del x  # before the next chunk is made
            if n == 0:
                o = part if part.dtype == wide else part.float()
            else:
                (o if fixed_max else o.mul_(stats[2, :m, None])).add_(part)
        at_dz = 0 if not need_z else o.data_ptr() if in_place else dz[r:].data_ptr()
        lib.align_finish(  # four matrices, their strides, rows and width; then statistics, options and outputs
            o.data_ptr(), at_u, text.data_ptr(), at_dz, d, z.stride(0), text.stride(0), d, m, d,
            inv_z, at_inv_t, 0 if mean is None else mean.data_ptr(), at_labels, a.ignore_index, scale, smoothing,
            row_max, row_sum, label_logit,
            loss.data_ptr() + 4 * r, dscale.data_ptr() + 4 * r, ratio, label_coef, dtype, threads,
        )  # fmt: skip
        if coef is not None:
            unit = u.float() * stats[6, :m, None]
            chunk = TextGradientChunk(x, unit, stats[4, :m], stats[5, :m], labels[r : r + m], coef[r : r + m])
            add_text_gradient(dtext, chunk, inv_t, smoothing, product)
    if need_z and in_place:
        dz = o
    if coef is not None:
        dtext = finish_text_gradient(dtext, text, inv_t, scale)
    return RowResult(loss, dz, dtext, dscale)


def _fused_alignment(a: AlignmentArguments, of_loss: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel of the whole loss.

    Returns:
        loss; stats (3 B + 1,), that is CE (B,), w (B,), dCE/ds (B,) and 1 / sum w one after the other;
        dz (B, D), the gradients of the loss if ``of_loss``, else of its rows.

    Raises:
        ValueError: a label, a weight or the scale is out of range.
    """
    z, text, labels, weight, scale, smoothing, ignore_index, reduction_name, needs = a
    z, text, labels = unit_stride(z), unit_stride(text), labels.contiguous()
    weight = None if weight is None else weight.float().contiguous()
    scale = float(scale.detach() if isinstance(scale, Tensor) else scale)
    (b, d), c = z.shape, text.shape[0]
    need_z, reduction = needs & NEEDS_Z, REDUCTIONS.index(reduction_name)
    loss, stats = z.new_empty(() if reduction else b), z.new_empty(3 * b + 1)
    dz = z.new_empty((b, d) if need_z else 0)
    at, row = stats.data_ptr(), 4 * b
    refused = not scale > 0 or compiled().align_rows(  # inputs, outputs, strides and sizes, options
        z.data_ptr(), text.data_ptr(), 0 if weight is None else weight.data_ptr(), labels.data_ptr(),
        loss.data_ptr(), at, at + row, at + 3 * row, dz.data_ptr() if need_z else 0, at + 2 * row,
        z.stride(0), text.stride(0), b, c, d,
        ignore_index, scale, smoothing, FIXED_MAX, reduction, of_loss, threads_for(b * c * d >> 6),
    )  # fmt: skip
    if refused:  # the kernel only says that something is wrong
        checks.classes(text, labels, ignore_index)
        checks.weights_and_scale(z, weight, scale)
    return loss, stats, dz


BACKEND = CppBackend()
