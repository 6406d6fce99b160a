"""The base of methods that classify features in closed form, from statistics of each task alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.features import FeatureReader


class FeatureClassifier(Method):
    """A classifier of features u that keeps statistics of them and no sample.

    Its options are ``features.FeatureOptions``. Several processes may learn it together; a subclass says so. Before the
    first task the scores are zero-shot; later they are -inf for classes without samples. The given modality chooses the
    prompts, where there are some, and nothing else.

    Attributes:
        reader: turns tokens into u ``[n, reader.width]``.
    """

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.reader = FeatureReader(self)

    @property
    @abstractmethod
    def count(self) -> Tensor:
        """Samples learned of each class, ``[C]`` int64; empty before the first task."""

    @abstractmethod
    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        """Add a task's features to the statistics.

        Args:
            u: ``[n, width]`` float32, features of the task's samples, the same in every process.
            data: the task.
            classes: C, the number of classes known from now on.
        """

    @abstractmethod
    def class_scores(self, u: Tensor) -> Tensor:
        """Return scores ``[n, C]`` of features ``[n, width]``. Scores of a class without samples are not used."""

    def learn(self, data: TaskData, classes: Classes) -> None:
        self.reader.learn(data)
        with self.phase("statistics"):
            u = self.reader(data.tokens, data.modality, given=True)
            self.add(u, data, len(classes))

    @property
    def uses_given_modality(self) -> bool:
        return self.reader.uses_given_modality

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.count):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        out = self.class_scores(self.reader(tokens, modality, given=given))
        out = out.masked_fill((self.count == 0).to(out.device), float("-inf"))
        return F.pad(out, (0, len(classes) - out.shape[1]), value=float("-inf"))

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        """Return z under the prompt that is chosen for each sample; the encoder's z without adaptation."""
        if not self.reader.bank.prompts:
            return super().embeddings(tokens, modality)
        z = self.reader.embed(tokens, modality)
        return {"under the modality's prompt": F.normalize(z, dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.reader.state()

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.reader.load_state(tensors, values)
