"""What the drivers of all backends share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


def unit_stride(x: Tensor) -> Tensor:
    """x itself where its rows are contiguous (at any distance from each other), else a contiguous copy."""
    return x if x.stride(1) == 1 else x.contiguous()


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """What gradients are kept in until the upstream one is known: float32 for float16, else the tensor's own dtype.

    A gradient scaler multiplies by 2^16 or so after the forward has made them; in float16 small ones would be lost.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def mean_unit(text: Tensor, inv: Tensor) -> Tensor:
    """The mean of the unit class texts [D], in float32; inv [C] = 1 / |t|."""
    if text.dtype == torch.float32:
        return torch.mv(text.T, inv) / len(text)
    parts = [torch.mv(t.float().T, i) for t, i in zip(text.split(8192), inv.split(8192), strict=True)]
    return torch.stack(parts).sum(0) / len(text)


def add_text_gradient(
    dtext: Tensor,
    x: Tensor,
    unit: Tensor,
    ratio: Tensor,
    label_coef: Tensor,
    labels: Tensor,
    coef: Tensor,
    inv_t: Tensor,
    smoothing: float,
    product: Product,
) -> None:
    """dtext_c += sum_i coef_i (p_ic - target_ic) z_i / |t_c|, still to be projected off t_c and scaled.

    x [m, C] holds exp(logit - max) / |t_c| with 0 at the label, unit [m, D] float32 the unit rows of z; ratio
    turns exponentials into probabilities, and label_coef = target's share less q; both are 0 for ignored
    rows. In float16 the rows' factors are divided by the largest one first, so that small ones stay in its range.
    """
    factor = (coef * ratio)[:, None]
    if x.dtype == torch.float16:
        largest = factor.abs().amax(keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        dtext.add_(product(x.T, (unit * (factor / largest)).to(x.dtype)) * largest)
    else:
        dtext.add_(product(x.T, (unit * factor).to(x.dtype)))
    own = labels.clamp(0, len(dtext) - 1)
    dtext.index_add_(0, own, unit * (coef * label_coef * inv_t[own])[:, None])
    if smoothing:
        dtext.addr_(inv_t, torch.mv(unit.T, coef), alpha=-smoothing / len(dtext))


def finish_text_gradient(dtext: Tensor, text: Tensor, inv_t: Tensor, scale: float | Tensor) -> Tensor:
    """scale (dtext - (dtext . t) t / |t|^2), in `gradient_dtype` of text's dtype."""
    wide = text.float()
    along = torch.einsum("cd,cd->c", dtext, wide) * inv_t * inv_t
    return torch.addcmul(dtext, along[:, None], wide, value=-1).mul_(scale).to(gradient_dtype(text.dtype))


def flat(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """[down_1 .. down_M] [Du, M r] and [up_1; ..; up_M] [M r, D]: dense gates make realign two products."""
    m, du, r = down.shape
    return down.permute(1, 0, 2).reshape(du, m * r), up.reshape(m * r, -1)
