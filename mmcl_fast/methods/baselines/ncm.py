"""Nearest class mean on frozen features: iCaRL's rule of prediction (Rebuffi et al. 2017, arXiv 1611.07725).

    mu_c = mean of u over class c
    cosine:     score_c = <u / |u|, mu_c / |mu_c|>
    euclidean:  score_c = -|u - mu_c|^2

u = [z / |z| ; q / |q|] by default. Means are sums, so the order of the tasks does not matter.

Departures from the paper:

- The paper trains its features with exemplars and distillation, and takes the means over the exemplars. Here the
  features are frozen and the means are over all samples, so no exemplar is kept.
- The paper normalises features and means to length 1. The nearest mean then has the largest cosine, which is the
  default. The euclidean distance of unnormalised means is an option of ours.

Options: :class:`NcmOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.class_statistics import ClassStatistics
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.option_fields import TunableChoices


class NcmOptions(FeatureOptions):
    distance: Annotated[Literal["cosine", "euclidean"], TunableChoices("cosine", "euclidean")] = Field(
        "cosine", description="How near a mean is. cosine: the angle to it. euclidean: the squared distance to it"
    )


class Ncm(FeatureClassifier):
    """Nearest class mean; see the module's docstring.

    Attributes:
        statistics: counts and means of classes.
    """

    name = "ncm"
    supports_distributed = True
    class_state = ("count", "mean")
    Options = NcmOptions

    def __init__(self, encoder: Encoder, options: NcmOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.statistics = ClassStatistics(self.reader.width, scatter=False)

    @property
    def count(self) -> Tensor:
        return self.statistics.count

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        self.statistics.add(u, data.labels, classes)

    def class_scores(self, u: Tensor) -> Tensor:
        mean = self.statistics.mean.float().to(u.device)
        if self.options.distance == "cosine":
            return F.normalize(u, dim=1) @ F.normalize(mean, dim=1).T
        return 2 * u @ mean.T - mean.square().sum(1) - u.square().sum(1, keepdim=True)

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        return self.reader.describe_prompts() + self.statistics.remove(label)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors | self.statistics.state(), values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.statistics.load_state(tensors)
