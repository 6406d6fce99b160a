"""Samples that resemble each other by the frozen trunk's pooled features: copies, crops and other encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders import load_encoder
from mmcl_fast.errors import MediaError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.feature_cache.kept_tokens import has_tokens
from mmcl_fast.streams.file_check import check_files
from mmcl_fast.streams.grouping import FindSimilar
from mmcl_fast.streams.sample import Sample

if TYPE_CHECKING:
    from mmcl_fast.config import Config
    from mmcl_fast.encoders.base import Encoder

ROWS = 2048  # of the similarity matrix at a time


def similar_finder(config: Config, progress: Any = None) -> FindSimilar:
    """Return what finds similar samples of one modality, with the run's encoder and cache of trunk tokens.

    Learning finds the tokens in the cache then. Samples that do not decode resemble nothing here. The check of files
    names them. Samples that a run has learned stand last, with the hashes of their contents. They are compared with the
    others alone, where the content is there or the cache has its tokens.

    Args:
        config: ``stream.group_similarity`` is the least cosine similarity.
        progress: a display of ``mmcl_fast.progress``; None shows nothing.
    """

    def find(samples: Sequence[Sample]) -> Iterator[Sequence[int]]:
        positions = {id(sample): position for position, sample in enumerate(samples)}
        device = str(distributed.local_device(config.train.device))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with distributed.single_process():
            encoder = load_encoder(
                config.encoder.name,
                device=device,
                prompt_blocks=config.encoder.prompt_blocks,
                precision=config.encoder.precision,
            )
            cache = FeatureCache(
                config.train.cache,
                budget_gb=config.train.cache_gb,
                workers=config.train.workers,
                media={name: value for name, value in config.media.model_dump().items() if value is not None},
            )
            for modality in dict.fromkeys(sample.modality for sample in samples if not sample.sha256):
                own = [sample for sample in samples if sample.modality == modality]
                new = _readable([sample for sample in own if not sample.sha256], config, progress)
                old = _still_there([sample for sample in own if sample.sha256], encoder, cache, progress)
                some = [*new, *(sample for sample, _ in old)]
                if new and some[1:]:
                    features = _features(encoder, cache, [*new, *(read for _, read in old)], modality, progress)
                    for pair in similar_pairs(features, config.stream.group_similarity, len(new)):
                        yield [positions[id(some[k])] for k in pair]

    return find


def similar_pairs(features: torch.Tensor, least: float, count: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows with a cosine similarity of at least ``least``, the lower row first.

    ``features``: ``[n, D]``. A row of zeros resembles nothing. Of n rows n (n - 1) / 2 pairs are compared; with
    ``count`` only pairs with one of the first ``count`` rows.
    """
    rows = F.normalize(features.float(), dim=1)
    count = len(rows) if count is None else count
    for start in range(0, count, ROWS):
        block = rows[start : min(start + ROWS, count)] @ rows[start:].T
        # Rounding takes the similarity of equal rows just below 1.
        for i, j in (block >= min(least, 1.0 - 1e-6)).triu(1).nonzero().tolist():
            yield start + i, start + j


def _readable(samples: Sequence[Sample], config: Config, progress: Any) -> list[Sample]:
    """Return the samples whose files decode. They are decoded apart first: a file may end the process that reads it."""
    broken = check_files(
        samples, workers=max(1, config.train.workers), progress=progress, settings=config.media.model_dump()
    )
    keys = {sample.key for sample in broken}
    return [sample for sample in samples if sample.key not in keys]


def _still_there(
    samples: Sequence[Sample], encoder: Encoder, cache: FeatureCache, progress: Any
) -> list[tuple[Sample, Sample]]:
    """Return the learned samples of one modality that can be looked at, each with the sample to read in its place.

    The cache has the tokens of the content that was learned, or the file still holds this content.
    """
    # Only the hash counts, not what the file holds today. A path that is gone is a MediaError where tokens are missing.
    by_hash = [replace(sample, path=Path("gone") / sample.key, text=None) for sample in samples]
    found = []
    for sample, gone, cached in zip(samples, by_hash, has_tokens(cache, encoder, by_hash) if by_hash else ()):
        with suppress(MediaError):
            if cached:
                found.append((sample, gone))
            elif sample.text or sample.path is not None:
                digest = cache.contents.digests([replace(sample, sha256="")])[0]
                found += [(sample, sample)] if digest.hex() == sample.sha256 else []
    if len(found) < len(samples) and progress is not None:
        left = len(samples) - len(found)
        progress.log(
            f"{left} of {len(samples)} old {samples[0].modality} samples are not compared for similar content: "
            "their files and cached tokens are gone"
        )
    return found


def _features(
    encoder: Encoder, cache: FeatureCache, samples: Sequence[Sample], modality: str, progress: Any
) -> torch.Tensor:
    """Return the pooled features, ``[n, Dq]``; zeros for samples that pass the check and still do not decode."""
    from mmcl_fast.progress import Silent

    def compute(some: Sequence[Sample], advance: Callable[[int], None] | None) -> torch.Tensor:
        return cache.tokens(encoder, some, advance=advance).query.cpu()

    with (progress or Silent()).phase(f"{modality}: decode and trunk", len(samples)) as shown:
        try:
            return compute(samples, shown.advance)
        except MediaError:
            out = torch.zeros(len(samples), encoder.query_dim)
            for k, sample in enumerate(samples):
                with suppress(MediaError):
                    out[k] = compute([sample], None)[0]
            return out
