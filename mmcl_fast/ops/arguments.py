"""Records that every backend takes and returns: one for each operation's arguments, one for its result.

Letters: B rows, C classes, D width, Du width of the source, M modalities, r rank of each modality.
They are named tuples because a small call builds two: a frozen dataclass of nine fields takes 0.6 us, a tuple 0.2 us.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Bits of `needs`: the gradients that a call of the alignment loss must return.
NEEDS_Z, NEEDS_TEXT, NEEDS_SCALE, NEEDS_WEIGHT = 1, 2, 4, 8


class AlignmentArguments(NamedTuple):
    """The arguments of one alignment loss; ``mmcl_fast.ops.alignment_loss`` documents them."""

    z: Tensor  # (B, D)
    text: Tensor  # (C, D), in z's dtype when a backend gets it
    labels: Tensor  # (B,), int64 when a backend gets them
    weight: Tensor | None  # (B,)
    scale: float | Tensor  # the logit scale; a tensor is 0-d
    label_smoothing: float
    ignore_index: int
    reduction: str  # "mean", "sum" or "none"
    needs: int = 0  # NEEDS_Z | NEEDS_TEXT | NEEDS_SCALE | NEEDS_WEIGHT

    def flat(self) -> tuple:
        """Return the arguments in the order of the registered schema, which has two places for the scale."""
        is_tensor = isinstance(self.scale, Tensor)
        return (*self[:4], self.scale if is_tensor else None, 0.0 if is_tensor else float(self.scale), *self[5:])

    @classmethod
    def from_flat(cls, *flat: Any) -> AlignmentArguments:
        """Return the record of a registered schema's arguments, the inverse of ``flat``."""
        return cls._make((*flat[:4], flat[5] if flat[4] is None else flat[4], *flat[6:]))


class AlignmentResult(NamedTuple):
    """The loss and what its backward needs. A gradient that ``needs`` does not ask for is empty."""

    loss: Tensor  # () or, with reduction "none", (B,)
    row_loss: Tensor  # (B,), the unweighted cross-entropy CE_i
    weights: Tensor  # (B,), w_i; 0 for ignored rows
    norm: Tensor  # (), 1 / sum_i w_i for "mean", else 1
    dz: Tensor  # (B, D), d CE_i / d z_i in gradient_dtype
    dtext: Tensor  # (C, D), d loss / d text in gradient_dtype
    dscale: Tensor  # (B,), d CE_i / d scale


class RealignArguments(NamedTuple):
    """The arguments of one re-alignment; ``mmcl_fast.ops.realign`` documents them."""

    z: Tensor  # (B, D)
    gate: Tensor  # (B, M)
    down: Tensor  # (M, Du, r)
    up: Tensor  # (M, r, D)
    source: Tensor | None  # (B, Du); None: z


class RealignResult(NamedTuple):
    """The unit rows and what their backward needs."""

    e: Tensor  # (B, D), unit rows
    inv: Tensor  # (B,) float32, 1 / |v| of the unnormalised row v
    h: Tensor  # (B, M r), source [down_1 .. down_M]


# Gradients of z, gate, down, up and source. Bit k of `needs` asks for the k-th; the others are empty.
RealignGradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of gradients that the upstream gradient has not scaled yet.

    float16 gives float32: a gradient scaler multiplies by about 2^16 afterwards, so small float16 values would be lost.
    """
    return torch.float32 if dtype == torch.float16 else dtype
