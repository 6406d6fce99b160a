"""A ridge classifier on frozen features, in closed form from accumulated moments.

    W = (X'X + lambda I)^-1 X'Y,    scores = x W

A row of X is u = [z / |z| ; q / |q|], and Y is one-hot. It is RanPAC (McDonnell et al. 2023, arXiv 2307.02251) without
the random layer. It equals joint ridge regression on all tasks' data, whatever the order of the tasks.

With ``penalty = "auto"`` X and Y are centred and generalised cross-validation chooses lambda after each task
(:mod:`mmcl_fast.methods.shared.ridge_regression`). With a number, X has a column of ones, penalised like the rest.
lambda is then the number times the mean of the diagonal of X'X.

Options: :class:`RidgeOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions, Features
from mmcl_fast.methods.shared.options import ChosenPenalty
from mmcl_fast.methods.shared.ridge_regression import Ridge
from mmcl_fast.option_fields import FormerName, TunableChoices


class RidgeOptions(FeatureOptions):
    features: Annotated[Features, FormerName("source")] = "zq"
    penalty: Annotated[ChosenPenalty, TunableChoices("auto", 0.005, 0.02, 0.05, 0.2)] = "auto"


class RidgeMethod(FeatureClassifier):
    """Ridge regression onto one-hot classes; see the module's docstring.

    Attributes:
        ridge: the moments and the solution.
    """

    name = "ridge"
    supports_distributed = True
    class_state = ("cross",)
    Options = RidgeOptions

    def __init__(self, encoder: Encoder, options: RidgeOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.ridge = Ridge(self.reader.width, options.penalty)

    @property
    def count(self) -> Tensor:
        return self.ridge.cross[-1].round().long()  # the constant's row counts the samples

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        self.ridge.add(u, data.labels, classes)

    def class_scores(self, u: Tensor) -> Tensor:
        return self.ridge(u)

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        return self.reader.describe_prompts() + self.ridge.remove(label)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors | self.ridge.state(), values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.ridge.load_state(tensors)
