"""A method with options to search: ridge that predicts its first classes alone. Importing this registers nothing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.baselines.ridge import RidgeMethod, RidgeOptions
from mmcl_fast.option_fields import Tunable, TunableChoices


class LimitedOptions(RidgeOptions):
    known: Annotated[int, TunableChoices(2, 4)] = Field(2, ge=0, description="Classes that are predicted; 0 fails")
    unused: Annotated[float, Tunable(0.01, 1)] = Field(0.1, description="Changes nothing")


class Limited(RidgeMethod):
    """Its accuracy grows with the option ``known``."""

    name = "limited"
    Options = LimitedOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        if not self.options.known:
            raise ValueError("nothing to predict")
        super().learn(data, classes)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        out: Any = super().scores(tokens, modality, classes, given=given).clone()
        out[:, self.options.known :] = -1e6
        return out
