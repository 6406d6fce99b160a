"""Checks of an operation's arguments. Every message names the argument and the shapes that disagree.

The checks of shapes never read a tensor's values, so they do not wait for a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.ops.arguments import AlignmentArguments, RealignArguments

REDUCTIONS = ("mean", "sum", "none")


def _shape(x: Tensor) -> str:
    """Return the shape as text: "[4, 6]"."""
    return f"[{', '.join(map(str, x.shape))}]"


def _floats(name: str, x: Tensor, ndim: int, want: str) -> None:
    """Raise ValueError unless x is a floating-point tensor with ``ndim`` dimensions; ``want`` is its shape in words."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor {want}, not {type(x).__name__}")
    if x.dim() != ndim:
        raise ValueError(f"{name} must have shape {want}, got {_shape(x)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor {want}, got {x.dtype} {_shape(x)}")


def _same_device(name: str, x: Tensor, z: Tensor) -> None:
    """Raise ValueError unless x is on z's device."""
    if x.device != z.device:
        raise ValueError(f"{name} {_shape(x)} is on {x.device} but z {_shape(z)} is on {z.device}")


def alignment_loss(a: AlignmentArguments) -> None:
    """Raise ValueError for shapes, dtypes, devices and options that do not fit."""
    z, text, labels, weight, logit_scale, label_smoothing, _, reduction, _ = a
    _floats("z", z, 2, "[B, D]")
    _floats("text", text, 2, "[C, D]")
    if z.shape[1] != text.shape[1]:
        raise ValueError(f"text {_shape(text)} and z {_shape(z)} must have the same width D")
    if not z.shape[0]:
        raise ValueError(f"z {_shape(z)} is an empty batch; text is {_shape(text)}")
    if not text.shape[0]:
        raise ValueError(f"text {_shape(text)} has no classes; z is {_shape(z)}")
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.shape[0] != z.shape[0]:
        got = _shape(labels) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must have shape [B] for z {_shape(z)}, got {got}")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels {_shape(labels)} must be int64 or int32 for z {_shape(z)}, got {labels.dtype}")
    _same_device("text", text, z)
    _same_device("labels", labels, z)
    if weight is not None:
        _floats("weight", weight, 1, "[B]")
        if weight.shape[0] != z.shape[0]:
            raise ValueError(f"weight {_shape(weight)} must have one number per row of z {_shape(z)}")
        _same_device("weight", weight, z)
    if isinstance(logit_scale, Tensor) and (logit_scale.dim() or not logit_scale.is_floating_point()):
        raise ValueError(
            "logit_scale must be a float or a 0-d floating-point tensor, "
            f"got {logit_scale.dtype} "
            f"{_shape(logit_scale)} for z {_shape(z)}"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def classes(text: Tensor, labels: Tensor, ignore_index: int) -> None:
    """Raise ValueError for a label that is neither a class nor ``ignore_index``; only for the CPU."""
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or high >= text.shape[0]:
        bad = (labels != ignore_index) & ((labels < 0) | (labels >= text.shape[0]))
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"labels {_shape(labels)}: row {row} holds {int(labels[row])}, "
                f"but text {_shape(text)} has classes 0 to {text.shape[0] - 1} (ignore_index is {ignore_index})"
            )


def weights_and_scale(z: Tensor, weight: Tensor | None, logit_scale: float | Tensor) -> None:
    """Raise ValueError for a negative weight or a scale that is not positive; only for the CPU."""
    if weight is not None and not float(weight.detach().min()) >= 0:
        raise ValueError(f"weight {_shape(weight)} must not hold negative numbers or NaN (z is {_shape(z)})")
    scale = float(logit_scale.detach() if isinstance(logit_scale, Tensor) else logit_scale)
    if not scale > 0:
        raise ValueError(f"logit_scale must be positive, got {scale} for z {_shape(z)}")


def realign(a: RealignArguments) -> None:
    """Raise ValueError for wrong ranks, widths, devices or numbers of modalities."""
    z, gate, down, up, source = a
    _floats("z", z, 2, "[B, D]")
    _floats("gate", gate, 2, "[B, M]")
    _floats("down", down, 3, "[M, Du, r]")
    _floats("up", up, 3, "[M, r, D]")
    if not z.shape[0]:
        raise ValueError(f"z {_shape(z)} is an empty batch; gate is {_shape(gate)}")
    if gate.shape[0] != z.shape[0]:
        raise ValueError(f"gate {_shape(gate)} must have one row per row of z {_shape(z)}")
    if gate.shape[1] != down.shape[0]:
        raise ValueError(f"gate {_shape(gate)} must have one column per modality of down {_shape(down)}")
    if not down.shape[0] or not down.shape[2]:
        raise ValueError(f"down {_shape(down)} needs at least one modality and one rank; up is {_shape(up)}")
    if up.shape[0] != down.shape[0] or up.shape[1] != down.shape[2]:
        raise ValueError(f"up {_shape(up)} and down {_shape(down)} must agree in M and r")
    if up.shape[2] != z.shape[1]:
        raise ValueError(f"up {_shape(up)} must end in the width of z {_shape(z)}")
    _floats("source", z if source is None else source, 2, "[B, Du]")
    u = z if source is None else source
    if u.shape[0] != z.shape[0]:
        raise ValueError(f"source {_shape(u)} must have one row per row of z {_shape(z)}")
    if u.shape[1] != down.shape[1]:
        name = "z (source is None)" if source is None else "source"
        raise ValueError(f"down {_shape(down)} must have the width of {name} {_shape(u)} as its second size")
    for name, x in (("gate", gate), ("down", down), ("up", up), ("source", u)):
        _same_device(name, x, z)
