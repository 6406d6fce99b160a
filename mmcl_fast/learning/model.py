"""The parts of a learner that evaluation, prediction and saving use, and the trunk tokens of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders import Encoder, Tokens
from mmcl_fast.errors import RunError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.learning.calibration import Calibration
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.media.spec import Spec, adjust
from mmcl_fast.methods import Classes, Method
from mmcl_fast.streams.sample import ClassId, Sample


class Model(Protocol):
    """An encoder and a method with all that was learned; ``Learner`` is one.

    Attributes:
        encoder: the frozen encoder.
        method: the method with its learned state.
        cache: the cache of trunk tokens.
        classes: the classes learned so far.
        tasks: a record of each task learned: its ``name``, ``modality``, ``classes`` and ``class_ids``.
        settings: the options that are saved with the model, as JSON values.
        calibration: the temperatures of its probabilities.
        aliases: the former key of a renamed class -> its key of today.
        unknown: scores samples for belonging to none of the classes.
    """

    encoder: Encoder
    method: Method
    cache: FeatureCache
    classes: Classes
    tasks: list[dict[str, Any]]
    settings: dict[str, Any]
    calibration: Calibration
    aliases: dict[ClassId, ClassId]
    unknown: UnknownScores


def spec_of(model: Model, modality: str) -> Spec:
    """Return how files of a modality are prepared: the encoder's way, with the settings of [media]."""
    return adjust(model.encoder.spec(modality), model.settings["media"])


def trunk_tokens(model: Model, samples: Sequence[Sample], title: str, *, views: int = 1, keep: bool = False) -> Tokens:
    """Return the trunk tokens of one or more samples of one modality, from the cache or computed now.

    Args:
        model: its encoder computes them, and its cache keeps them.
        samples: n samples.
        title: names the progress display's phase.
        views: the plain view and ``views - 1`` random ones, one after another: ``views`` x n rows.
        keep: keep the result in memory for the next call with the same samples.

    Raises:
        MediaError: a file is broken.
    """
    with distributed.propagate_errors(), model.method.phase(title, len(samples) * views) as bar:
        tokens = model.cache.tokens(
            model.encoder, samples, views=views, seed=model.settings["seed"], advance=bar.advance, keep=keep
        )
    model.method.seconds.pop(title, None)  # the caller counts these seconds, in its own phase
    return tokens


def trunk_tokens_of_shard(
    model: Model, samples: Sequence[Sample], title: str, *, views: int = 1, keep: bool = False
) -> Tokens | None:
    """Return ``trunk_tokens`` of the samples that ``distributed.shard`` gave this process; None where it gave none."""
    if samples:
        return trunk_tokens(model, samples, title, views=views, keep=keep)
    with distributed.propagate_errors():  # the other processes meet here too
        return None


def trunk_tokens_of_all(model: Model, samples: Sequence[Sample], title: str, *, views: int = 1) -> Tokens:
    """Return ``trunk_tokens`` of all samples in every process; each process computes only its shard of them."""
    if distributed.world_size() > 1:  # each process fills the cache with its shard, then all read the whole
        trunk_tokens_of_shard(model, distributed.shard(samples), title, views=views)
    return trunk_tokens(model, samples, title, views=views)


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Check that learned tensors have no NaN and no infinity.

    Raises:
        RunError: names the first tensor that has.
    """
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # NaN and infinity show in the extremes, which are found far faster than isfinite() of every element.
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise RunError(f"{key} is not finite after learning; look at the task's files, or change method.options")
