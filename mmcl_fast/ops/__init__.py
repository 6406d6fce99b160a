"""The package's two operations: `alignment_loss` and `realign`.

Backends: `reference` (plain PyTorch, the definition), `cpp` (CPU), `triton` and `cuda` (GPU). `backend="auto"` (the
default) chooses by device, dtype and shape; the environment variable MMCL_FAST_BACKEND forces one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.ops import checks, reference

__all__ = ["alignment_loss", "realign"]


def alignment_loss(z: Tensor, text: Tensor, labels: Tensor, *, weight: Tensor | None = None,
                   logit_scale: float | Tensor, label_smoothing: float = 0.0, ignore_index: int = -100,
                   reduction: str = "mean", backend: str | None = None) -> Tensor:
    """sum_i w_i CE(s cos(z_i, T), y_i) / sum_i w_i"""
    checks.alignment_loss(z, text, labels, weight, logit_scale, label_smoothing, ignore_index, reduction)
    return reference.alignment_loss(z, text, labels, weight, logit_scale, label_smoothing, ignore_index, reduction)


def realign(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, *, source: Tensor | None = None,
            backend: str | None = None) -> Tensor:
    """normalize(z + sum_m gate_m (source down_m) up_m)"""
    checks.realign(z, gate, down, up, source)
    return reference.realign(z, gate, down, up, source)
