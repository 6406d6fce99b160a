"""Take a class out of what COMM has learned.

Its count, mean, covariance and mean trunk tokens are its own, so they go. Sums over classes hold no class apart: they
keep a share of it in their correlations, and get the variances of the other classes. Relevance, mean contributions and
re-alignment are solved anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmcl_fast.methods.comm.memory import BLOCK_CLASSES, POOLED_SAMPLES_PER_ROW, FeatureMemory, Gaussian
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.comm.token_means import TokenMeans
from mmcl_fast.methods.shared.gram import SHARED_COVARIANCE
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank


def remove_statistics(
    memory: FeatureMemory, relevance: Relevance, token_means: TokenMeans, label: int, query: slice
) -> list[str]:
    """Take a class out of all statistics; the ids of later classes become smaller by one.

    Args:
        memory, relevance, token_means: the statistics.
        label: the class's id.
        query: the coordinates of u that hold the query.

    Returns:
        The modalities that have no class any more.
    """
    for modality in [m for m in relevance.modalities if label in memory.counts[m]]:
        own, names = memory.gaussian(modality, label), relevance.modalities
        variance = own.factor[:, query].square().sum(0) + own.diagonal[query]
        relevance.remove_class(
            modality,
            memory.labels(modality).index(label),
            [memory.means(m)[:, query] for m in names],
            [torch.tensor(list(memory.counts[m].values())) for m in names],
            variance * max(own.count - 1, 1),
        )
    remove_from_memory(memory, label)
    token_means.remove(label)
    empty = [m for m in relevance.modalities if m not in memory.counts]
    for modality in empty:
        relevance.remove_modality(modality)
    return empty


def drop_modality(modality: str, banks: Sequence[TokenScaleShiftBank], *tables: dict) -> None:
    """Take a modality that has no class any more out of banks of prompts, and out of tables by modality."""
    of_banks: list[dict] = [table for bank in banks for table in (bank.prompts, bank.sizes, bank.widths)]
    for table in (*of_banks, *tables):
        table.pop(modality, None)


def describe_remains(prompts: Mapping[str, object], penalty_was_chosen: bool) -> list[str]:
    """Return what still holds a share of a class that was taken out, as phrases."""
    out = [SHARED_COVARIANCE]
    if prompts:
        out.append(f"the prompts of {', '.join(prompts)}")
    return [*out, "the choice of the penalty"] if penalty_was_chosen else out


def remove_from_memory(memory: FeatureMemory, label: int) -> None:
    """Take a class out of the feature memory; the ids of later classes become smaller by one.

    The pooled covariance of its modality gets the variances of the other classes and keeps its correlations. A modality
    without another class goes too.
    """
    for modality in [m for m, known in memory.counts.items() if label in known]:
        gone, row = memory.gaussian(modality, label), memory.labels(modality).index(label)
        del memory.counts[modality][label]
        if not memory.counts[modality]:
            del memory.counts[modality], memory.blocks[modality], memory.pooled[modality]
            continue
        everything = memory.blocks[modality][0]
        for block in memory.blocks[modality][1:]:
            everything = everything + block
        rows = [number for number in range(len(everything)) if number != row]
        memory.blocks[modality] = [
            everything[rows[start : start + BLOCK_CLASSES]] for start in range(0, len(rows), BLOCK_CLASSES)
        ]
        pooled = _without(memory.pooled[modality], gone)
        memory.pooled[modality] = pooled.limit_rank(memory.modality_rank, POOLED_SAMPLES_PER_ROW)
    memory.counts = {m: {c - (c > label): n for c, n in known.items()} for m, known in memory.counts.items()}


def _without(pooled: Gaussian, gone: Gaussian) -> Gaussian:
    """Return a pooled Gaussian without a class: with the exact variances, and the correlations as they are."""
    count = max(pooled.count - gone.count, 1)
    before = (pooled.factor.square().sum(0) + pooled.diagonal) * max(pooled.count - 1, 1)
    own = (gone.factor.square().sum(0) + gone.diagonal) * max(gone.count - 1, 1)
    share = (1 - own / before.clamp(min=1e-30)).clamp(min=0) * (max(pooled.count - 1, 1) / max(count - 1, 1))
    return Gaussian(count, pooled.mean, pooled.factor * share.sqrt(), pooled.diagonal * share)
