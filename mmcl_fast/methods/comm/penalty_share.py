"""How much of the penalty of generalised cross-validation (GCV) the closed form takes, chosen on held-out samples.

GCV finds the penalty with the least squared error of ridge regression. The fewest wrong classes need less: half of it
with few samples of a class, and a tenth on long streams. So each task tries some shares of it.
A quarter of each class's samples is left out of the statistics. The discriminants of the modality's classes predict
these samples, with the probabilities

    p(c | u) = softmax_c(2 s_c(u) / (t d)),  d = the mean distance of the true class's score to the best other one

for several temperatures t. The log-likelihoods of all tasks are summed for each share and t. The largest one decides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.base import TaskData
from mmcl_fast.methods.comm.closed_form import DEFAULT_SHARE, linear_discriminants
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Moments

SHARES = (0.5, 0.25, 0.12, 0.06, 0.03)
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
HELD_OUT = 0.25  # share of a class's samples


def held_out_rows(data: TaskData) -> Tensor:
    """Return which samples are held out, ``[n]`` bool: the last quarter of each class, in all of their views.

    Neighbours in a task often come from one recording. So a block is held out and not every fourth sample.
    """
    held = torch.zeros(len(data.labels), dtype=torch.bool, device=data.labels.device)
    for c in data.classes:
        rows = (data.labels == c).nonzero().flatten().view(data.views, -1)
        samples = rows.shape[1]
        held[rows[:, samples - int(HELD_OUT * samples) :].flatten()] = True
    return held


class PenaltyShare:
    """Sums the log-likelihoods of held-out samples.

    Attributes:
        likelihood: the sums ``[shares, temperatures]``, float64 on the CPU.
    """

    def __init__(self) -> None:
        self.likelihood = torch.zeros(len(SHARES), len(TEMPERATURES), dtype=torch.float64)

    @property
    def value(self) -> float:
        """The share of GCV's penalty with the largest likelihood."""
        if not bool(self.likelihood.any()):
            return DEFAULT_SHARE
        return SHARES[int(self.likelihood.amax(1).argmax())]

    def observe(self, memory: FeatureMemory, data: TaskData, u: Tensor, modalities: list[str], width: int) -> None:
        """Add the likelihoods of a task's held-out samples; without any, do nothing.

        Args:
            memory: the statistics before the task. They do not change.
            data: the task, with n samples.
            u: ``[n, D_u]``, their features.
            modalities: names of all modalities, the task's included.
            width: the number of leading coordinates of u that are read.
        """
        held = held_out_rows(data)
        if not bool(held.any()):
            return
        trial = memory.copy()
        trial.add(data.modality, data.classes, u[~held], data.labels[~held])
        moments, number = Moments(trial, modalities, width), modalities.index(data.modality)
        known = torch.tensor(trial.labels(data.modality), device=u.device)
        if len(known) < 2:
            return
        target = (data.labels[held].unsqueeze(1) == known).int().argmax(1)
        x, penalty = u[held][:, moments.live].float(), moments.gcv_penalty()
        found = []
        for share in SHARES:
            inverse = moments.inverse(share * penalty, moments.own[number], torch.float32)
            tried = linear_discriminants(trial, moments, number, data.modality, share * penalty, inverse)
            scores = x @ tried.weight.T + tried.bias
            own = scores.gather(1, target.unsqueeze(1))
            others = scores.scatter(1, target.unsqueeze(1), float("-inf")).amax(1, keepdim=True)
            scores = (scores - own) * (2 / (own - others).abs().mean().clamp(min=1e-12))
            found.append([-float(F.cross_entropy(scores / t, target, reduction="sum")) for t in TEMPERATURES])
        self.likelihood += torch.tensor(distributed.broadcast_object(found), dtype=torch.float64)
