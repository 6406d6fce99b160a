"""A method with options to search: nearest class means among its first classes alone. Importing registers nothing."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import MethodOptions
from mmcl_fast.option_fields import Tunable, TunableChoices


class LimitedOptions(MethodOptions):
    known: Annotated[int, TunableChoices(2, 4)] = Field(2, ge=0, description="Classes that are predicted; 0 fails")
    unused: Annotated[float, Tunable(0.01, 1)] = Field(0.1, description="Changes nothing")


class Limited(Method):
    """Its accuracy grows with the option ``known``."""

    name = "limited"
    Options = LimitedOptions

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.means = torch.zeros(0, self.encoder.query_dim)

    def learn(self, data: TaskData, classes: Classes) -> None:
        if not self.options.known:
            raise ValueError("nothing to predict")
        self.means = F.pad(self.means, (0, 0, 0, len(classes) - len(self.means)))
        for label in data.classes:
            self.means[label] = unit_query(data.tokens)[data.labels == label].mean(0)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        known = self.means[: self.options.known]
        out = -torch.cdist(unit_query(tokens), known)
        return F.pad(out, (0, len(classes) - len(known)), value=-1e6)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"means": self.means}, {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.means = tensors["means"]
