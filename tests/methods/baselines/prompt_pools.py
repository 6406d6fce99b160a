"""Helpers of the tests of prompt pools."""

from __future__ import annotations

import torch

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared import prompt_pool as pool
from tests.toy import ToyEncoder

CLASSES = Classes([("image", "a"), ("image", "b")])


def pictures(count=10, seed=0):
    """Tokens of noise."""
    x = torch.rand(count, 1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return ToyEncoder().trunk(x, "image")


def task(tokens, index=0):
    return TaskData(index, "image", tokens, torch.arange(len(tokens)) % 2, [0, 1])


def first_loss(monkeypatch, method, data):
    """Return the loss of the first step of ``learn``, and the trained tensors of the first group with their gradients.

    No step is taken.
    """
    seen = []

    def train(method, groups, steps, loss, **others):
        trained = [p.requires_grad_(True) for p in groups[0][0]]
        value = loss(0)
        value.backward()
        seen.append((value.detach(), [(p.detach().clone(), p.grad) for p in trained]))
        for p in trained:
            p.requires_grad_(False)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "train_in_one_process", train)
        method.learn(data, CLASSES)
    return seen[0]
