"""Sequential fine-tuning of one shared prompt per tower: the lower bound.

    loss = CE(s cos(z, T), y) over the task's classes

z is the head's output under the tower's prompt, T are the class texts, s is the encoder's logit scale. Nothing keeps
the prompt near its values after earlier tasks.

Options: :class:`FinetuneOptions`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.options import BatchSize, Epochs, MethodOptions, PromptLength, PromptRate
from mmcl_fast.methods.shared.prompts import PromptBank, batches, subset, train_prefix


class FinetuneOptions(MethodOptions):
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: PromptRate = 0.1


class Finetune(Method):
    """One prompt for all modalities of a tower, trained by cross-entropy over the current task's classes."""

    name = "finetune"
    scores_texts = True
    supports_distributed = True
    Options = FinetuneOptions

    def __init__(self, encoder: Encoder, options: FinetuneOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.bank = PromptBank(encoder, options.prompt_length)  # names of prompts are towers

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, tower = self.options, self.encoder.tower(data.modality)
        generator = self.generator(data.index, 3)
        prompt = self.bank.prompts.get(tower)
        prompt = (self.bank.fresh(data.modality, generator) if prompt is None else prompt).clone()
        texts = classes.embedding[data.classes]
        target = data.targets
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step].to(target.device))
            z = self.encoder.head(subset(data.tokens, rows), prompt, data.modality)
            return share * ops.alignment_loss(z, texts, target[rows], logit_scale=self.encoder.logit_scale)

        with self.phase("prompts", len(plan)) as shown:
            train_prefix(prompt, len(plan), o.lr, loss, shown.advance, generator, self.checkpoints)
        self.bank.prompts[tower] = prompt

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        prompt = self.bank.prompts.get(self.encoder.tower(modality))
        return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding, prompt)

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        prompt = self.bank.prompts.get(self.encoder.tower(modality))
        z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality, prompt)
        return {"under the tower's prompt": F.normalize(z, dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {f"prompt/{k}": v for k, v in self.bank.prompts.items()}, {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = {k.removeprefix("prompt/"): v for k, v in tensors.items()}
