"""The package's two operations: `alignment_loss` and `realign`.

Backends: `reference` (plain PyTorch, the definition), `cpp` (CPU), `triton` and `cuda` (GPU).
`backend="auto"` (the default) chooses by device, dtype, shape and gradients: what was measured there, else what a cost
model expects. The environment variable MMCL_FAST_BACKEND forces one. All but the reference give first derivatives only.
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
    """Weighted cross-entropy between embeddings and class texts: sum_i w_i CE(s cos(z_i, T), y_i) / sum_i
    w_i.

    z [B, D] and text [C, D] need not be normalised (rows shorter than 1e-12 count as that long); text is
    computed in z's dtype: float32, bfloat16, float16, or float64 (reference only). labels [B] int64 or int32
    in [0, C), or `ignore_index`: such a row has no loss and no weight. weight [B] >= 0, default 1.
    logit_scale s > 0: a float or a 0-d tensor. label_smoothing eps in [0, 1]: the target is (1 - eps) onehot
    + eps / C. reduction: "mean" as above (0, with zero gradients, if the weights sum to 0), "sum" for sum_i
    w_i CE_i, "none" for w_i CE_i [B].

    Returns float32 (float64 for float64). Differentiable in z, text, weight and logit_scale; with text frozen
    one pass of 4BCD multiply-adds gives loss and gradient. The B x C logits are never in memory at once
    (except in the reference). Raises ValueError for shapes or values that do not fit; values are looked at on
    the CPU only: on a GPU a label out of range makes its row's loss NaN, and weights are not checked.
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
    """Re-aligned embeddings e = normalize(z + sum_m gate_m (source down_m) up_m), unit rows [B, D] in z's
    dtype.

    z [B, D]; gate [B, M], any real numbers; down [M, Du, r]; up [M, r, D]; source [B, Du] (None: z itself, Du
    = D). All are computed in z's dtype. Differentiable in all five. Raises ValueError for shapes that do not
    fit.
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
    """alignment_loss(realign(z, gate, down, up, source=source), text, labels, ...), the arguments of both.

    A composition: fusing further would only spare one read of e [B, D] against the products with text [C, D].
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
