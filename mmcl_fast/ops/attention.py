"""Attention over a prefix and a frozen block's own keys and values.

On the CPU: batched matrix products, in bfloat16 where the block's matrices are, and between them the softmax rows of
mmcl_fast._C. torch's own bfloat16 attention there has a backward that costs many times its forward. Where only the
prefix asks for gradients (the first prompted block, whose input is frozen), only its few columns are differentiated.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast._extension import compiled, load
from mmcl_fast.ops.backends.cpp_products import DTYPES, threads_for


@cache
def _widest() -> int:
    """Columns of a row that mmcl_fast._C's softmax takes; 0 where it is not there."""
    return getattr(load()[0], "ATTENTION_COLUMNS", 0)


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
    """Multi-head softmax(scale q k') v over [prefix; k] and [prefix; v].

    Args:
        q, k, v: ``[B, N, d]``, one float dtype.
        heads: number of heads; divides d.
        prefix: ``[2, L, d]`` or ``[B, 2, L, d]``, keys then values, seen by every query; taken to q's dtype.
        mask: ``[B, N]`` bool, True where a key may be attended to.
        causal: token i sees tokens <= i and the whole prefix.
        scale: None: ``(d / heads) ** -0.5``.

    Returns:
        ``[B, N, d]``.
    """
    scale = (q.shape[2] // heads) ** -0.5 if scale is None else scale
    if prefix is not None and prefix.shape[-2] == 0:
        prefix = None
    length = 0 if prefix is None else prefix.shape[-2]
    own = (
        not torch.compiler.is_exporting()
        and q.device.type == "cpu"
        and q.dtype in DTYPES
        and q.shape[1] + length <= _widest()
    )
    if prefix is not None:
        prefix = prefix.to(q.dtype)
        if not own and prefix.dim() == 3:
            prefix = prefix.expand(q.shape[0], *prefix.shape)
    if own:
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
    """``[B, N, d]`` -> ``[B h, N, d / h]``, contiguous."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _merge(x: Tensor, heads: int) -> Tensor:
    """The inverse of ``_split``."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
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
        hidden = None
        if mask is not None:
            hidden = F.pad(mask, (length, 0), value=True).to(torch.uint8).contiguous()
        compiled().softmax_rows(
            p.data_ptr(),
            0 if hidden is None else hidden.data_ptr(),
            rows,
            cols,
            heads * count,
            count,
            length if causal else -1,
            scale,
            DTYPES[p.dtype],
            threads_for(p.numel()),
        )
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
            width, along = p.shape[2], None
        else:  # only the prefix's columns
            width, along = length, (grad.float() * out.float()).sum(2)
        d = torch.bmm(grad, v[:, :width].transpose(1, 2))
        lib.softmax_back(
            p.data_ptr(),
            d.data_ptr(),
            0 if along is None else along.data_ptr(),
            p.shape[2],
            rows,
            width,
            scale,
            DTYPES[p.dtype],
            threads_for(d.numel()),
        )
        dv = torch.bmm(p[:, :, :width].transpose(1, 2), grad)
        dk = torch.bmm(d.transpose(1, 2), q)
        dprefix = None
        if ctx.needs_input_grad[3]:
            dprefix = torch.stack([_merge(dk[:, :length], heads), _merge(dv[:, :length], heads)], dim=1)
            if shared:
                dprefix = dprefix.sum(0)
        if along is not None:
            return None, None, None, dprefix, None, None, None, None
        return (
            _merge(torch.bmm(d, k), heads),
            _merge(dk[:, length:], heads),
            _merge(dv[:, length:], heads),
            dprefix,
            None,
            None,
            None,
            None,
        )
