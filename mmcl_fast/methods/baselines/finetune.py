"""Sequential fine-tuning of one shared prompt per tower: the lower bound.

    loss = CE(s cos(z, T), y) over the task's classes

z is the head's output under the tower's prompt, T are the class texts, s is the encoder's logit scale. Nothing keeps
the prompt near its values after earlier tasks. It has no classifier, so it has no option ``features``. EWC with
``strength = 0`` is fine-tuning with a classifier.

Options: :class:`FinetuneOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import (
    PromptOptions,
    TextRate,
    channel_dropout,
    drop_random_channels,
    step_batches,
    step_count,
)
from mmcl_fast.methods.shared.prompts import subset, train_groups
from mmcl_fast.methods.shared.tower_prompts import TowerPrompts, join_parts
from mmcl_fast.option_fields import TunableChoices


class FinetuneOptions(PromptOptions):
    """Options of sequential fine-tuning."""

    text_lr: Annotated[TextRate, TunableChoices("auto", 0.015, 0.05, 0.15, 0.5, 1.5)] = "auto"


class Finetune(Method):
    """One prompt for all modalities of a tower, trained by cross-entropy over the current task's classes."""

    name = "finetune"
    scores_texts = True
    supports_distributed = True
    Options = FinetuneOptions

    def __init__(self, encoder: Encoder, options: FinetuneOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.prompts = TowerPrompts(encoder, options)

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, generator = self.options, self.generator(data.index, 3)
        training = self.prompts.start_training(data.tokens, data.modality, generator)
        texts = classes.embedding[data.classes]
        target, dropped = data.targets, channel_dropout(o)
        plan = step_batches(len(target), o.batch_size, step_count(len(target), o), generator)

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step].to(target.device))
            batch = drop_random_channels(subset(data.tokens, rows), len(plan[step]), dropped, generator)
            z = self.prompts.head.head(batch, join_parts(training.parts()), data.modality)
            return share * ops.alignment_loss(z, texts, target[rows], logit_scale=self.encoder.logit_scale)

        with self.phase("prompts", len(plan)) as shown:
            train_groups(training.groups, len(plan), loss, None, shown.advance, generator, self.checkpoints)
        self.prompts.stored |= training.result()

    def embed(self, tokens: Tokens, modality: str) -> Tensor:
        """Return unit z ``[n, D]`` under the tower's prompt, without gradient."""
        prompt = self.prompts.prompt(tokens, modality)
        z = self.embedding_cache.embed_with_prompt(self.prompts.head, tokens, modality, prompt)
        return F.normalize(z, dim=-1)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.encoder.logit_scale * self.embed(tokens, modality) @ classes.embedding.T

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        return {"under the tower's prompt": self.embed(tokens, modality)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {f"prompt/{k}": v for k, v in self.prompts.stored.items()}, {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.prompts.stored = strip_prefix("prompt/", tensors)
