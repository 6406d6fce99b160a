"""The operations' competitors: plain torch, torch.compile and other libraries, beside our backends.

A maker takes the inputs and returns a function that runs forward and backward once. It raises CannotRun if it cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import ops
from mmcl_fast.ops import choice
from mmcl_fast.ops.backends.common import concatenate_modalities

Maker = Callable[..., Callable[[], None]]


class CannotRun(Exception):
    """A competitor that is not installed, or does not compute the case; the message says why."""


def import_rival(module: str, attribute: str):
    """Return an attribute of a competitor's module; raises CannotRun if it is missing."""
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, OSError) as error:
        raise CannotRun(f"not installed ({str(error).splitlines()[0]})") from error
    except AttributeError as error:
        raise CannotRun(f"this version has no {attribute}") from error


def require_gpu(z: Tensor) -> None:
    """Raise CannotRun unless z is on a GPU."""
    if z.device.type != "cuda":
        raise CannotRun("needs a GPU")


def _step(loss: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], None]:
    """Return a function that runs the loss forward and backward."""

    def run() -> None:
        for x in leaves:
            x.grad = None
        loss().backward()

    return run


def check_backend(name: str, z: Tensor) -> None:
    """Raise CannotRun if this backend of ours is not available or does not compute on z's device."""
    if why := choice.refusal(name, z.device, z.dtype):
        raise CannotRun(why)


def our_loss(name: str) -> Maker:
    """Return the maker of one of our backends."""

    def make(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
        check_backend(name, z)
        return _step(lambda: ops.alignment_loss(z, text, y, logit_scale=s, backend=name), (z, text))

    return make


def _plain_loss(z: Tensor, text: Tensor, y: Tensor, s: float) -> Tensor:
    return F.cross_entropy(s * (F.normalize(z, dim=1) @ F.normalize(text, dim=1).T), y)


def eager(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    return _step(lambda: _plain_loss(z, text, y, s), (z, text))


def compiled(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    torch._dynamo.reset()
    function = torch.compile(_plain_loss, dynamic=False)
    return _step(lambda: function(z, text, y, s), (z, text))


def gemms(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    """The matrix products alone, with the whole B x C array: two, or three with the text's gradient."""
    a, t = z.detach(), text.detach()

    def run() -> None:
        x = a @ t.T
        x @ t
        if text.requires_grad:
            x.T @ a

    return run


def _linear_loss(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Maker:
    """Return the maker of a loss that takes hidden states and a weight matrix; it normalises and scales before."""

    def make(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
        return _step(lambda: function(F.normalize(z, dim=1) * s, F.normalize(text, dim=1), y), (z, text))

    return make


def torch_linear(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    return _linear_loss(import_rival("torch.nn.functional", "linear_cross_entropy"))(z, text, y, s)


def liger(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    require_gpu(z)
    module = import_rival("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")()
    return _linear_loss(lambda h, w, y: module(w, h, y))(z, text, y, s)


def liger_flsce(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    require_gpu(z)
    if z.dtype != torch.bfloat16:
        raise CannotRun("bfloat16 only")
    for module in (
        "liger_kernel.ops.cutedsl.fused_linear_softmax_cross_entropy",
        "liger_kernel.transformers.functional",
    ):
        try:
            function = import_rival(module, "liger_fused_linear_softmax_cross_entropy")
        except CannotRun:
            continue
        return _linear_loss(function)(z, text, y, s)
    raise CannotRun("this liger-kernel has no FLSCE")


def quack(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    require_gpu(z)
    function = import_rival("quack.linear_cross_entropy", "chunked_linear_cross_entropy")
    return _linear_loss(function)(z, text, y, s)


def cce(filtered: bool) -> Maker:
    """Return the maker of Apple's cut cross-entropy, with its filter of small gradients or exact."""

    def make(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
        require_gpu(z)
        function = import_rival("cut_cross_entropy", "linear_cross_entropy")
        kind = "cce" if filtered else "cce_exact"
        return _linear_loss(lambda h, w, y: function(h, w, y, impl=kind))(z, text, y, s)

    return make


def inf_cl(z: Tensor, text: Tensor, y: Tensor, s: float) -> Callable[[], None]:
    require_gpu(z)
    if z.shape[0] != text.shape[0]:
        raise CannotRun("contrastive: needs as many texts as rows")
    function = import_rival("inf_cl", "cal_inf_loss")
    return _step(lambda: function(z, text, scale=torch.tensor(s, device=z.device)), (z, text))


GEMMS = "bare GEMMs"  # the matrix products and nothing else

LOSS: dict[str, Maker] = {
    "cpp": our_loss("cpp"),
    "triton": our_loss("triton"),
    "cuda": our_loss("cuda"),
    GEMMS: gemms,
    "eager": eager,
    "torch.compile": compiled,
    "F.linear_cross_entropy": torch_linear,
    "Liger FLCE": liger,
    "Liger FLSCE": liger_flsce,
    "QuACK": quack,
    "CCE exact": cce(False),
    "CCE filtered": cce(True),
    "Inf-CL": inf_cl,
}


def _our_realign(name: str, leaves: dict[str, Tensor], de: Tensor) -> Callable[[], None]:
    check_backend(name, leaves["z"])
    return _realign_step(functools.partial(ops.realign, backend=name), leaves, de)


def _realign_step(function: Callable[..., Tensor], leaves: dict[str, Tensor], de: Tensor) -> Callable[[], None]:
    def run() -> None:
        for x in leaves.values():
            x.grad = None
        function(**leaves).backward(de)

    return run


def realign_loop(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None = None) -> Tensor:
    u = z if source is None else source
    return F.normalize(z + sum(gate[:, m : m + 1] * (u @ down[m] @ up[m]) for m in range(len(down))), dim=1)


def realign_concatenated(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None = None) -> Tensor:
    u = z if source is None else source
    m, du, r = down.shape
    h = u @ down.permute(1, 0, 2).reshape(du, m * r)
    h = (h.view(-1, m, r) * gate[:, :, None]).view(-1, m * r)
    return F.normalize(z + h @ up.reshape(m * r, -1), dim=1)


def realign_gemms(leaves: dict[str, Tensor], de: Tensor) -> Callable[[], None]:
    """The six matrix products of the concatenated form alone, forward and backward."""
    z, down, up = (leaves[name].detach() for name in ("z", "down", "up"))
    u = leaves["source"].detach() if "source" in leaves else z
    a, w = concatenate_modalities(down, up)

    def run() -> None:
        h = u @ a
        h @ w
        dh = de @ w.T
        h.T @ de
        dh @ a.T
        u.T @ dh

    return run


def realign_makers(leaves: dict[str, Tensor], de: Tensor) -> dict[str, Callable[[], Callable[[], None]]]:
    """Return the makers of every form of realign by name."""
    torch._dynamo.reset()
    made: dict[str, Callable[[], Callable[[], None]]] = {
        name: functools.partial(_our_realign, name, leaves, de) for name in ("cpp", "triton", "cuda")
    }
    made[GEMMS] = functools.partial(realign_gemms, leaves, de)
    for name, function in (
        ("loop", realign_loop),
        ("concatenated", realign_concatenated),
        ("torch.compile", torch.compile(realign_concatenated, dynamic=False)),
    ):
        made[name] = functools.partial(_realign_step, function, leaves, de)
    return made
