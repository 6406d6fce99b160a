"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796).

    loss = CE + strength / 2 * sum_i F_i (theta_i - theta*_i)^2

theta holds the tower's prompt, and the classifier's rows of classes met before. A class's row moves in its own tasks
only, because the cross-entropy is over the task's classes. theta* holds their values after the last task. F is the
diagonal of the Fisher information, summed over the tasks. A task's F_i is the mean over its samples of
(d log p(y|x) / d theta_i)^2, with y drawn from the model's own p(y|x) over the task's classes, sample by sample.

Departures from the paper and from public code:

- One anchor theta* with summed Fisher information is Huszar's correction of the paper's sum of penalties (arXiv
  1712.03847).
- Much public code squares the gradient of a batch's mean at the true labels, which is no Fisher information.

Options: :class:`EwcOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.classifier import GrowingClassifier, classifier_input
from mmcl_fast.methods.shared.embedding import BATCH
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    MethodOptions,
    PromptLength,
    PromptRate,
    Weight,
)
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier, strip_prefix
from mmcl_fast.methods.shared.prompts import subset
from mmcl_fast.option_fields import Symbol


class EwcOptions(MethodOptions):
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: PromptRate = 0.1
    classifier_lr: ClassifierRate = 0.0003
    strength: Annotated[Weight, Symbol(r"\lambda")] = Field(1000.0, description="Weight of the Fisher penalty")


def fisher_penalty(fisher: dict[str, Tensor], now: dict[str, Tensor], anchor: dict[str, Tensor]) -> Tensor | float:
    """Return 1/2 sum_i F_i (theta_i - theta*_i)^2 over the tensors of ``now`` that have a Fisher information.

    Args:
        fisher: name -> F.
        now: name -> theta. Rows beyond the anchor's (new classes) are free.
        anchor: name -> theta*.
    """
    return 0.5 * sum((f * (now[k][: len(f)] - anchor[k]).square()).sum() for k, f in fisher.items() if k in now)


def prompt_fisher(logits: Tensor, prefix: Tensor, drawn: Tensor) -> Tensor:
    """Return the sum over samples of (d log p(y|x) / d P)^2, ``[J, 2, L, d]``.

    Args:
        logits: ``[B, K]``, computed from ``prefix`` ``[B, J, 2, L, d]``: each sample has a copy of the prompt, so that
            one backward pass gives every sample's own gradient.
        prefix: the copies.
        drawn: ``[B]`` int64, y.
    """
    chosen = logits.log_softmax(-1).gather(1, drawn.unsqueeze(1)).sum()
    return torch.autograd.grad(chosen, prefix)[0].square().sum(0)


def classifier_fisher(z: Tensor, logits: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over samples of (d log p(y|x) / d W)^2 ``[K, D]`` and (d log p(y|x) / d b)^2 ``[K]``.

    With r = onehot(y) - p, the gradient for W is r f(z)' and the gradient for b is r.
    """
    residual = F.one_hot(drawn, logits.shape[1]) - logits.softmax(-1)
    return residual.square().T @ classifier_input(z).square(), residual.square().sum(0)


class Ewc(PromptAndClassifier):
    """EWC over one prompt for each tower and a linear classifier.

    Attributes:
        fisher: F of "weight" and "bias" of the classifier, and of each tower's prompt.
    """

    name = "ewc"
    Options = EwcOptions

    def __init__(self, encoder: Encoder, options: EwcOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.fisher: dict[str, Tensor] = {}

    def learn(self, data: TaskData, classes: Classes) -> None:
        tower, target, head = self.encoder.tower(data.modality), data.targets, self.classifier
        anchor = {**head.state(), **self.bank.prompts}

        def loss(z: Tensor, rows: Tensor, prompt: Tensor) -> Tensor:
            now = {"weight": head.weight, "bias": head.bias, tower: prompt}
            penalty = fisher_penalty(self.fisher, now, anchor)
            return head.loss(z, target[rows], data.classes) + self.options.strength * penalty

        self.fit(data, classes, loss, self.generator(data.index, 3))
        with self.phase("statistics"):
            for name, new in self._task_fisher(data, head).items():
                old = self.fisher.get(name)
                if old is not None:
                    new[: len(old)] += old  # the classifier has got rows since
                self.fisher[name] = new

    def _task_fisher(self, data: TaskData, head: GrowingClassifier) -> dict[str, Tensor]:
        """Return the diagonal Fisher information of the tensors that this task trained."""
        generator, tower = self.generator(data.index, 4), self.encoder.tower(data.modality)
        prompt = self.bank.prompts[tower]
        total = {tower: torch.zeros_like(prompt), **{k: torch.zeros_like(v) for k, v in head.state().items()}}
        for rows in torch.arange(len(data.labels), device=data.labels.device).split(BATCH):
            prefix = prompt.expand(len(rows), *prompt.shape).clone().requires_grad_(True)
            z = self.encoder.head(subset(data.tokens, rows), prefix, data.modality)
            logits = head(z)[:, data.classes]
            with torch.no_grad():
                # On the CPU, because the generator is a CPU generator.
                drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
                weight, bias = classifier_fisher(z, logits, drawn)
                total["weight"][data.classes] += weight
                total["bias"][data.classes] += bias
            total[tower] += prompt_fisher(logits, prefix, drawn)
        return {k: v / len(data.labels) for k, v in total.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors | {f"fisher/{k}": v for k, v in self.fisher.items()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.fisher = strip_prefix("fisher/", tensors)
