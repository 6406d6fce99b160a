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
- The paper does not have ``token_scale_shift``, nor a classifier that reads q (``features``).

Options: :class:`EwcOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.classifier import GrowingClassifier, cross_entropy_of_task
from mmcl_fast.methods.shared.embedding import BATCH, unit_query
from mmcl_fast.methods.shared.options import ClassifierRate, Weight
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier, PromptAndClassifierOptions, strip_prefix
from mmcl_fast.methods.shared.prompts import subset
from mmcl_fast.methods.shared.tower_prompts import join_parts, split_like
from mmcl_fast.option_fields import Symbol, Tunable


class EwcOptions(PromptAndClassifierOptions):
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.0003
    strength: Annotated[Weight, Symbol(r"\lambda"), Tunable(1.0, 1e6)] = Field(
        1000.0, description="Weight of the Fisher penalty"
    )


def fisher_penalty(fisher: dict[str, Tensor], now: dict[str, Tensor], anchor: dict[str, Tensor]) -> Tensor | float:
    """Return 1/2 sum_i F_i (theta_i - theta*_i)^2 over the tensors of ``now`` that have a Fisher information.

    Args:
        fisher: name -> F.
        now: name -> theta. Rows beyond the anchor's (new classes) are free.
        anchor: name -> theta*.
    """
    return 0.5 * sum((f * (now[k][: len(f)] - anchor[k]).square()).sum() for k, f in fisher.items() if k in now)


def prompt_fisher(logits: Tensor, prompts: Tensor, drawn: Tensor) -> Tensor:
    """Return the sum over samples of (d log p(y|x) / d P)^2, ``[P]``.

    Args:
        logits: ``[B, K]``, computed from ``prompts`` ``[B, P]``: each sample has a copy of the prompt, so that one
            backward pass gives every sample's own gradient.
        prompts: the copies.
        drawn: ``[B]`` int64, y.
    """
    chosen = logits.log_softmax(-1).gather(1, drawn.unsqueeze(1)).sum()
    return torch.autograd.grad(chosen, prompts)[0].square().sum(0)


def classifier_fisher(features: Tensor, logits: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over samples of (d log p(y|x) / d W)^2 ``[K, d]`` and (d log p(y|x) / d b)^2 ``[K]``.

    With r = onehot(y) - p, the gradient for W is r f' and the gradient for b is r.

    Args:
        features: f ``[B, d]``, what the classifier reads.
        logits: W f + b ``[B, K]``.
        drawn: ``[B]`` int64, y.
    """
    residual = F.one_hot(drawn, logits.shape[1]) - logits.softmax(-1)
    return residual.square().T @ features.square(), residual.square().sum(0)


class Ewc(PromptAndClassifier):
    """EWC over one prompt for each tower and a linear classifier.

    Attributes:
        fisher: F of "weight" and "bias" of the classifier, and of each part of a prompt.
    """

    name = "ewc"
    Options = EwcOptions
    class_state: ClassVar[tuple[str, ...]] = ("classifier/", "fisher/weight", "fisher/bias")

    def __init__(self, encoder: Encoder, options: EwcOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.fisher: dict[str, Tensor] = {}

    def learn(self, data: TaskData, classes: Classes) -> None:
        target, head = data.targets, self.classifier
        anchor = {**head.state(), **self.prompts.stored}

        def loss(logits: Tensor, rows: Tensor, parts: dict[str, Tensor]) -> Tensor:
            now = {"weight": head.weight, "bias": head.bias, **parts}
            penalty = fisher_penalty(self.fisher, now, anchor)
            return cross_entropy_of_task(logits, target[rows], data.classes) + self.options.strength * penalty

        self.fit(data, classes, loss, self.generator(data.index, 3))
        with self.phase("statistics"):
            for name, new in self._task_fisher(data, head).items():
                old = self.fisher.get(name)
                if old is not None:
                    new[: len(old)] += old  # the classifier has got rows since, and texts longer prompts
                self.fisher[name] = new

    def _task_fisher(self, data: TaskData, head: GrowingClassifier) -> dict[str, Tensor]:
        """Return the diagonal Fisher information of the tensors that this task trained."""
        generator = self.generator(data.index, 4)
        parts = self.prompts.parts(data.tokens, data.modality)
        prompt = join_parts(parts)
        prompt_total = torch.zeros_like(prompt)
        total = {k: torch.zeros_like(v) for k, v in head.state().items()}
        for rows in torch.arange(len(data.labels), device=data.labels.device).split(BATCH):
            batch = subset(data.tokens, rows)
            prompts = prompt.repeat(len(rows), 1).requires_grad_(True)
            z = self.prompts.head.head(batch, prompts, data.modality)
            features = head.features(z, unit_query(batch))
            logits = (features @ head.weight.T + head.bias)[:, data.classes]
            with torch.no_grad():
                # On the CPU, because the generator is a CPU generator.
                drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
                weight, bias = classifier_fisher(features, logits, drawn)
                total["weight"][data.classes] += weight
                total["bias"][data.classes] += bias
            prompt_total += prompt_fisher(logits, prompts, drawn)
        total |= split_like(prompt_total, parts)
        return {k: v / len(data.labels) for k, v in total.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors | {f"fisher/{k}": v for k, v in self.fisher.items()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.fisher = strip_prefix("fisher/", tensors)
