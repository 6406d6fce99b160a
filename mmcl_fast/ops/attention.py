"""Multi-head attention over a learned prefix and a frozen block's keys and values.

On the CPU it alternates torch's batched matrix products with the softmax kernels of mmcl_fast._C. There the backward of
torch's bfloat16 attention costs many times its forward. Elsewhere it is torch's scaled_dot_product_attention.

If the prefix alone needs a gradient, the backward computes only the prefix's columns. That is the case in the first
prompted block, whose input is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast._extension import compiled, load
from mmcl_fast.ops.backends.cpp_products import DTYPES, threads_for


@cache
def _most_columns() -> int:
    """Return how many columns a row of mmcl_fast._C's softmax may have; 0 if it was not compiled."""
    return getattr(load()[0], "ATTENTION_COLUMNS", 0)


_measured: ContextVar[list[Tensor] | None] = ContextVar("measured", default=None)


@contextmanager
def measure_keys_and_values() -> Iterator[list[Tensor]]:
    """Inside, every call of ``prefix_attention`` in this thread appends the size of its keys and values.

    Yields:
        A list that gets a tensor ``[2]`` for each call: the root mean squares of k and of v, float32.
    """
    out: list[Tensor] = []
    token = _measured.set(out)
    try:
        yield out
    finally:
        _measured.reset(token)


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    prefix: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Multi-head attention softmax(scale q k') v over the keys [prefix; k] and the values [prefix; v].

    Args:
        q, k, v: ``[B, N, d]``, one float dtype.
        heads: number of heads; divides d.
        prefix: ``[2, L, d]`` or ``[B, 2, L, d]``, keys then values, seen by every query; cast to q's dtype.
        mask: ``[B, N]`` bool, True where a key may be attended to.
        causal: token i sees tokens <= i and the whole prefix.
        scale: None: ``(d / heads) ** -0.5``.

    Returns:
        ``[B, N, d]``.
    """
    if not torch.compiler.is_compiling() and (sizes := _measured.get()) is not None:
        sizes.append(torch.stack([x.detach().float().square().mean().sqrt() for x in (k, v)]))
    scale = (q.shape[2] // heads) ** -0.5 if scale is None else scale
    if prefix is not None and prefix.shape[-2] == 0:
        prefix = None
    length = 0 if prefix is None else prefix.shape[-2]
    compiled_softmax = (
        not torch.compiler.is_exporting()
        and q.device.type == "cpu"
        and q.dtype in DTYPES
        and q.shape[1] + length <= _most_columns()
    )
    if prefix is not None:
        prefix = prefix.to(q.dtype)
        if not compiled_softmax and prefix.dim() == 3:
            prefix = prefix.expand(q.shape[0], *prefix.shape)
    if compiled_softmax:
        return _Attention.apply(q, k, v, prefix, mask, heads, causal, scale)
    if prefix is not None:
        before_k, before_v = prefix.unbind(1)
        k, v = torch.cat([before_k, k], dim=1), torch.cat([before_v, v], dim=1)
    bias = None
    if mask is not None:
        bias = F.pad(mask, (length, 0), value=True)[:, None, None, :]
    if causal:
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(length)
        bias = seen if bias is None else bias & seen
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).transpose(1, 2).flatten(2)


def _split(x: Tensor, heads: int) -> Tensor:
    """Turn ``[B, N, d]`` into ``[B h, N, d / h]``, contiguous."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _merge(x: Tensor, heads: int) -> Tensor:
    """Turn ``[B h, N, d / h]`` into ``[B, N, d]``, the inverse of ``_split``."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
    """Attention with P = softmax(scale Q K') from mmcl_fast._C.

    With dP = dO V' and D = rowsum(dO * O) the score's gradient is dS = scale P (dP - D) (FlashAttention, Dao 2022).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prefix: Tensor | None,
        mask: Tensor | None,
        heads: int,
        causal: bool,
        scale: float,
    ) -> Tensor:
        batch, count, _ = q.shape
        length = 0 if prefix is None else prefix.shape[-2]
        if prefix is not None:
            before = prefix.expand(batch, -1, -1, -1)
            k, v = torch.cat([before[:, 0], k], dim=1), torch.cat([before[:, 1], v], dim=1)
        q, k, v = (_split(x, heads) for x in (q, k, v))
        p = torch.bmm(q, k.transpose(1, 2))
        rows, cols = p.shape[0] * count, p.shape[2]
        visible = None
        if mask is not None:
            visible = F.pad(mask, (length, 0), value=True).to(torch.uint8).contiguous()
        compiled().softmax_rows(  # in place
            p.data_ptr(), 0 if visible is None else visible.data_ptr(), rows, cols, heads * count, count,
            length if causal else -1, scale, DTYPES[p.dtype], threads_for(p.numel()),
        )  # fmt: skip
        out = torch.bmm(p, v)
        ctx.save_for_backward(q, k, v, p, out)
        ctx.sizes = heads, length, scale, prefix is not None and prefix.dim() == 3
        return _merge(out, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p, out = ctx.saved_tensors
        heads, length, scale, shared = ctx.sizes
        grad = _split(grad.to(q.dtype), heads)
        lib, rows = compiled(), p.shape[0] * p.shape[1]
        if any(ctx.needs_input_grad[:3]):
            width, row_sums = p.shape[2], None
        else:  # only the prefix's columns, so the kernel cannot sum D over a whole row
            width, row_sums = length, (grad.float() * out.float()).sum(2)
        d = torch.bmm(grad, v[:, :width].transpose(1, 2))
        lib.softmax_back(
            p.data_ptr(), d.data_ptr(), 0 if row_sums is None else row_sums.data_ptr(), p.shape[2], rows, width,
            scale, DTYPES[p.dtype], threads_for(d.numel()),
        )  # fmt: skip
        dv = torch.bmm(p[:, :, :width].transpose(1, 2), grad)
        dk = torch.bmm(d.transpose(1, 2), q)
        dprefix = None
        if ctx.needs_input_grad[3]:
            dprefix = torch.stack([_merge(dk[:, :length], heads), _merge(dv[:, :length], heads)], dim=1)
            if shared:
                dprefix = dprefix.sum(0)
        if row_sums is not None:
            return None, None, None, dprefix, None, None, None, None
        return (
            _merge(torch.bmm(d, k), heads),
            _merge(dk[:, length:], heads),
            _merge(dv[:, length:], heads),
            dprefix,
            *(None,) * 4,
        )
