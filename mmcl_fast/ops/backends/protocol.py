"""The protocol that every backend implements. The module of each backend holds one instance, ``BACKEND``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mmcl_fast.ops.arguments import (
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignGradients,
    RealignResult,
)


class Backend(Protocol):
    """Forward and backward of both operations, without autograd.

    All tensors of a call lie on one device and have z's dtype. The exceptions are labels (int64), weight and scale.
    Statistics of rows are float32; the reference returns float64 for float64.
    """

    name: str

    def alignment_loss(self, a: AlignmentArguments) -> AlignmentResult:
        """Return the loss and the gradients that ``a.needs`` asks for.

        On the CPU it raises ValueError for a label that is neither a class nor ``ignore_index``.
        """
        ...

    def fuses(self, z: Tensor, text: Tensor, labels: Tensor) -> bool:
        """Return whether one kernel computes this whole loss.

        Such a kernel raises ValueError for bad labels, weights and scales, so nobody checks them before.
        """
        return False

    def loss_and_dz(self, a: AlignmentArguments) -> tuple[Tensor, Tensor]:
        """Return the loss and d loss / d z (B, D), which is empty unless ``a.needs`` is NEEDS_Z.

        Called only where ``fuses`` is true and ``a.needs`` is 0 or NEEDS_Z; in the latter case for a mean or a sum.
        """
        refusal = f"backend {self.name!r} has no kernel for the whole loss"
        raise NotImplementedError(refusal)

    def realign(self, a: RealignArguments) -> RealignResult:
        """Return the unit rows and what ``realign_backward`` needs."""
        ...

    def realign_backward(self, de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
        """Return the gradients of z, gate, down, up and source, given de (B, D), the gradient of ``result.e``.

        Bit k of ``needs`` asks for the k-th gradient; the others are empty.
        """
        ...
