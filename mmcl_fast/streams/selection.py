"""The selection of samples for a scenario: some of the modalities, and a part of their training samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.streams.sample import Sample


def select_samples(
    samples: Sequence[Sample],
    modalities: Sequence[str] | None,
    share: Mapping[str, float],
    limit: Mapping[str, int],
    seed: int,
) -> list[Sample]:
    """Return the samples of a scenario, in their order.

    Args:
        modalities: keep only these, in this order; None: all, in their order.
        share: modality -> the part of each class's training samples that stays, drawn from ``seed``; at least one
            stays. With the same seed a smaller part is a subset of a larger one.
        limit: modality -> the most training samples of a class that stay, drawn in the same way. Where a modality has a
            share too, the smaller number counts.

    Raises:
        StreamError: a modality that the stream does not have or that is listed twice; a share outside (0, 1]; a limit
            below 1.
    """
    available = list(dict.fromkeys(sample.modality for sample in samples))
    if modalities is not None:
        check_modalities(modalities, available, "modalities")
        if not modalities or len(set(modalities)) < len(modalities):
            raise StreamError(f"modalities = {list(modalities)}: name each modality that is wanted once")
        samples = [sample for modality in modalities for sample in samples if sample.modality == modality]
        available = list(modalities)
    check_modalities(share, available, "share")
    check_modalities(limit, available, "max_train_per_class")
    left_out: set[str] = set()
    for modality in dict.fromkeys([*share, *limit]):
        part = share.get(modality, 1)
        most = limit.get(modality)
        if not 0 < part <= 1:
            raise StreamError(f"share of {modality} = {part}: give a number above 0, up to 1")
        if most is not None and most < 1:
            raise StreamError(f"max_train_per_class of {modality} = {most}: give 1 or more, or leave it out")
        classes: dict[str, list[str]] = {}
        for sample in samples:
            if sample.modality == modality and sample.split == "train":
                classes.setdefault(sample.label, []).append(sample.key)
        for keys in classes.values():
            # By hash, not by position: adding a file does not change which others stay.
            keys.sort(key=lambda key: hashlib.sha256(f"share/{seed}/{key}".encode()).digest())
            left_out.update(keys[max(1, round(part * len(keys))) :])
            left_out.update(keys[most or len(keys) :])
    return [sample for sample in samples if sample.key not in left_out] if left_out else list(samples)


def check_modalities(names: Iterable[str], available: Sequence[str], option: str) -> None:
    """Raise StreamError for a name that is not among the stream's modalities. ``option`` begins the message."""
    for name in names:
        if name not in available:
            raise StreamError(
                f"{option}: no {name!r} in this stream{did_you_mean(name, available)}: use {', '.join(available)}"
            )
