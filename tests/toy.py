"""A small encoder and a small stream of real files for tests of methods and of the loop."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.prompted_blocks import PreNormBlock, block_prefix
from mmcl_fast.media.spec import TextSpec, VisualSpec

WIDTH, DIM, QUERY = 16, 24, 24


class ToyEncoder(Encoder):
    """Random frozen weights: 8 x 8 patches of 32-pixel pictures, hashed words; two prompted blocks a tower."""

    def __init__(self, seed: int = 0):
        self.name, self.dim, self.query_dim, self.num_prompted_blocks, self.logit_scale = "toy", DIM, 2 * QUERY, 2, 10.0
        self.fingerprint = hashlib.sha256(f"toy {seed}".encode()).hexdigest()
        self.trunk_calls: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patch, self.words = torch.randn(192, WIDTH) * 0.1, torch.randn(997, WIDTH)
            self.query = {"vision": torch.randn(WIDTH, QUERY), "text": torch.randn(WIDTH, QUERY)}
            self.layers = {
                t: [PreNormBlock(WIDTH, 2, 32).requires_grad_(False) for _ in range(2)] for t in ("vision", "text")
            }
            self.out = torch.randn(WIDTH, DIM)

    def tower(self, modality):
        return "text" if modality == "text" else "vision"

    def prefix_width(self, modality):
        return WIDTH

    def spec(self, modality):
        return TextSpec() if modality == "text" else VisualSpec(modality=modality, size=32)

    @torch.no_grad()
    def trunk(self, batch, modality):
        self.trunk_calls += [modality] * len(batch)
        if modality == "text":
            ids = [[zlib.crc32(w.encode()) % 997 for w in t.split()[:16]] for t in batch]
            longest = max(map(len, ids))
            tokens = torch.stack([F.pad(self.words[i], (0, 0, 0, longest - len(i))) for i in ids])
            mask = torch.tensor([[True] * len(i) + [False] * (longest - len(i)) for i in ids])
            pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return Tokens(tokens, F.pad((pooled @ self.query["text"]).relu(), (QUERY, 0)), mask)
        tokens = F.unfold(batch[:, 0], 8, stride=8).transpose(1, 2) @ self.patch
        return Tokens(tokens, F.pad((tokens @ self.query["vision"]).relu().mean(1), (0, QUERY)))

    def head(self, tokens, prefix, modality):
        x, mask = tokens.tokens.float(), tokens.mask
        for j, block in enumerate(self.layers[self.tower(modality)]):
            x = block(x, block_prefix(prefix, j))
        weight = torch.ones(x.shape[:2]) if mask is None else mask.float()
        return (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True) @ self.out

    def text(self, texts):
        rows = [torch.randn(DIM, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts]
        return F.normalize(torch.stack(rows), dim=1)

    def trainable_modules(self):
        return [block for blocks in self.layers.values() for block in blocks]

    def to(self, device):
        return self


class ScaledEncoder(ToyEncoder):
    """The same function of tokens, with queries / c, keys * c, values * c and the output projection / c."""

    def __init__(self, c: float):
        super().__init__()
        with torch.no_grad():
            for block in self.layers["vision"]:
                for weight in (block.qkv.weight, block.qkv.bias):
                    q, k, v = weight.chunk(3)
                    q /= c
                    k *= c
                    v *= c
                block.out.weight /= c


def write_folder(
    root: Path,
    *,
    classes: int = 4,
    train: int = 8,
    test: int = 4,
    modalities: tuple[str, ...] = ("image", "depth", "text"),
) -> Path:
    """``root/<modality>/<split>/<class>/file``: noisy colours, noisy ramps, sentences of class words."""
    rng = np.random.default_rng(0)
    for modality in modalities:
        for c in range(classes):
            for split, count in (("train", train), ("val", 2), ("test", test)):
                folder = root / modality / split / f"class_{c}"
                folder.mkdir(parents=True)
                for i in range(count):
                    if modality == "text":
                        words = [f"word{c}{rng.integers(3)}" for _ in range(5)] + [f"noise{rng.integers(99)}"]
                        (folder / f"{i}.txt").write_text(f"{' '.join(words)} {split}{i}")
                    elif modality == "depth":
                        ramp = np.add.outer(np.arange(32) * (c + 1), np.arange(32) * (classes - c)) * 40 + 500
                        noisy = (ramp + rng.normal(0, 60, ramp.shape)).astype(np.uint16)
                        Image.fromarray(noisy).save(folder / f"{i}.png")
                    else:
                        colour = np.array([60 * c, 250 - 60 * c, 40 + 90 * (c % 2)])
                        noisy = np.clip(colour + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                        Image.fromarray(noisy).save(folder / f"{i}.png")
    return root
