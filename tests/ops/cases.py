"""Shared by the tests of the operations: the truth in float64, plain torch in a dtype, and the bound for errors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import ops

# The bound: err(kernel) <= 3 err(torch in the same dtype) + EPS, relative to the largest true value.
EPS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def eager_loss(
    z: Tensor,
    text: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    logit_scale: float | Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The loss as a user would write it in plain torch, in the dtype of z."""
    logits = logit_scale * (F.normalize(z, dim=1, eps=1e-6) @ F.normalize(text, dim=1, eps=1e-6).T)
    rows = F.cross_entropy(
        logits, labels.long(), label_smoothing=label_smoothing, ignore_index=ignore_index, reduction="none"
    )
    w = (labels != ignore_index).to(rows.dtype) if weight is None else weight * (labels != ignore_index)
    rows = rows * w
    return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.sum() / w.sum()


def eager_realign(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, *, source: Tensor | None = None) -> Tensor:
    """The re-alignment as a loop over modalities, in the dtype of z."""
    u = z if source is None else source
    return F.normalize(z + sum(gate[:, m : m + 1] * (u @ down[m] @ up[m]) for m in range(len(down))), dim=1)


def results(function, tensors: dict[str, Tensor], fixed: dict, dtype: torch.dtype, upstream: Tensor) -> dict:
    """Return output and gradients of function(**tensors, **fixed), computed in dtype, as float64."""
    leaves = {
        k: v.detach().to(dtype) if v.dtype != dtype else v.detach().clone(memory_format=torch.preserve_format)
        for k, v in tensors.items()
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    out = function(**leaves, **fixed)
    out.backward(upstream.to(out.dtype).reshape(out.shape))
    return {"out": out.detach().double()} | {k: v.grad.double() for k, v in leaves.items()}


def compare(kernel: dict, eager: dict, truth: dict, dtype: torch.dtype, what: str = "") -> None:
    """Assert the bound for every output and gradient."""
    for name, true in truth.items():
        assert kernel[name].shape == true.shape
        size = true.abs().max()
        if size < 1e-12:  # truly zero: one rounding of the output is allowed
            assert kernel[name].abs().max() <= EPS[dtype] * (1 + truth["out"].abs().max()), f"{what} {name} is not 0"
            continue
        err, base = ((x[name] - true).abs().max() / size for x in (kernel, eager))
        assert err <= 3 * base + EPS[dtype], f"{what} {name}: error {err:.2e}, torch in {dtype} {base:.2e}"


def loss_inputs(b: int, c: int, d: int, seed: int = 0, spread: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    """Return z and text, and labels. z lies near its class text, so logits are peaked as in training.

    Values are exact in bfloat16.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, c, (b,), generator=g)
    text = torch.randn(c, d, generator=g)
    z = spread * torch.randn(b, d, generator=g) + text[labels]
    return {"z": z.bfloat16().double(), "text": text.bfloat16().double()}, labels


def realign_inputs(b: int, d: int, du: int | None, m: int, r: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of a re-alignment; du: the width of the source, or None for no source."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"z": (b, d), "gate": (b, m), "down": (m, du or d, r), "up": (m, r, d)}
    if du:
        shapes["source"] = (b, du)
    scale = {"down": (du or d) ** -0.5, "up": r**-0.5}
    return {k: (torch.randn(s, generator=g) * scale.get(k, 1.0)).bfloat16().double() for k, s in shapes.items()}


def check_loss(
    backend: str,
    dtype: torch.dtype,
    b: int,
    c: int,
    d: int,
    *,
    grads: tuple[str, ...] = ("z",),
    scale: float = 20.0,
    spread: float = 1.0,
    weighted: bool = False,
    ignored: bool = False,
    device: str = "cpu",
    **fixed,
) -> None:
    """Assert the bound for a loss; grads: the arguments that want gradients, fixed: further arguments."""
    tensors, labels = loss_inputs(b, c, d, spread=spread)
    g = torch.Generator().manual_seed(1)
    if ignored:
        labels[torch.rand(b, generator=g) < 0.3] = -100
        labels[0] = 0
    tensors["weight"] = torch.rand(b, generator=g).bfloat16().double() + 0.5 if weighted else torch.ones(b).double()
    tensors["logit_scale"] = torch.tensor(scale).double()
    tensors = {k: v.to(device) for k, v in tensors.items()}
    fixed = fixed | {"labels": labels.to(device)}
    upstream = torch.randn(b if fixed.get("reduction") == "none" else 1, generator=g).double().to(device)
    constant = {k: v for k, v in tensors.items() if k not in grads}
    free = {k: v for k, v in tensors.items() if k in grads}

    def call(function, run_dtype: torch.dtype) -> dict:
        rest = {k: v.to(run_dtype) for k, v in constant.items()}
        return results(function, free, fixed | rest, run_dtype, upstream)

    truth, eager = call(eager_loss, torch.float64), call(eager_loss, dtype)
    kernel = call(lambda **k: ops.alignment_loss(**k, backend=backend), dtype)
    compare(kernel, eager, truth, dtype, f"{backend} {b}x{c}x{d}")


def check_realign(
    backend: str, dtype: torch.dtype, b: int, d: int, du: int | None, m: int, r: int, device: str = "cpu"
) -> None:
    """Assert the bound for a re-alignment with all gradients."""
    tensors = {k: v.to(device) for k, v in realign_inputs(b, d, du, m, r).items()}
    upstream = torch.randn(b, d, generator=torch.Generator().manual_seed(1)).double().to(device)
    truth = results(eager_realign, tensors, {}, torch.float64, upstream)
    eager = results(eager_realign, tensors, {}, dtype, upstream)
    kernel = results(lambda **k: ops.realign(**k, backend=backend), tensors, {}, dtype, upstream)
    compare(kernel, eager, truth, dtype, f"{backend} {b}x{d} source {du} M {m} r {r}")
