"""Both operations in plain PyTorch: the definition that every other backend is measured against.

Differentiable by autograd, to any order; float64 in, float64 out. Half precision is computed in float32.
Makes the whole B x C array of logits, so it is for definition and for small problems.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12  # as torch.nn.functional.normalize: rows shorter than this are divided by it


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def alignment_loss(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    logit_scale: float | Tensor,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """sum_i w_i CE(s cos(z_i, T), y_i) / sum_i w_i; see `mmcl_fast.ops.alignment_loss` for the arguments."""
    unit, texts = (F.normalize(_wide(x), dim=1, eps=EPS) for x in (z, text))
    logits = logit_scale * (unit @ texts.T)
    valid = labels != ignore_index
    target = torch.where(valid, labels, 0)
    log_p = torch.log_softmax(logits, dim=1)
    rows = -log_p.gather(1, target[:, None]).squeeze(1)
    if label_smoothing:
        rows = (1 - label_smoothing) * rows - label_smoothing * log_p.mean(1)
    coef = valid.to(rows.dtype) if weight is None else torch.where(valid, weight.to(rows.dtype), 0)
    rows = torch.where(valid, rows, 0) * coef
    if reduction == "none":
        return rows
    total = rows.sum()
    if reduction == "sum":
        return total
    norm = coef.sum()
    return torch.where(norm > 0, total / torch.where(norm > 0, norm, 1), 0 * total)


def realign(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None) -> Tensor:
    """normalize(z + sum_m gate_m (source down_m) up_m); see `mmcl_fast.ops.realign` for the arguments."""
    u = _wide(z if source is None else source)
    shift = torch.einsum("bu,mur,bm,mrd->bd", u, _wide(down), _wide(gate), _wide(up))
    return F.normalize(_wide(z) + shift, dim=1, eps=EPS).to(z.dtype)
