"""The share of the penalty of generalised cross-validation (GCV) that the closed form takes.

GCV finds the penalty with the least squared error of ridge regression. The fewest wrong classes need less: a half or a
quarter with few samples of a class, and a tenth on long streams. So each task tries some shares of it. A quarter of
each class's samples is left out of the statistics. The discriminants of the modality's classes predict these samples,
with the probabilities

    p(c | u) = softmax_c(2 s_c(u) / (t d)),  d = the mean distance of the true class's score to the best other one

and the best of several temperatures t. The log-likelihoods of all tasks' held-out samples decide by the rule of one
standard error (Breiman et al. 1984). It takes the largest share that is behind the best one by no more than the
standard error of the difference. Prompts were trained on the held-out samples too, so likelihoods favour small shares.
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
from mmcl_fast.methods.shared.gram import gram_matrix

SHARES = (0.5, 0.25, 0.12, 0.06, 0.03)
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
HELD_OUT = 0.25  # share of a class's samples
LEAST_HELD_OUT = 16  # fewer held-out samples say nothing


def held_out_rows(data: TaskData) -> Tensor:
    """Return which samples are held out, ``[n]`` bool: the last quarter of each class, in all of their views.

    Neighbours in a task often come from one recording. So a block is held out and not every fourth sample.
    """
    held = torch.zeros(len(data.labels), dtype=torch.bool, device=data.labels.device)
    for c in data.classes:
        rows = (data.labels == c).nonzero().flatten()
        samples = len(rows) // data.views
        held[rows.view(data.views, samples)[:, samples - int(HELD_OUT * samples) :].flatten()] = True
    return held


class PenaltyShare:
    """Sums over the held-out samples of all tasks.

    Attributes:
        sums: the moments of the log-likelihoods l ``[shares]`` of a sample: the sum of [1 ; l] [1 ; l]'. A matrix
            ``[shares + 1, shares + 1]``, float64 on the CPU.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(len(SHARES) + 1, len(SHARES) + 1, dtype=torch.float64)

    @property
    def value(self) -> float:
        """The chosen share of GCV's penalty; ``DEFAULT_SHARE`` with fewer than ``LEAST_HELD_OUT`` samples."""
        count, total, products = float(self.sums[0, 0]), self.sums[0, 1:], self.sums[1:, 1:]
        if count < LEAST_HELD_OUT:
            return DEFAULT_SHARE
        best = int(total.argmax())
        behind = total[best] - total
        squares = products.diagonal() + products[best, best] - 2 * products[best]
        error = (squares - behind.square() / count).clamp(min=0).sqrt()  # of the sum of differences
        return SHARES[int((behind <= error).int().argmax())]

    def observe(self, memory: FeatureMemory, data: TaskData, u: Tensor, modalities: list[str], width: int) -> None:
        """Add the log-likelihoods of a task's held-out samples; without any, do nothing.

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
        known = torch.tensor(trial.labels(data.modality), device=u.device)
        if len(known) < 2:
            return  # there is nothing to tell apart
        moments, number = Moments(trial, modalities, width), modalities.index(data.modality)
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
            by_temperature = torch.stack([-F.cross_entropy(scores / t, target, reduction="none") for t in TEMPERATURES])
            found.append(by_temperature[by_temperature.sum(1).argmax()])
        # The views of a sample are no samples of their own: their mean counts once.
        likelihood = torch.stack(found, 1).double().view(data.views, -1, len(SHARES)).mean(0)
        self.sums += distributed.broadcast_object(gram_matrix(F.pad(likelihood, (1, 0), value=1.0)).cpu())

    def load(self, sums: Tensor) -> None:
        """Take over the ``sums`` of a checkpoint.

        Raises:
            ValueError: they have another shape.
        """
        if sums.shape != self.sums.shape:
            raise ValueError(f"penalty_share: shape {tuple(sums.shape)}, not {tuple(self.sums.shape)}")
        self.sums = sums.double().cpu()
