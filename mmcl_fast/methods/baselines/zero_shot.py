"""No learning at all: cosine of the bare head's embedding with the class texts."""

from __future__ import annotations

from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.options import MethodOptions


class ZeroShotOptions(MethodOptions):
    """No options."""


class ZeroShot(Method):
    name = "zero_shot"
    reads_texts = True
    shares = True
    Options = ZeroShotOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        """Nothing to learn."""

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
