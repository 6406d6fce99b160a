"""Transformer blocks with frozen weights that take prefix keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.errors import ConfigError
from mmcl_fast.ops.attention import prefix_attention


def block_prefix(prefix: Tensor | None, block: int) -> Tensor | None:
    """Return one block's slice of a prefix ``[J, 2, L, d]`` or ``[B, J, 2, L, d]``; None for an empty prefix."""
    if prefix is None or prefix.shape[-2] == 0:
        return None
    return prefix[block] if prefix.dim() == 4 else prefix[:, block]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return ``layer(x)``, computed in the dtype of the layer's weights."""
    return layer(x.to(layer.weight.dtype))


def set_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the matrices of a module to ``dtype``; norms, embeddings and the residual stream stay as they are."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.to(dtype)


def head_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a head's matrix products.

    Args:
        precision: ``fp32``, ``bf16``, or ``auto``: bfloat16 where the hardware multiplies it. That is a CUDA GPU, or a
            CPU with AMX or AVX512_BF16.
        device: the head's device.

    Raises:
        ConfigError: ``precision`` has another value.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision = {precision!r}: use auto, fp32 or bf16")
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16
        # Private functions, which a later torch may lack: then the answer is float32.
        tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return torch.bfloat16 if any(getattr(torch.cpu, name, bool)() for name in tests) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


class PreNormBlock(nn.Module):
    """A pre-norm block: x + attn(ln(x)), then x + mlp(ln(x))."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor:
        q, k, v = linear(self.qkv, self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(prefix_attention(q, k, v, self.heads, prefix))
        return x + self.down(F.gelu(linear(self.up, self.norm2(x))))


class PostNormBlock(nn.Module):
    """A post-norm block as in BERT: ln(x + attn(x)), then ln(x + mlp(x))."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        low = x.to(self.q.weight.dtype)  # converted once for three products
        mixed = prefix_attention(self.q(low), self.k(low), self.v(low), self.heads, prefix, mask)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(linear(self.up, x))))


def sinusoid(position: Tensor, width: int, longest: float = 64.0) -> Tensor:
    """Return sines and cosines ``[..., width]`` of real positions ``[...]``; width is even."""
    rate = torch.exp(torch.arange(0, width, 2, device=position.device) * (-torch.log(torch.tensor(longest)) / width))
    angle = position.unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
