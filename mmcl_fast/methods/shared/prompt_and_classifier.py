"""The base of ewc, lwf, replay and slca: one prompt for each tower, and one classifier for all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import ClassifierFeatures, GrowingClassifier, train_in_one_process
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import ClassifierRate
from mmcl_fast.methods.shared.prompt_training import (
    PromptOptions,
    channel_dropout,
    drop_random_channels,
    step_batches,
    step_count,
)
from mmcl_fast.methods.shared.prompts import subset
from mmcl_fast.methods.shared.tower_prompts import TowerPrompts, join_parts
from mmcl_fast.option_fields import Tunable


class PromptAndClassifierOptions(PromptOptions):
    """Options of methods that train a prompt for each tower together with a classifier."""

    features: ClassifierFeatures = "z"
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.003


class PromptAndClassifier(Method):
    """A method that trains one prompt for all modalities of a tower, as finetune does, and a linear classifier.

    Its options are :class:`PromptAndClassifierOptions`. The given modality changes nothing. Before the first task the
    scores are zero-shot; later they are -inf for classes that were never trained.

    Attributes:
        prompts: the prompts of all towers.
        classifier: reads z, or z and q.
    """

    class_state: ClassVar[tuple[str, ...]] = ("classifier/",)

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.prompts = TowerPrompts(encoder, options)
        self.classifier = GrowingClassifier.of(encoder, options.features)

    def fit(
        self,
        data: TaskData,
        classes: Classes,
        loss: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor],
        generator: torch.Generator,
    ) -> None:
        """Train the tower's prompt and the classifier, which gets its new rows here.

        Args:
            data: the task.
            classes: all classes, the task's included.
            loss: (logits ``[B, C]`` of the batch over all classes, its row numbers ``[B]`` in the task's data, the
                prompt's parts by name, see ``TowerPrompts``) -> scalar.
            generator: the source of all random numbers.
        """
        o, classifier = self.options, self.classifier
        training = self.prompts.start_training(data.tokens, data.modality, generator)
        classifier.grow(len(classes))
        count, dropped = len(data.labels), channel_dropout(o)
        plan = step_batches(count, o.batch_size, step_count(count, o), generator)

        def step_loss(step: int) -> Tensor:
            rows, parts = plan[step].to(data.labels.device), training.parts()
            batch = drop_random_channels(subset(data.tokens, rows), len(rows), dropped, generator)
            z = self.prompts.head.head(batch, join_parts(parts), data.modality)
            return loss(classifier(z, unit_query(batch)), rows, parts)

        with self.phase("prompts", len(plan)) as shown:
            train_in_one_process(
                self,
                [*training.groups, (classifier.parameters, o.classifier_lr)],
                len(plan),
                step_loss,
                advance=shown.advance,
                generator=generator,
            )
        self.prompts.stored |= training.result()

    def embed(self, tokens: Tokens, modality: str) -> Tensor:
        """Return z ``[n, D]`` under the tower's prompt, without gradient; of the bare head where it has none."""
        prompt = self.prompts.prompt(tokens, modality)
        return self.embedding_cache.embed_with_prompt(self.prompts.head, tokens, modality, prompt)

    def features(self, tokens: Tokens, modality: str) -> Tensor:
        """Return what the classifier reads, without gradient: ``[n, D]``, or ``[n, D + Dq]`` with the query."""
        return self.classifier.features(self.embed(tokens, modality), unit_query(tokens))

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        return self.classifier.scores(self.embed(tokens, modality), len(classes), unit_query(tokens))

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        return {"under the tower's prompt": F.normalize(self.embed(tokens, modality), dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return (
            {f"prompt/{k}": v for k, v in self.prompts.stored.items()}
            | {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        ), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.prompts.stored = strip_prefix("prompt/", tensors)
        self.classifier.load_state(strip_prefix("classifier/", tensors))


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
