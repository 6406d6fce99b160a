"""Learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).

    loss = CE(task's classes) + distillation * L_old
    L_old = - mean_x sum_c y'_c(x) log p'_c(x),   y' = softmax(o* / T),  p' = softmax(o / T),  c over the old classes

o* are logits of the task's own samples, recorded with prompt and classifier as they were before the task. T = 2 and
distillation = 1 are the paper's values.

Departures from the paper:

- The paper has one softmax for each old task, and is told the task at test time. Here one classifier serves all
  classes, and L_old runs over all old classes at once. Class-incremental public code does the same; it also keeps the
  order of classes across tasks.
- The new rows of the classifier are not warmed up alone.
- The first task of a tower has no prompt before it: then o* comes from the bare head.
- The paper does not have ``token_scale_shift``, nor a classifier that reads q (``features``).

Options: :class:`LwfOptions`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.classifier import cross_entropy_of_task
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import ClassifierRate, Positive, Weight
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier, PromptAndClassifierOptions
from mmcl_fast.methods.shared.prompt_training import PrefixRate
from mmcl_fast.option_fields import Symbol, Tunable


class LwfOptions(PromptAndClassifierOptions):
    lr: Annotated[PrefixRate, Tunable(1e-4, 1.0)] = 0.0015
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.0003
    distillation: Annotated[Weight, Symbol(r"\lambda_o"), Tunable(0.1, 100.0)] = Field(
        1.0, description="Weight of the loss that keeps the recorded outputs for old classes"
    )
    temperature: Annotated[Positive, Symbol("T")] = Field(2.0, description="Temperature of the recorded outputs")


def distillation_loss(logits: Tensor, recorded: Tensor, temperature: float) -> Tensor:
    """Return L_old of logits and recorded logits, both ``[B, C_old]``."""
    target = (recorded / temperature).softmax(-1)
    return -(target * (logits / temperature).log_softmax(-1)).sum(-1).mean()


class Lwf(PromptAndClassifier):
    """LwF over one prompt for each tower and a linear classifier."""

    name = "lwf"
    Options = LwfOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, known, target = self.options, len(self.classifier), data.targets
        with torch.no_grad():  # recorded before ``fit`` trains prompt and classifier
            recorded = self.classifier(self.embed(data.tokens, data.modality), unit_query(data.tokens))

        def loss(logits: Tensor, rows: Tensor, parts: dict[str, Tensor]) -> Tensor:
            value = cross_entropy_of_task(logits, target[rows], data.classes)
            if known:
                value = value + o.distillation * distillation_loss(logits[:, :known], recorded[rows], o.temperature)
            return value

        self.fit(data, classes, loss, self.generator(data.index, 3))
