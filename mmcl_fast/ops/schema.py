"""The operations as torch sees them: one schema each, fakes and autograd beside it; backends compute below.

The forward of `alignment_loss` gives the loss and its gradients in one pass, so its backward only scales
them. In eager mode the same functions run as `torch.autograd.Function`, which costs half of a dispatched
operation's time; `torch.compile` sees the registered operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl_fast.ops import checks
from mmcl_fast.ops.backends.common import gradient_dtype
from mmcl_fast.ops.choice import choose, driver, loss_problem, realign_problem

Z, TEXT, SCALE, WEIGHT = 1, 2, 4, 8  # bits of `need` of alignment_loss
LIB = torch.library.Library("mmcl_fast", "DEF")
LIB.define(
    "alignment_loss(Tensor z, Tensor text, Tensor labels, Tensor? weight, Tensor? logit_scale, float scale, "
    "float label_smoothing, int ignore_index, str reduction, int need, str backend) "
    "-> (Tensor loss, Tensor rows, Tensor weights, Tensor norm, Tensor dz, Tensor dtext, Tensor dscale)"
)
LIB.define(
    "realign(Tensor z, Tensor gate, Tensor down, Tensor up, Tensor? source, str backend) "
    "-> (Tensor e, Tensor inv, Tensor h)"
)
LIB.define(
    "realign_backward(Tensor de, Tensor e, Tensor inv, Tensor h, Tensor z, Tensor gate, Tensor down, Tensor up, "
    "Tensor? source, int need, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def takes_whole(backend: str, z: Tensor, text: Tensor, labels: Tensor) -> bool:
    """Whether one call computes everything: it looks at labels and weights itself, and can give dloss/dz at once."""
    return backend == "cpp" and driver(backend).takes_whole(z, text, labels)


def alignment_loss(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    logit_scale: Tensor | None,
    scale: float,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    need: int,
    backend: str,
) -> tuple[Tensor, ...]:
    """Loss; CE_i, w_i [B]; 1 / sum w (or 1); dCE_i/dz_i [B, D]; d loss/d text [C, D]; dCE_i/d scale [B].

    `scale` is used where `logit_scale` is None. Gradients that `need` does not ask for are empty; those of float16 are
    float32 until the upstream gradient scales them.
    """
    if backend == "auto":  # a compiled graph leaves it to the sizes of the call
        backend = choose(loss_problem(z, text, bool(need & TEXT)), z.device)
    if not need & TEXT and takes_whole(backend, z, text, labels):
        loss, stats, dz = driver(backend).alignment_whole(
            z,
            text,
            labels,
            weight,
            scale if logit_scale is None else float(logit_scale.detach()),
            label_smoothing,
            ignore_index,
            reduction,
            bool(need & Z),
            False,
        )
        rows, weights, dscale, norm = (x.clone() for x in (*stats[:-1].view(3, -1), stats[-1]))
        return loss, rows, weights, norm, dz, z.new_empty(0), dscale
    if z.device.type == "cpu":  # here and not before the call: kernels of a compiled graph read by label, too
        checks.classes(text, labels, ignore_index)
    weights = (labels != ignore_index).float()
    if weight is not None:
        weights = torch.where(weights > 0, weight.float(), weights)
    norm = weights.new_ones(())
    if reduction == "mean":
        total = weights.sum()
        norm = torch.where(total > 0, 1 / total, 0.0)
    coef = weights * norm if need & TEXT else None
    rows, dz, dtext, dscale = driver(backend).alignment_rows(
        z,
        text,
        labels,
        coef,
        scale if logit_scale is None else logit_scale.detach().to(z.device, torch.float32),
        label_smoothing,
        ignore_index,
        bool(need & Z),
    )
    loss = rows * weights if reduction == "none" else torch.dot(rows, weights) * norm
    return loss, rows, weights, norm, dz, dtext, dscale


def _alignment_fake(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    logit_scale: Tensor | None,
    scale: float,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    need: int,
    backend: str,
) -> tuple[Tensor, ...]:
    row, one = ((z.shape[0],), torch.float32), ((), torch.float32)
    shapes = [
        row if reduction == "none" else one,
        row,
        row,
        one,
        (z.shape if need & Z else (0,), gradient_dtype(z.dtype)),
        (text.shape if need & TEXT else (0,), gradient_dtype(text.dtype)),
        row,
    ]
    return tuple(z.new_empty(shape, dtype=dtype) for shape, dtype in shapes)


def _alignment_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    z, text, labels, weight, logit_scale, scale, smoothing, ignore_index, reduction, need, backend = inputs
    loss, rows, weights, norm, dz, dtext, dscale = output
    again = (z, text) if need & TEXT and reduction == "none" else ()
    ctx.save_for_backward(loss, rows, weights, norm, dz, dtext, dscale, labels, weight, logit_scale, *again)
    ctx.args = (scale, smoothing, ignore_index, reduction, need, backend)
    ctx.dtype = z.dtype
    ctx.set_materialize_grads(False)


def _alignment_registered_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    _alignment_setup(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


@once_differentiable
def _alignment_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    grad = grads[0]
    if grad is None:
        return (None,) * 11
    scale, smoothing, ignore_index, reduction, need, backend = ctx.args
    loss, rows, weights, norm, dz, dtext, dscale, labels, weight, logit_scale, *again = ctx.saved_tensors
    row_grad = grad * norm * weights
    grad_z = grad_text = grad_weight = grad_scale = None
    if need & Z:
        grad_z = (dz * row_grad[:, None]).to(ctx.dtype)
    if need & SCALE:
        grad_scale = torch.dot(row_grad, dscale).to(logit_scale)
    if need & WEIGHT:  # mean: d(sum w CE / sum w)/dw_i = (CE_i - loss) / sum w
        above = torch.where(labels != ignore_index, rows - loss, 0.0) if reduction == "mean" else rows
        grad_weight = (grad * norm * above).to(weight.dtype)
    if need & TEXT and reduction != "none":
        grad_text = (dtext * grad).to(ctx.dtype)
    elif need & TEXT:
        z, text = again
        grad_text = torch.ops.mmcl_fast.alignment_loss(
            z, text, labels, row_grad, logit_scale, scale, smoothing, ignore_index, "sum", TEXT, backend
        )[5].to(ctx.dtype)
    return grad_z, grad_text, None, grad_weight, grad_scale, None, None, None, None, None, None


def realign(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D]; 1 / |v| [B] float32; h = source [down_1 .. down_M] [B, M r]"""
    if backend == "auto":
        backend = choose(realign_problem(z, down), z.device)
    return driver(backend).realign_forward(z, gate, down, up, source)


def _realign_fake(
    z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        z.new_empty(z.shape),
        z.new_empty(z.shape[0], dtype=torch.float32),
        z.new_empty(z.shape[0], down.shape[0] * down.shape[2]),
    )


def realign_backward(
    de: Tensor,
    e: Tensor,
    inv: Tensor,
    h: Tensor,
    z: Tensor,
    gate: Tensor,
    down: Tensor,
    up: Tensor,
    source: Tensor | None,
    need: int,
    backend: str,
) -> tuple[Tensor, ...]:
    """Gradients of z, gate, down, up, source: bit k of `need` asks for the k-th, the others are empty."""
    if backend == "auto":
        backend = choose(realign_problem(z, down), z.device)
    return driver(backend).realign_backward(de, e, inv, h, z, gate, down, up, source, need)


def _realign_backward_fake(
    de: Tensor,
    e: Tensor,
    inv: Tensor,
    h: Tensor,
    z: Tensor,
    gate: Tensor,
    down: Tensor,
    up: Tensor,
    source: Tensor | None,
    need: int,
    backend: str,
) -> tuple[Tensor, ...]:
    of = (z, gate, down, up, z if source is None else source)
    return tuple(x.new_empty(x.shape if need & 1 << k else (0,)) for k, x in enumerate(of))


def _realign_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    z, gate, down, up, source, ctx.backend = inputs
    e, inv, h = output
    ctx.save_for_backward(e, inv, h, z, gate, down, up, source)
    ctx.set_materialize_grads(False)


def _realign_registered_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    _realign_setup(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def _realign_grads(run: Callable[..., tuple[Tensor, ...]], ctx: Any, de: Tensor | None) -> tuple:
    if de is None:
        return (None,) * 6
    wanted = ctx.needs_input_grad[:5]
    need = sum(1 << k for k in range(5) if wanted[k])
    grads = run(de, *ctx.saved_tensors, need, ctx.backend)
    return (*(g if asked else None for g, asked in zip(grads, wanted, strict=True)), None)


@once_differentiable
def _realign_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    return _realign_grads(torch.ops.mmcl_fast.realign_backward, ctx, grads[0])


@once_differentiable
def _realign_eager_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    return _realign_grads(realign_backward, ctx, grads[0])


class AlignmentLoss(torch.autograd.Function):
    """The eager road past the dispatcher; the same forward and backward as the registered operation."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = alignment_loss(*inputs)
        _alignment_setup(ctx, inputs, output)
        return output[0]

    backward = staticmethod(_alignment_backward)  # type: ignore[assignment]  # once_differentiable drops names


class AlignmentWhole(torch.autograd.Function):
    """Where one call `takes_whole`, and only z wants a gradient of the mean or the sum: it is there already."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, run: Callable[..., tuple[Tensor, ...]], arguments: tuple) -> Tensor:
        loss, _, ctx.dz = run(z, *arguments)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if torch.is_grad_enabled():  # asked for a gradient that can be differentiated again: it cannot
            return once_differentiable(lambda _, g: (ctx.dz * g, None, None))(ctx, grad)
        return ctx.dz * grad, None, None


class Realign(torch.autograd.Function):
    """The eager road past the dispatcher; the same forward and backward as the registered operation."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = realign(*inputs)
        _realign_setup(ctx, inputs, output)
        return output[0]

    backward = staticmethod(_realign_eager_backward)  # type: ignore[assignment]


for _name, _run, _fake in (
    ("alignment_loss", alignment_loss, _alignment_fake),
    ("realign", realign, _realign_fake),
    ("realign_backward", realign_backward, _realign_backward_fake),
):
    for _key in ("CPU", "CUDA"):
        LIB.impl(_name, _run, _key)
    torch.library.register_fake(f"mmcl_fast::{_name}", _fake, lib=LIB)
torch.library.register_autograd(
    "mmcl_fast::alignment_loss", _alignment_backward, setup_context=_alignment_registered_setup, lib=LIB
)
torch.library.register_autograd(
    "mmcl_fast::realign", _realign_backward, setup_context=_realign_registered_setup, lib=LIB
)
