"""Transformer blocks with frozen weights that take prefix keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, prefix: Tensor | None = None,
           mask: Tensor | None = None) -> Tensor:
    """Multi-head attention over the block's own keys and values and a prefix of them.

    Args:
        q, k, v: ``[B, N, d]``.
        heads: number of heads; divides d.
        prefix: ``[2, L, d]`` or ``[B, 2, L, d]``, keys then values, put before k and v; visible to every query.
        mask: ``[B, N]`` bool, True where a key may be attended to.

    Returns:
        ``[B, N, d]``.
    """
    batch, length, width = q.shape
    if prefix is not None:
        if prefix.dim() == 3:
            prefix = prefix.unsqueeze(0).expand(batch, -1, -1, -1)
        prefix = prefix.to(q.dtype)
        k = torch.cat([prefix[:, 0], k], dim=1)
        v = torch.cat([prefix[:, 1], v], dim=1)
        if mask is not None:
            mask = F.pad(mask, (prefix.shape[2], 0), value=True)

    def split(x: Tensor) -> Tensor:
        return x.view(batch, x.shape[1], heads, width // heads).transpose(1, 2)

    bias = None if mask is None else mask[:, None, None, :]
    out = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=bias)
    return out.transpose(1, 2).reshape(batch, length, width)


def block_prefix(prefix: Tensor | None, block: int) -> Tensor | None:
    """The slice of a prefix ``[J, 2, L, d]`` or ``[B, J, 2, L, d]`` that belongs to one block."""
    if prefix is None or prefix.shape[-2] == 0:
        return None
    return prefix[block] if prefix.dim() == 4 else prefix[:, block]


class PreNormBlock(nn.Module):
    """Pre-norm block: x + attn(ln(x)), x + mlp(ln(x))."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, self.heads, prefix))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PostNormBlock(nn.Module):
    """BERT's block: ln(x + attn(x)), ln(x + mlp(x))."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.out(attend(self.q(x), self.k(x), self.v(x), self.heads, prefix, mask)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def sinusoid(position: Tensor, width: int, longest: float = 64.0) -> Tensor:
    """Sines and cosines of real positions: ``[...]`` -> ``[..., width]``; width is even."""
    rate = torch.exp(torch.arange(0, width, 2, device=position.device) * (-torch.log(torch.tensor(longest)) / width))
    angle = position.unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
