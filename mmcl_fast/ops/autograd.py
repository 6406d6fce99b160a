"""From a checked call to a backend: casts, the choice of the backend, and autograd.

In eager mode a call runs a `torch.autograd.Function`, which costs half of a dispatched operation's time. Under
`torch.compile` it is a registered operation (registered.py). The reference needs neither: autograd sees through it.
The forward of the alignment loss gives its gradients too, so its backward only scales them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl_fast.ops import checks, choice
from mmcl_fast.ops.arguments import (
    NEEDS_SCALE,
    NEEDS_TEXT,
    NEEDS_WEIGHT,
    NEEDS_Z,
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignResult,
)
from mmcl_fast.ops.backends import reference
from mmcl_fast.ops.backends.protocol import Backend


def alignment_loss(a: AlignmentArguments, backend: str | None) -> Tensor:
    """Return the loss, differentiable in z, text, weight and scale. ``a.needs`` is found here."""
    if a.text.dtype != a.z.dtype:
        a = a._replace(text=a.text.to(a.z.dtype))
    z, text, labels, weight, scale, smoothing, ignore_index, reduction, _ = a
    compiling = torch.compiler.is_compiling()
    graded = torch.is_grad_enabled()
    device = z.device
    on_cpu = device.type == "cpu"
    if compiling:
        name = choice.traced("alignment_loss", device.type, device.index, z.dtype, backend)
        fused = False  # settled at every call: the sizes may be symbols here
    else:
        name = choice.choose(choice.loss_problem(z, text, graded and text.requires_grad), device, backend)
        chosen = choice.load_backend(name)
        fused = chosen.fuses(z, text, labels)
        if on_cpu and not fused:
            checks.weights_and_scale(z, weight, scale)
    if name == "reference":
        if on_cpu and not compiling:
            checks.classes(text, labels, ignore_index)
        return reference.alignment_loss(a)
    if labels.dtype != torch.int64:
        labels = labels.long()
    needs = 0
    if graded:
        needs = (
            NEEDS_Z * z.requires_grad
            | NEEDS_TEXT * text.requires_grad
            | NEEDS_SCALE * (isinstance(scale, Tensor) and scale.requires_grad)
            | NEEDS_WEIGHT * (weight is not None and weight.requires_grad)
        )
    a = AlignmentArguments(z, text, labels, weight, scale, smoothing, ignore_index, reduction, needs)
    if compiling:
        return torch.ops.mmcl_fast.alignment_loss(*a.flat(), name)[0]
    if not needs:
        return chosen.loss_and_dz(a)[0] if fused else chosen.alignment_loss(a).loss
    if fused and needs == NEEDS_Z and reduction != "none":
        return FusedAlignmentLoss.apply(z, a, chosen)
    return AlignmentLoss.apply(z, text, weight, scale, a, chosen)


def realign(a: RealignArguments, backend: str | None) -> Tensor:
    """Return the unit rows, differentiable in every tensor of ``a``."""
    z, gate, down, up, source = a
    dtype = z.dtype
    compiling = torch.compiler.is_compiling()
    if torch.compiler.is_exporting():
        backend = "reference"  # an exported program must not depend on mmcl_fast
    if compiling:
        name = choice.traced("realign", z.device.type, z.device.index, dtype, backend)
    else:
        name = choice.choose(choice.realign_problem(z, down), z.device, backend)
    if (
        gate.dtype != dtype
        or down.dtype != dtype
        or up.dtype != dtype
        or (source is not None and source.dtype != dtype)
    ):
        a = RealignArguments(
            z, gate.to(dtype), down.to(dtype), up.to(dtype), None if source is None else source.to(dtype)
        )
    if name == "reference":
        return reference.realign(a)
    if compiling:
        return torch.ops.mmcl_fast.realign(*a, name)[0]
    chosen = choice.load_backend(name)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in a):
        return Realignment.apply(*a, chosen)
    return chosen.realign(a).e


def save_alignment(ctx: Any, a: AlignmentArguments, result: AlignmentResult, backend: str) -> None:
    """Keep in ctx what ``alignment_gradients`` reads."""
    scale = a.scale if isinstance(a.scale, Tensor) else None
    # "none" computes d text anew: the upstream gradient of each row is a factor inside its sum.
    again = (a.z, a.text) if a.needs & NEEDS_TEXT and a.reduction == "none" else ()
    ctx.save_for_backward(*result, a.labels, a.weight, scale, *again)
    ctx.options = (0.0 if scale is not None else float(a.scale), *a[5:], backend)
    ctx.dtype = a.z.dtype
    ctx.set_materialize_grads(False)


def alignment_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of z, text, weight and scale; ``grad`` is the gradient of the loss, () or (B,)."""
    loss, row_loss, weights, norm, dz, dtext, dscale, labels, weight, scale, *again = ctx.saved_tensors
    *_, ignore_index, reduction, needs, _ = ctx.options
    row_grad = grad * norm * weights
    grad_z = grad_text = grad_weight = grad_scale = None
    if needs & NEEDS_Z:
        grad_z = (dz * row_grad[:, None]).to(ctx.dtype)
    if needs & NEEDS_SCALE:
        grad_scale = torch.dot(row_grad, dscale).to(scale)
    if needs & NEEDS_WEIGHT:  # mean: d(sum w CE / sum w)/dw_i = (CE_i - loss) / sum w
        excess = torch.where(labels != ignore_index, row_loss - loss, 0.0) if reduction == "mean" else row_loss
        grad_weight = (grad * norm * excess).to(weight.dtype)
    if needs & NEEDS_TEXT and reduction != "none":
        grad_text = (dtext * grad).to(ctx.dtype)
    elif needs & NEEDS_TEXT:
        z, text = again
        grad_text = _text_gradient_of_rows(ctx, z, text, labels, row_grad, scale).to(ctx.dtype)
    return grad_z, grad_text, grad_weight, grad_scale


def _text_gradient_of_rows(
    ctx: Any, z: Tensor, text: Tensor, labels: Tensor, row_grad: Tensor, scale: Tensor | None
) -> Tensor:
    """Return d (sum_i row_grad_i CE_i) / d text; a registered operation, since a compiled backward comes here too."""
    scale_value, smoothing, ignore_index, _, _, backend = ctx.options
    options = (scale_value, smoothing, ignore_index, "sum", NEEDS_TEXT, backend)
    return torch.ops.mmcl_fast.alignment_loss(z, text, labels, row_grad, scale, *options)[5]


class AlignmentLoss(torch.autograd.Function):
    """The alignment loss in eager mode, with any gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        text: Tensor,
        weight: Tensor | None,
        scale: float | Tensor,
        a: AlignmentArguments,
        backend: Backend,
    ) -> Tensor:
        # z, text, weight and scale are also fields of a: autograd only tracks tensors that are arguments themselves.
        result = backend.alignment_loss(a)
        save_alignment(ctx, a, result, backend.name)
        return result.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 6
        return (*alignment_gradients(ctx, grad), None, None)


class FusedAlignmentLoss(torch.autograd.Function):
    """The alignment loss where one kernel gives the loss and d loss / d z, and z alone needs a gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: AlignmentArguments, backend: Backend) -> Tensor:
        loss, ctx.dz = backend.loss_and_dz(a)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if torch.is_grad_enabled():  # create_graph: the result must refuse a second derivative
            return once_differentiable(lambda _, g: (ctx.dz * g, None, None))(ctx, grad)
        return ctx.dz * grad, None, None


class Realignment(torch.autograd.Function):
    """The re-alignment in eager mode."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None, backend: Backend
    ) -> Tensor:
        a = RealignArguments(z, gate, down, up, source)
        result = backend.realign(a)
        ctx.save_for_backward(*result, *a)
        ctx.set_materialize_grads(False)
        ctx.backend = backend
        return result.e

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, de: Tensor | None) -> tuple:
        if de is None:
            return (None,) * 6
        e, inv, h, *arguments = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:5]
        needs = sum(1 << k for k in range(5) if wanted[k])
        grads = ctx.backend.realign_backward(de, RealignResult(e, inv, h), RealignArguments(*arguments), needs)
        return (*(g if asked else None for g, asked in zip(grads, wanted, strict=True)), None)
