"""Samples that resemble each other by the frozen trunk's pooled features: copies, crops and other encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders import load_encoder
from mmcl_fast.errors import MediaError
from mmcl_fast.feature_cache.cache import FeatureCache
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
    names them.

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
            for modality in dict.fromkeys(sample.modality for sample in samples):
                some = _readable([sample for sample in samples if sample.modality == modality], config, progress)
                if some[1:]:
                    features = _features(encoder, cache, some, modality, progress)
                    for pair in similar_pairs(features, config.stream.group_similarity):
                        yield [positions[id(some[k])] for k in pair]

    return find


def similar_pairs(features: torch.Tensor, least: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows with a cosine similarity of at least ``least``, the lower row first.

    ``features``: ``[n, D]``. A row of zeros resembles nothing. Of n rows n (n - 1) / 2 pairs are compared.
    """
    rows = F.normalize(features.float(), dim=1)
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS] @ rows[start:].T
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
