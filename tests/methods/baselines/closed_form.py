"""Random features, and methods that learn them without an encoder, for tests of closed-form classifiers."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Method, TaskData, make_options, method_class
from tests.toy import ToyEncoder

WIDTH = 72  # of [z ; q] of the toy encoder


def build(name: str, **options) -> Method:
    return method_class(name)(ToyEncoder(), make_options(name, options), seed=3)


def features(labels: Tensor, spread: float = 1.0, seed: int = 0, width: int = WIDTH) -> Tensor:
    """Return float32 features around a random centre for each class, some columns with hardly any variance."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(1000, width, generator=torch.Generator().manual_seed(99))
    scale = torch.linspace(1.0, 0.01, width)
    return centres[labels] + spread * scale * torch.randn(len(labels), width, generator=generator)


def add(method, u: Tensor, labels: Tensor, classes: int, index: int = 0) -> None:
    """Learn features as one task."""
    tokens = Tokens(torch.zeros(len(u), 1, 16), torch.zeros(len(u), 48))
    method.add(u, TaskData(index, "image", tokens, labels, labels.unique().tolist()), classes)


def learned(name: str, u: Tensor, labels: Tensor, classes: int, parts: list[Tensor], **options) -> Method:
    """Return a method that learned the samples with the row numbers ``parts``, a task for each."""
    method = build(name, **options)
    for index, rows in enumerate(parts):
        add(method, u[rows], labels[rows], classes, index)
    return method


def within(x: Tensor, labels: Tensor) -> Tensor:
    """Return the scatter around the class means, float64, sample by sample."""
    x = x.double()
    out = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for row, label in zip(x, labels):
        difference = row - x[labels == label].mean(0)
        out += torch.outer(difference, difference)
    return out
