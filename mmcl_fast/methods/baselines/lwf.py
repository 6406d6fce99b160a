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

Options: :class:`LwfOptions`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    MethodOptions,
    Positive,
    PromptLength,
    PromptRate,
    Weight,
)
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier
from mmcl_fast.option_fields import Symbol


class LwfOptions(MethodOptions):
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: PromptRate = 0.001
    classifier_lr: ClassifierRate = 0.0003
    distillation: Annotated[Weight, Symbol(r"\lambda_o")] = Field(
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
        o, known, target, head = self.options, len(self.classifier), data.targets, self.classifier
        with torch.no_grad():  # recorded before ``fit`` trains prompt and classifier
            prompt = self.prompt(data.modality)
            recorded = head(self.embedding_cache.embed_with_prompt(self.encoder, data.tokens, data.modality, prompt))

        def loss(z: Tensor, rows: Tensor, prompt: Tensor) -> Tensor:
            value = head.loss(z, target[rows], data.classes)
            if known:
                value = value + o.distillation * distillation_loss(head(z)[:, :known], recorded[rows], o.temperature)
            return value

        self.fit(data, classes, loss, self.generator(data.index, 3))
