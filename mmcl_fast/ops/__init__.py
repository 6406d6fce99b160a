"""The package's two operations: `alignment_loss` and `realign`.

Backends: `reference` (plain PyTorch, the definition), `cpp` (CPU), `triton` and `cuda` (GPU).
`backend="auto"` (the default) chooses by device, dtype, shape and gradients: what was measured there, else what a cost
model expects. The environment variable MMCL_FAST_BACKEND forces one. All but the reference give first derivatives only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.ops import checks, choice, schema
from mmcl_fast.ops.backends import reference
from mmcl_fast.ops.choice import Availability, BackendError, backends

__all__ = ["Availability", "BackendError", "alignment_loss", "backends", "realign", "realigned_alignment_loss"]


def _autocast_dtype(device: str) -> torch.dtype | None:
    """In an autocast region the operations compute in its dtype, as torch's matrix products do."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


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
    checks.alignment_loss(z, text, labels, weight, logit_scale, label_smoothing, ignore_index, reduction)
    if dtype := _autocast_dtype(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return alignment_loss(
                z.to(dtype),
                text,
                labels,
                weight=weight,
                logit_scale=logit_scale,
                label_smoothing=label_smoothing,
                ignore_index=ignore_index,
                reduction=reduction,
                backend=backend,
            )
    if text.dtype != z.dtype:
        text = text.to(z.dtype)
    compiling = torch.compiler.is_compiling()
    if compiling:
        name = choice.traced("alignment_loss", z.device.type, z.device.index, z.dtype, backend)
    else:
        text_gradient = torch.is_grad_enabled() and text.requires_grad
        name = choice.choose(choice.loss_problem(z, text, text_gradient), z.device, backend)
    whole = not compiling and schema.takes_whole(name, z, text, labels)
    if z.device.type == "cpu" and not compiling and not whole:
        checks.weights_and_scale(z, weight, logit_scale)
    if name == "reference":
        if z.device.type == "cpu" and not compiling:
            checks.classes(text, labels, ignore_index)
        return reference.alignment_loss(z, text, labels, weight, logit_scale, label_smoothing, ignore_index, reduction)
    if labels.dtype != torch.int64:
        labels = labels.long()
    scale_tensor = logit_scale if isinstance(logit_scale, Tensor) else None
    need = 0
    if torch.is_grad_enabled():
        need = (
            schema.Z * z.requires_grad
            | schema.TEXT * text.requires_grad
            | schema.SCALE * (scale_tensor is not None and scale_tensor.requires_grad)
            | schema.WEIGHT * (weight is not None and weight.requires_grad)
        )
    if whole and need == schema.Z and reduction != "none":
        return schema.AlignmentWhole.apply(
            z,
            schema.driver(name).alignment_whole,
            (text, labels, weight, float(logit_scale), label_smoothing, ignore_index, reduction, True, True),
        )
    args = (
        z,
        text,
        labels,
        weight,
        scale_tensor,
        0.0 if scale_tensor is not None else float(logit_scale),
        label_smoothing,
        ignore_index,
        reduction,
        need,
        name,
    )
    if compiling:
        return torch.ops.mmcl_fast.alignment_loss(*args)[0]
    return schema.AlignmentLoss.apply(*args) if need else schema.alignment_loss(*args)[0]


def realign(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, *, source: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Re-aligned embeddings e = normalize(z + sum_m gate_m (source down_m) up_m), unit rows [B, D] in z's
    dtype.

    z [B, D]; gate [B, M], any real numbers; down [M, Du, r]; up [M, r, D]; source [B, Du] (None: z itself, Du
    = D). All are computed in z's dtype. Differentiable in all five. Raises ValueError for shapes that do not
    fit.
    """
    checks.realign(z, gate, down, up, source)
    if dtype := _autocast_dtype(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return realign(z.to(dtype), gate, down, up, source=source, backend=backend)
    if torch.compiler.is_exporting():
        backend = "reference"
    if torch.compiler.is_compiling():
        name = choice.traced("realign", z.device.type, z.device.index, z.dtype, backend)
    else:
        name = choice.choose(choice.realign_problem(z, down), z.device, backend)
    gate, down, up = (x if x.dtype == z.dtype else x.to(z.dtype) for x in (gate, down, up))
    if source is not None and source.dtype != z.dtype:
        source = source.to(z.dtype)
    if name == "reference":
        return reference.realign(z, gate, down, up, source)
    if torch.compiler.is_compiling():
        return torch.ops.mmcl_fast.realign(z, gate, down, up, source, name)[0]
    args = (z, gate, down, up, source, name)
    graded = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in args[:5])
    return schema.Realign.apply(*args) if graded else schema.realign(*args)[0]


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
