"""A stream's samples cut down to a scenario: some of the modalities, a part of their training samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.streams.sample import Sample


def select_samples(
    samples: Sequence[Sample], modalities: Sequence[str] | None, share: Mapping[str, float], seed: int
) -> list[Sample]:
    """The samples of a scenario, in their order.

    Args:
        modalities: only these, in this order; None: all, in theirs.
        share: by modality, the part of each class's training samples that stays, at least one; drawn from ``seed``. A
            smaller part is within a larger one of the same seed.

    Raises:
        StreamError: a modality that is not there or listed twice, or a share that is not above 0 and up to 1.
    """
    there = list(dict.fromkeys(sample.modality for sample in samples))
    if modalities is not None:
        check_modalities(modalities, there, "modalities")
        if not modalities or len(set(modalities)) < len(modalities):
            raise StreamError(f"modalities = {list(modalities)}: name each modality that is wanted once")
        samples = [sample for modality in modalities for sample in samples if sample.modality == modality]
        there = list(modalities)
    check_modalities(share, there, "share")
    left_out: set[str] = set()
    for modality, part in share.items():
        if not 0 < part <= 1:
            raise StreamError(f"share of {modality} = {part}: give a number above 0, up to 1")
        classes: dict[str, list[str]] = {}
        for sample in samples:
            if sample.modality == modality and sample.split == "train":
                classes.setdefault(sample.label, []).append(sample.key)
        for keys in classes.values():
            keys.sort(key=lambda key: hashlib.sha256(f"share/{seed}/{key}".encode()).digest())
            left_out.update(keys[max(1, round(part * len(keys))) :])
    return [sample for sample in samples if sample.key not in left_out] if left_out else list(samples)


def check_modalities(named: Iterable[str], there: Sequence[str], option: str) -> None:
    """Raises StreamError for a modality that the stream does not have."""
    for modality in named:
        if modality not in there:
            raise StreamError(
                f"{option}: no {modality!r} in this stream{did_you_mean(modality, there)}: use {', '.join(there)}"
            )
