"""No learning: the cosine of the bare head's embedding with the class texts. It has no options."""

from __future__ import annotations

from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.options import MethodOptions


class ZeroShotOptions(MethodOptions):
    """No options."""


class ZeroShot(Method):
    """Zero-shot scores s cos(z, T) of the frozen encoder."""

    name = "zero_shot"
    scores_texts = True
    supports_distributed = True
    Options = ZeroShotOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        """Do nothing."""

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        return []

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
