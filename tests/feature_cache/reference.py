"""Fingerprints of the corpus: a few hundred rounded numbers that summarise its decoded and encoded values.

A fingerprint differs by more than its tolerance after small changes. Examples are an image shifted by a pixel, another
filter, and a statistic that changes by half a percent. Between processors and instruction sets it differs by less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.feature_cache.versions import feature_versions
from mmcl_fast.media import VisualSpec, decode
from mmcl_fast.streams.sample import Sample

CORPUS = Path(__file__).parent / "corpus"
STORED = Path(__file__).parent / "reference.json"
VERSIONS_FILE = "mmcl_fast/feature_cache/versions.py"
STORE_COMMAND = "python -m tests.feature_cache.store_reference"
# Decoded values are from -1 to 1; the others are compared relative to their size. Instruction sets round a pixel to
# different levels here and there, which moves the features of a smooth image by up to 2 %. So the trunk is also run on
# computed inputs, where it must agree as closely as decoded values do.
TOLERANCE = {"decoded": 1.5e-3, "encoded": 3e-2, "trunk": 1.5e-3}
CELLS = 5  # decoded values are averaged over CELLS x CELLS parts of a frame
DIRECTIONS = 12  # numbers that an encoded tensor is projected to
MODALITY_OF = {
    **dict.fromkeys((".jpg", ".webp", ".tiff"), "image"),
    **dict.fromkeys((".mp4", ".webm"), "video"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".m4a"), "audio"),
    **dict.fromkeys((".npy", ".pfm", ".exr"), "depth"),
    ".txt": "text",
}
MODALITIES = ("image", "video", "audio", "depth", "text")


def samples_of(modality: str) -> list[Sample]:
    """Return the corpus files of one modality as samples, in the order of their names."""
    chosen = []
    for file in sorted(CORPUS.iterdir()):
        by_name = {"depth.png": "depth", "moving.gif": "video"}.get(file.name)
        if modality == (by_name or MODALITY_OF.get(file.suffix, "image")):
            chosen.append(Sample(modality, "a", file, None, "train", f"{modality}/{file.name}"))
    return chosen


def fingerprints(encoder: Encoder, modality: str, samples: Sequence[Sample] | None = None) -> dict[str, list[float]]:
    """Return ``{"file, view v, decoded or encoded": numbers}`` for the plain view and one random view.

    Without ``samples``, the corpus is summarised, and the trunk's output for computed inputs too.
    """
    found = {} if samples else {"computed inputs, trunk": list(summarise_tokens(trunk_of_computed(encoder, modality)))}
    samples = samples_of(modality) if samples is None else samples
    views = 1 if modality == "text" else 2
    tokens = FeatureCache(None, workers=1).tokens(encoder, samples, views=views, seed=3)
    for view in range(views):
        for i, sample in enumerate(samples):
            name = f"{sample.path.name}, view {view}"
            value = decode(sample.path, modality, encoder.spec(modality), view=view, seed=3, key=sample.key)
            if isinstance(value, Tensor):
                found[f"{name}, decoded"] = list(summarise_frames(value))
            found[f"{name}, encoded"] = list(summarise_tokens(tokens[view * len(samples) + i]))
    return found


def trunk_of_computed(encoder: Encoder, modality: str) -> Tokens:
    """Run the trunk on two inputs that do not come from a decoder: waves of many lengths, or two sentences."""
    if modality == "text":
        return encoder.trunk(["a dog runs over the bridge", "rain, wind and fog in November"], modality)
    spec = encoder.spec(modality)
    assert isinstance(spec, VisualSpec)
    shape = spec.shape
    place = torch.arange(2 * math.prod(shape))
    waves = torch.cos(place.double() * 0.0123456) + torch.cos(place.double().sqrt() * 1.7)
    return encoder.trunk((waves / 2).float().view(2, *shape), modality)


def summarise_frames(frames: Tensor) -> Iterator[float]:
    """Summarise ``[F, 3, H, W]``: mean values of cells, and mean steps between neighbours along rows and columns.

    A shift moves the means of cells. A change of the resize filter moves the steps, which are high where the frame
    is sharp. Of a clip, the first frame is summarised by itself, and the mean of each frame after it.
    """
    first = frames[:1].double()
    pooled = F.adaptive_avg_pool2d(first, CELLS).flatten()
    across = F.adaptive_avg_pool2d((first[..., 1:] - first[..., :-1]).abs(), CELLS // 2).flatten()
    down = F.adaptive_avg_pool2d((first[..., 1:, :] - first[..., :-1, :]).abs(), CELLS // 2).flatten()
    later = F.adaptive_avg_pool2d(frames[1:].double(), CELLS // 2).flatten()
    for value in torch.cat([pooled, 8 * across, 8 * down, later]).tolist():
        yield round(value, 4)


def summarise_tokens(tokens: Tokens) -> Iterator[float]:
    """Summarise tokens ``[N, d]`` and query ``[Dq]``: their size, then projections on fixed cosines.

    A cosine over all positions tells the order of the tokens and of their channels.
    """
    real = tokens.tokens if tokens.mask is None else tokens.tokens[tokens.mask]  # padding depends on the other samples
    for tensor in (real, tokens.query):
        values = tensor.double().flatten()
        yield float(f"{values.square().mean().sqrt().item():.5g}")
        place = torch.arange(len(values), dtype=torch.float64)
        for k in range(DIRECTIONS):
            cosine = torch.cos(place * (0.7548776662 * (k + 1)) + k)
            yield float(f"{(values @ cosine / len(values) ** 0.5).item():.5g}")


def differences(stored: dict[str, list[float]], found: dict[str, list[float]]) -> dict[str, float]:
    """Return the items that differ by more than the tolerance, each with its difference as a share of the tolerance."""
    wrong = {name: float("inf") for name in stored.keys() ^ found.keys()}
    for name in stored.keys() & found.keys():
        one, two = torch.tensor(stored[name]), torch.tensor(found[name])
        if one.shape != two.shape:
            wrong[name] = float("inf")
            continue
        kind = name.rpartition(" ")[2]
        scale = torch.ones(()) if kind == "decoded" else _scales(one)
        excess = ((one - two).abs() / scale / TOLERANCE[kind]).max().item()
        if excess > 1:
            wrong[name] = excess
    return wrong


def _scales(summary: Tensor) -> Tensor:
    """Return the size that each number of an encoded summary is compared with: the root mean square of its tensor."""
    return summary[:: DIRECTIONS + 1].repeat_interleave(DIRECTIONS + 1)


def advice(modality: str, changed: dict[str, float]) -> str:
    """Return the message for numbers that changed under an unchanged version."""
    worst = ", ".join(f"{name} ({factor:.1f} x tolerance)" for name, factor in sorted(changed.items())[:4])
    return (
        f"{len(changed)} fingerprints of {modality} changed, first {worst}: cached features would be wrong. "
        f"If the change is wanted, raise the version of {modality!r} in {VERSIONS_FILE}, "
        f"then run {STORE_COMMAND} to store the new values"
    )


def current_versions(encoder: Encoder, modality: str) -> dict[str, str]:
    """Return the versions that the cache's key holds here, without the instruction set of the compiled kernels."""
    versions = feature_versions(encoder, modality, decoder="cpu")
    versions["kernels"] = "none" if versions.get("kernels") == "none" else "compiled"
    return versions


def read() -> dict[str, Any]:
    return json.loads(STORED.read_text(encoding="utf-8"))


def write(content: dict[str, Any]) -> None:
    """Write the reference with one line for each item."""
    lines = []
    for modality, part in content.items():
        items = [f"   {json.dumps(name)}: {json.dumps(values)}" for name, values in part["values"].items()]
        lines.append(
            f' {json.dumps(modality)}: {{\n  "versions": {json.dumps(part["versions"])},\n  "values": {{\n'
            + ",\n".join(items)
            + "\n  }\n }"
        )
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
