"""The base of ewc, lwf, replay and slca: one prompt for each tower, and one classifier for all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import GrowingClassifier, train_in_one_process
from mmcl_fast.methods.shared.prompts import PromptBank, batches, subset


class PromptAndClassifier(Method):
    """A method that trains one prompt for all modalities of a tower, as finetune does, and a linear classifier over z.

    Its options have ``prompt_length``, ``epochs``, ``batch_size``, ``lr`` (of prompts) and ``classifier_lr``. The given
    modality changes nothing. Before the first task the scores are zero-shot; later they are -inf for classes that were
    never trained.
    """

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.bank = PromptBank(encoder, options.prompt_length)  # names of prompts are towers
        self.classifier = GrowingClassifier(encoder.dim, encoder.device)

    def prompt(self, modality: str) -> Tensor | None:
        """Return the prompt of a modality's tower; None where the tower learned none yet."""
        return self.bank.prompts.get(self.encoder.tower(modality))

    def fit(
        self,
        data: TaskData,
        classes: Classes,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        """Train the tower's prompt and the classifier, which gets its new rows here.

        Args:
            data: the task.
            classes: all classes, the task's included.
            loss: (z ``[B, D]`` of the batch, its row numbers ``[B]`` in the task's data, prompt) -> scalar.
            generator: the source of all random numbers.
        """
        o, prompt = self.options, self.prompt(data.modality)
        prompt = (self.bank.fresh(data.modality, generator) if prompt is None else prompt).clone()
        self.classifier.grow(len(classes))
        plan = batches(len(data.labels), o.batch_size, o.epochs, generator)

        def step_loss(step: int) -> Tensor:
            rows = plan[step].to(data.labels.device)
            return loss(self.encoder.head(subset(data.tokens, rows), prompt, data.modality), rows, prompt)

        with self.phase("prompts", len(plan)) as shown:
            train_in_one_process(
                self,
                [([prompt], o.lr), (self.classifier.parameters, o.classifier_lr)],
                len(plan),
                step_loss,
                advance=shown.advance,
                generator=generator,
            )
        self.bank.prompts[self.encoder.tower(data.modality)] = prompt

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality, self.prompt(modality))
        return self.classifier.scores(z, len(classes))

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality, self.prompt(modality))
        return {"under the tower's prompt": F.normalize(z, dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return (
            {f"prompt/{k}": v for k, v in self.bank.prompts.items()}
            | {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        ), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = strip_prefix("prompt/", tensors)
        self.classifier.load_state(strip_prefix("classifier/", tensors))


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
