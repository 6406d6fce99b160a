"""Samples on disk, and a cache whose shards are small, for the tests of the feature cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.streams.sample import Sample
from tests.toy import ToyEncoder


def pictures(folder: Path, count: int, seed: int = 0) -> list[Sample]:
    """Noise, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        file = folder / f"{i:03}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        out.append(Sample("image", "a", file, None, "train", f"image/{file.name}"))
    return out


def texts(count: int) -> list[Sample]:
    """Of one to seven words."""
    words = [" ".join(f"word{i}{j}" for j in range(1 + i % 7)) for i in range(count)]
    return [Sample("text", "a", None, text, "train", f"text/{i}") for i, text in enumerate(words)]


def ask(
    folder: Path | None,
    samples: list[Sample],
    encoder: ToyEncoder | None = None,
    *,
    views: int = 1,
    seed: int = 0,
    batch: int | None = 1,
    **options,
) -> tuple[Tokens, int]:
    """Tokens from a new cache object, and how many samples its trunk has seen (with batch=1 none is counted twice)."""
    encoder = encoder or ToyEncoder()
    tokens = FeatureCache(folder, batch=batch, **options).tokens(encoder, samples, views=views, seed=seed)
    return tokens, len(encoder.trunk_calls)


def same(one: Tokens, two: Tokens) -> bool:
    masks = (one.mask is None) == (two.mask is None) and (one.mask is None or torch.equal(one.mask, two.mask))
    return masks and torch.equal(one.tokens, two.tokens) and torch.equal(one.query, two.query)
