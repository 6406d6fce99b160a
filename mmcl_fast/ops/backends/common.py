"""Steps of the alignment loss and of realign that several backends share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmcl_fast.ops import checks
from mmcl_fast.ops.arguments import NEEDS_TEXT, AlignmentArguments, AlignmentResult, gradient_dtype

Product = Callable[[Tensor, Tensor], Tensor]


class RowResult(NamedTuple):
    """Losses of single rows and their gradients; what the arguments do not need is empty."""

    loss: Tensor  # (B,) float32, cross-entropy CE_i
    dz: Tensor  # (B, D), d CE_i / d z_i in gradient_dtype
    dtext: Tensor  # (C, D), d (sum_i coef_i CE_i) / d text in gradient_dtype
    dscale: Tensor  # (B,) float32, d CE_i / d scale


def reduce_rows(
    a: AlignmentArguments, compute_rows: Callable[[AlignmentArguments, Tensor | None], RowResult]
) -> AlignmentResult:
    """Return sum_i w_i CE_i, divided by sum_i w_i for "mean".

    ``compute_rows(a, coef)`` gets coef (B,), the factor of each row in the loss, or None where text is frozen.
    """
    # Not in the public function: kernels of a compiled graph read text by label, too.
    if a.z.device.type == "cpu":
        checks.classes(a.text, a.labels, a.ignore_index)
    weights = (a.labels != a.ignore_index).float()
    if a.weight is not None:
        weights = torch.where(weights > 0, a.weight.float(), weights)
    if a.reduction == "mean":
        total = weights.sum()
        norm = torch.where(total > 0, 1 / total, 0.0)
    else:
        norm = weights.new_ones(())
    rows = compute_rows(a, weights * norm if a.needs & NEEDS_TEXT else None)
    loss = rows.loss * weights if a.reduction == "none" else torch.dot(rows.loss, weights) * norm
    return AlignmentResult(loss, rows.loss, weights, norm, rows.dz, rows.dtext, rows.dscale)


def unit_stride(x: Tensor) -> Tensor:
    """Return x itself if each of its rows is contiguous (at any distance from the next), else a contiguous copy."""
    return x if x.stride(1) == 1 else x.contiguous()


def mean_unit(text: Tensor, inv: Tensor) -> Tensor:
    """Return the mean of the unit class texts (D,) in float32; inv (C,) is 1 / |t|."""
    if text.dtype == torch.float32:
        return torch.mv(text.T, inv) / len(text)
    # In parts: a float32 copy of all half-precision texts would double the memory.
    parts = [torch.mv(t.float().T, i) for t, i in zip(text.split(8192), inv.split(8192), strict=True)]
    return torch.stack(parts).sum(0) / len(text)


class TextGradientChunk(NamedTuple):
    """Rows [m] of a chunk with all classes, as ``add_text_gradient`` reads them."""

    x: Tensor  # (m, C), exp(logit - row max) / |t_c|; 0 at the label
    unit: Tensor  # (m, D) float32, the unit rows of z
    ratio: Tensor  # (m,), turns exponentials into probabilities; 0 for ignored rows
    label_coef: Tensor  # (m,), smoothing - (1 - p_label); 0 for ignored rows
    labels: Tensor  # (m,) int64
    coef: Tensor  # (m,), factor of each row in the loss


def add_text_gradient(
    dtext: Tensor, chunk: TextGradientChunk, inv_t: Tensor, smoothing: float, product: Product
) -> None:
    """Add a chunk of rows: dtext_c += sum_i coef_i (p_ic - target_ic) z_i / |t_c|.

    The sum is neither projected off t_c nor scaled yet: ``finish_text_gradient`` does both.
    """
    x, unit, ratio, label_coef, labels, coef = chunk
    factor = (coef * ratio)[:, None]
    if x.dtype == torch.float16:
        # Divided by the largest factor first, so that small factors stay inside float16's range.
        largest = factor.abs().amax(keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        dtext.add_(product(x.T, (unit * (factor / largest)).to(x.dtype)) * largest)
    else:
        dtext.add_(product(x.T, (unit * factor).to(x.dtype)))
    label = labels.clamp(0, len(dtext) - 1)  # an ignored row adds 0, but index_add_ needs a valid index
    dtext.index_add_(0, label, unit * (coef * label_coef * inv_t[label])[:, None])
    if smoothing:
        dtext.addr_(inv_t, torch.mv(unit.T, coef), alpha=-smoothing / len(dtext))


def finish_text_gradient(dtext: Tensor, text: Tensor, inv_t: Tensor, scale: float | Tensor) -> Tensor:
    """Return scale (dtext - (dtext . t) t / |t|^2), in ``gradient_dtype`` of text's dtype."""
    wide = text.float()
    radial = torch.einsum("cd,cd->c", dtext, wide) * inv_t * inv_t
    return torch.addcmul(dtext, radial[:, None], wide, value=-1).mul_(scale).to(gradient_dtype(text.dtype))


def concatenate_modalities(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return [down_1 .. down_M] (Du, M r) and [up_1; ..; up_M] (M r, D).

    With them realign is two matrix products, whatever the gates are.
    """
    m, du, r = down.shape
    return down.permute(1, 0, 2).reshape(du, m * r), up.reshape(m * r, -1)
