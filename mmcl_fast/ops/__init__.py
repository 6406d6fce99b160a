"""The package's two fused operations: `alignment_loss` and `realign`.

Backends: `reference` (plain PyTorch, the definition), `cpp` (CPU), `triton` and `cuda` (GPU). The default,
``backend="auto"``, chooses by device, dtype, shape and gradients: from measured times, or else from a cost model. The
environment variable MMCL_FAST_BACKEND names one for calls that name none. Every backend but the reference gives first
derivatives only. Inside ``torch.autocast`` z is first converted to its dtype.

A call goes through three places. A function here checks the arguments. autograd.py, or registered.py in a compiled
graph, chooses the backend. The backend computes; each has a module in backends/.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.ops import (
    autograd,
    checks,
    registered,  # noqa: F401  # defines torch.ops.mmcl_fast
)
from mmcl_fast.ops.arguments import AlignmentArguments, RealignArguments
from mmcl_fast.ops.choice import Availability, BackendError, backends

__all__ = ["Availability", "BackendError", "alignment_loss", "backends", "realign", "realigned_alignment_loss"]


def alignment_loss(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    logit_scale: float | Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Weighted cross-entropy between embeddings and class texts, sum_i w_i CE(s cos(z_i, T), y_i) / sum_i w_i.

    Differentiable in z, text, weight and logit_scale. With text frozen, one pass of 4 B C D multiply-adds gives loss
    and gradient. No backend but the reference holds all B x C logits in memory.

    Args:
        z: ``[B, D]`` embeddings, float32, bfloat16, float16, or float64 (reference only). Rows need not be normalised;
            a row shorter than 1e-12 counts as that long.
        text: ``[C, D]`` class texts, computed in z's dtype; normalised like z.
        labels: ``[B]`` int64 or int32 in [0, C), or `ignore_index`.
        weight: ``[B]`` weights w >= 0; None: 1.
        logit_scale: s > 0, a float or a 0-d tensor.
        label_smoothing: eps in [0, 1]; the target is (1 - eps) onehot + eps / C.
        ignore_index: the label of a row that has no loss and no weight.
        reduction: ``"mean"`` for the formula above (0 with zero gradients if the weights sum to 0), ``"sum"`` for
            sum_i w_i CE_i, ``"none"`` for the rows w_i CE_i.
        backend: a backend's name. None or ``"auto"``: MMCL_FAST_BACKEND if it is set, else the choice by cost.

    Returns:
        A 0-d tensor, or ``[B]`` for ``"none"``; float32, or float64 for float64.

    Raises:
        ValueError: a shape, a dtype or a device does not fit. On the CPU also a label, a weight or a scale out of
            range. Values on a GPU are not read: there a label out of range makes its row's loss NaN.
        BackendError: the backend that was asked for cannot compute this.
    """
    a = AlignmentArguments(z, text, labels, weight, logit_scale, label_smoothing, ignore_index, reduction)
    checks.alignment_loss(a)
    device = z.device.type
    if torch.is_autocast_enabled(device):  # computed in its dtype, as torch's matrix products are
        with torch.autocast(device, enabled=False):
            return autograd.alignment_loss(a._replace(z=z.to(torch.get_autocast_dtype(device))), backend)
    return autograd.alignment_loss(a, backend)


def realign(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, *, source: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Re-aligned embeddings, e = normalize(z + sum_m gate_m (source down_m) up_m).

    Differentiable in all five tensors, which are computed in z's dtype.

    Args:
        z: ``[B, D]`` embeddings.
        gate: ``[B, M]`` weights of the M modalities, any real numbers.
        down: ``[M, Du, r]`` projections to rank r.
        up: ``[M, r, D]`` projections back.
        source: ``[B, Du]`` what is projected; None: z itself, with Du = D.
        backend: as for ``alignment_loss``.

    Returns:
        ``[B, D]`` unit rows in z's dtype, or in the dtype of ``torch.autocast`` inside it.

    Raises:
        ValueError: a shape, a dtype or a device does not fit.
        BackendError: the backend that was asked for cannot compute this.
    """
    a = RealignArguments(z, gate, down, up, source)
    checks.realign(a)
    device = z.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return autograd.realign(a._replace(z=z.to(torch.get_autocast_dtype(device))), backend)
    return autograd.realign(a, backend)


def realigned_alignment_loss(
    z: Tensor,
    gate: Tensor,
    down: Tensor,
    up: Tensor,
    text: Tensor,
    labels: Tensor,
    *,
    source: Tensor | None = None,
    weight: Tensor | None = None,
    logit_scale: float | Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Alignment loss of re-aligned embeddings, alignment_loss(realign(z, gate, down, up), text, labels).

    It takes the arguments of both, and runs one after the other. One kernel for both would only save a read of e
    ``[B, D]``, little beside the products with text ``[C, D]``.
    """
    e = realign(z, gate, down, up, source=source, backend=backend)
    return alignment_loss(
        e,
        text,
        labels,
        weight=weight,
        logit_scale=logit_scale,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        backend=backend,
    )
