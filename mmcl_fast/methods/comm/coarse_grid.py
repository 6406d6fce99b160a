"""Trunk tokens on a grid of half the side, for training that only has to say whether prompts pay."""

from __future__ import annotations

import math

import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens

LEAST_SIDE = 6  # of a grid that is made coarser: place needs a few cells


def halve_grid(tokens: Tokens, frames: int) -> Tokens:
    """Return tokens ``[B, F h h, width]`` on a grid of half the side, rounded up: averages over neighbouring cells.

    Tokens without a square grid are returned as they are, such as words, and so are small grids.

    Args:
        tokens: of B samples.
        frames: F, the frames of a sample.
    """
    count = tokens.tokens.shape[1]
    side = math.isqrt(count // frames)
    if tokens.mask is not None or side < LEAST_SIDE or frames * side * side != count:
        return tokens
    x = tokens.tokens.unflatten(1, (frames, side, side)).flatten(0, 1).permute(0, 3, 1, 2)
    x = F.adaptive_avg_pool2d(x, (side + 1) // 2).flatten(2).transpose(1, 2)
    return Tokens(x.unflatten(0, (-1, frames)).flatten(1, 2), tokens.query)
