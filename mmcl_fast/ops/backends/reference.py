"""The `reference` backend: both operations in plain PyTorch, the definition that every other backend is tested against.

`alignment_loss` and `realign` are differentiable by autograd to any order. float64 gives float64; half precision is
computed in float32. All B x C logits are in memory at once, so it is for the definition and for small problems.

`BACKEND` adds the first derivatives as formulas, for the registered operations, which autograd cannot see through.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.ops import checks
from mmcl_fast.ops.arguments import (
    NEEDS_TEXT,
    NEEDS_Z,
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignGradients,
    RealignResult,
    gradient_dtype,
)
from mmcl_fast.ops.backends.common import concatenate_modalities
from mmcl_fast.ops.backends.protocol import Backend

EPS = 1e-12  # as torch.nn.functional.normalize: rows shorter than this are divided by it


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _weights(a: AlignmentArguments, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight of each row (B,), 0 where ``valid`` is false."""
    return valid.to(dtype) if a.weight is None else torch.where(valid, a.weight.to(dtype), 0)


def alignment_loss(a: AlignmentArguments) -> Tensor:
    """Return sum_i w_i CE(s cos(z_i, T), y_i) / sum_i w_i, a sum or rows, as ``a.reduction`` says."""
    unit, texts = (F.normalize(_wide(x), dim=1, eps=EPS) for x in (a.z, a.text))
    logits = a.scale * (unit @ texts.T)
    valid = a.labels != a.ignore_index
    target = torch.where(valid, a.labels, 0)
    log_p = torch.log_softmax(logits, dim=1)
    rows = -log_p.gather(1, target[:, None]).squeeze(1)
    if a.label_smoothing:
        rows = (1 - a.label_smoothing) * rows - a.label_smoothing * log_p.mean(1)
    coef = _weights(a, valid, rows.dtype)
    rows = torch.where(valid, rows, 0) * coef
    if a.reduction == "none":
        return rows
    total = rows.sum()
    if a.reduction == "sum":
        return total
    norm = coef.sum()
    # The inner where keeps 0 / 0 out of the backward: its NaN would pass through the outer one.
    return torch.where(norm > 0, total / torch.where(norm > 0, norm, 1), 0 * total)


def realign(a: RealignArguments) -> Tensor:
    """Return normalize(z + sum_m gate_m (source down_m) up_m), in z's dtype."""
    u = _wide(a.z if a.source is None else a.source)
    shift = torch.einsum("bu,mur,bm,mrd->bd", u, _wide(a.down), _wide(a.gate), _wide(a.up))
    return F.normalize(_wide(a.z) + shift, dim=1, eps=EPS).to(a.z.dtype)


class ReferenceBackend(Backend):
    """First derivatives as formulas. With unit rows u of z and t of the texts, and p = softmax(s u t'):

    d CE_i / d logit_ic = g_ic = p_ic - target_ic, and d CE_i / d z_i = s / |z_i| (o_i - (o_i . u_i) u_i), o = g t.
    """

    name = "reference"

    def alignment_loss(self, a: AlignmentArguments) -> AlignmentResult:
        if a.z.device.type == "cpu":
            checks.classes(a.text, a.labels, a.ignore_index)
        z, text = _wide(a.z), _wide(a.text)
        inv_z, inv_t = (1 / x.norm(dim=1, keepdim=True).clamp_min(EPS) for x in (z, text))
        unit, texts = z * inv_z, text * inv_t
        scale = a.scale.detach().to(z.device, z.dtype) if isinstance(a.scale, Tensor) else a.scale
        logits = scale * (unit @ texts.T)
        valid = a.labels != a.ignore_index
        onehot = F.one_hot(torch.where(valid, a.labels, 0), len(text)).to(z.dtype)
        target = (1 - a.label_smoothing) * onehot + a.label_smoothing / len(text)
        row_loss = torch.where(valid, -(target * torch.log_softmax(logits, dim=1)).sum(1), 0)
        weights = _weights(a, valid, z.dtype)
        total = weights.sum()
        norm = torch.where(total > 0, 1 / total, 0.0) if a.reduction == "mean" else torch.ones_like(total)
        loss = row_loss * weights if a.reduction == "none" else torch.dot(row_loss, weights) * norm
        g = torch.where(valid[:, None], torch.softmax(logits, dim=1) - target, 0)
        o = g @ texts
        dscale = (o * unit).sum(1)
        dz = dtext = z.new_empty(0)
        if a.needs & NEEDS_Z:
            dz = scale * inv_z * (o - dscale[:, None] * unit)
        if a.needs & NEEDS_TEXT:
            o_text = g.T @ (unit * (weights * norm)[:, None])
            dtext = scale * inv_t * (o_text - (o_text * texts).sum(1, keepdim=True) * texts)
        dtype = gradient_dtype(a.z.dtype)
        return AlignmentResult(loss, row_loss, weights, norm, dz.to(dtype), dtext.to(dtype), dscale)

    def realign(self, a: RealignArguments) -> RealignResult:
        z, u = _wide(a.z), _wide(a.z if a.source is None else a.source)
        down, up = concatenate_modalities(_wide(a.down), _wide(a.up))
        h = u @ down
        v = z + (h * _wide(a.gate).repeat_interleave(a.down.shape[2], dim=1)) @ up
        inv = 1 / v.norm(dim=1).clamp_min(EPS)
        return RealignResult((v * inv[:, None]).to(a.z.dtype), inv, h.to(a.z.dtype))

    def realign_backward(self, de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
        (m, du, r), u = a.down.shape, _wide(a.z if a.source is None else a.source)
        de, e, h = (_wide(x) for x in (de, result.e, result.h))
        down, up = concatenate_modalities(_wide(a.down), _wide(a.up))
        gate = _wide(a.gate).repeat_interleave(r, dim=1)
        dv = result.inv[:, None] * (de - (de * e).sum(1, keepdim=True) * e)
        dscaled = dv @ up.T  # the gradient of h gate
        dgate = (dscaled * h).view(-1, m, r).sum(2)
        dh = dscaled * gate
        ddown = (u.T @ dh).view(du, m, r).permute(1, 0, 2)
        dup = ((h * gate).T @ dv).view(m, r, -1)
        dsource = dh @ down.T
        dz = dv + dsource if a.source is None else dv
        dz, dgate, ddown, dup, dsource = (
            x.to(a.z.dtype).contiguous() if needs & 1 << k else a.z.new_empty(0)
            for k, x in enumerate((dz, dgate, ddown, dup, dsource))
        )
        return dz, dgate, ddown, dup, dsource


BACKEND = ReferenceBackend()
