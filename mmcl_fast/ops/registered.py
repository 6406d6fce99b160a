"""The operations as torch.library knows them: flat schemas, shapes for tracing, and autograd.

`torch.compile` and fake tensors see these. Schemas allow no records, so here alone the arguments are flat.
A compiled graph may hold the backend "auto", because its sizes may be symbols: each call then chooses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl_fast.ops.arguments import (
    NEEDS_TEXT,
    NEEDS_Z,
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignResult,
    gradient_dtype,
)
from mmcl_fast.ops.autograd import alignment_gradients, save_alignment
from mmcl_fast.ops.choice import choose, load_backend, loss_problem, realign_problem

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


def _alignment(*flat: Any) -> AlignmentResult:
    a, backend = AlignmentArguments.from_flat(*flat[:-1]), flat[-1]
    if backend == "auto":
        backend = choose(loss_problem(a.z, a.text, bool(a.needs & NEEDS_TEXT)), a.z.device)
    return load_backend(backend).alignment_loss(a)


def _alignment_shapes(*flat: Any) -> AlignmentResult:
    a = AlignmentArguments.from_flat(*flat[:-1])
    wide = torch.promote_types(a.z.dtype, torch.float32)
    z, row = a.z, a.z.new_empty(a.z.shape[0], dtype=wide)
    return AlignmentResult(
        row.clone() if a.reduction == "none" else row.new_empty(()),
        row,
        row.clone(),
        row.new_empty(()),
        z.new_empty(z.shape if a.needs & NEEDS_Z else (0,), dtype=gradient_dtype(z.dtype)),
        z.new_empty(a.text.shape if a.needs & NEEDS_TEXT else (0,), dtype=gradient_dtype(z.dtype)),
        row.clone(),
    )


def _save_alignment(ctx: Any, inputs: tuple, output: tuple) -> None:
    save_alignment(ctx, AlignmentArguments.from_flat(*inputs[:-1]), AlignmentResult(*output), inputs[-1])
    ctx.mark_non_differentiable(*output[1:])


@once_differentiable
def _alignment_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple:
    if grad is None:
        return (None,) * 11
    z, text, weight, scale = alignment_gradients(ctx, grad)
    return z, text, None, weight, scale, None, None, None, None, None, None


def _realign(*flat: Any) -> RealignResult:
    a, backend = RealignArguments(*flat[:-1]), flat[-1]
    if backend == "auto":
        backend = choose(realign_problem(a.z, a.down), a.z.device)
    return load_backend(backend).realign(a)


def _realign_shapes(*flat: Any) -> RealignResult:
    a = RealignArguments(*flat[:-1])
    inv = a.z.new_empty(a.z.shape[0], dtype=torch.promote_types(a.z.dtype, torch.float32))
    return RealignResult(a.z.new_empty(a.z.shape), inv, a.z.new_empty(a.z.shape[0], a.down.shape[0] * a.down.shape[2]))


def _split_backward(flat: tuple) -> tuple[Tensor, RealignResult, RealignArguments, int, str]:
    """Return (de, result, arguments, needs, backend) of realign_backward's flat arguments."""
    return flat[0], RealignResult(*flat[1:4]), RealignArguments(*flat[4:9]), flat[9], flat[10]


def _realign_backward(*flat: Any) -> tuple[Tensor, ...]:
    de, result, a, needs, backend = _split_backward(flat)
    if backend == "auto":
        backend = choose(realign_problem(a.z, a.down), a.z.device)
    return load_backend(backend).realign_backward(de, result, a, needs)


def _realign_backward_shapes(*flat: Any) -> tuple[Tensor, ...]:
    _, _, a, needs, _ = _split_backward(flat)
    shaped_like = (*a[:4], a.z if a.source is None else a.source)
    return tuple(x.new_empty(x.shape if needs & 1 << k else (0,)) for k, x in enumerate(shaped_like))


def _save_realign(ctx: Any, inputs: tuple, output: tuple) -> None:
    *arguments, ctx.backend = inputs
    ctx.save_for_backward(*output, *arguments)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])


@once_differentiable
def _realign_gradients(ctx: Any, de: Tensor | None, *_: Tensor | None) -> tuple:
    if de is None:
        return (None,) * 6
    wanted = ctx.needs_input_grad[:5]
    needs = sum(1 << k for k in range(5) if wanted[k])
    grads = torch.ops.mmcl_fast.realign_backward(de, *ctx.saved_tensors, needs, ctx.backend)
    return (*(g if asked else None for g, asked in zip(grads, wanted, strict=True)), None)


for _name, _run, _shapes in (
    ("alignment_loss", _alignment, _alignment_shapes),
    ("realign", _realign, _realign_shapes),
    ("realign_backward", _realign_backward, _realign_backward_shapes),
):
    for _key in ("CPU", "CUDA"):
        LIB.impl(_name, _run, _key)
    torch.library.register_fake(f"mmcl_fast::{_name}", _shapes, lib=LIB)
torch.library.register_autograd(
    "mmcl_fast::alignment_loss", _alignment_backward, setup_context=_save_alignment, lib=LIB
)
torch.library.register_autograd("mmcl_fast::realign", _realign_gradients, setup_context=_save_realign, lib=LIB)
