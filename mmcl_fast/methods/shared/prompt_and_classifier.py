"""One prompt per tower and one classifier for all classes: what ewc, lwf, replay and slca train, each its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import Growing, train
from mmcl_fast.methods.shared.prompts import PromptBank, batches, subset


class Tuned(Method):
    """theta = one prompt for all modalities of a tower (as in finetune), and a linear classifier over z.

    Options have ``prompt_length``, ``epochs``, ``batch_size``, ``lr`` (prompts) and ``classifier_lr``. Modality given
    or not makes no difference. Before the first task the scores are zero-shot; later they are -inf for classes never
    trained.
    """

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.bank = PromptBank(encoder, options.prompt_length)  # keyed by tower
        self.classifier = Growing(encoder.dim, encoder.device)

    def prompt(self, modality: str) -> Tensor | None:
        """The tower's; None where it learned none yet."""
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
            loss: (z ``[B, D]`` of the batch, its rows ``[B]`` in the task's data, prompt) -> scalar.
        """
        o, prompt = self.options, self.prompt(data.modality)
        prompt = (self.bank.fresh(data.modality, generator) if prompt is None else prompt).clone()
        self.classifier.grow(len(classes))
        plan = batches(len(data.labels), o.batch_size, o.epochs, generator)

        def step_loss(step: int) -> Tensor:
            rows = plan[step].to(data.labels.device)
            return loss(self.encoder.head(subset(data.tokens, rows), prompt, data.modality), rows, prompt)

        with self.phase("prompts", len(plan)) as shown:
            train(
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
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        z = self.reuse.one(self.encoder, tokens, modality, self.prompt(modality))
        return self.classifier.scores(z, len(classes))

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        z = self.reuse.one(self.encoder, tokens, modality, self.prompt(modality))
        return {"under the tower's prompt": F.normalize(z, dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return (
            {f"prompt/{k}": v for k, v in self.bank.prompts.items()}
            | {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        ), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = under("prompt/", tensors)
        self.classifier.load_state(under("classifier/", tensors))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
