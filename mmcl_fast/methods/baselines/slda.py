"""Deep streaming linear discriminant analysis (Hayes and Kanan 2020, arXiv 1909.01520) on frozen features.

A mean for each class and one covariance for all classes; a sample x of class y updates them by

    S <- S + n_y / (n_y + 1) (x - mu_y)(x - mu_y)',    mu_y <- (n_y mu_y + x) / (n_y + 1),    n_y <- n_y + 1
    Sigma = S / sum_c n_c,    Sigma_e = (1 - e) Sigma + e tr(Sigma) / d I
    score_c(x) = mu_c' Sigma_e^-1 x - 1/2 mu_c' Sigma_e^-1 mu_c

x is u = [z / |z| ; q / |q|] by default. Tasks are added in batches, which gives the same as one sample after another.

Departures from the paper:

- Its update of the covariance has the weight t / (t + 1) in place of n_y / (n_y + 1), with t the number of all samples
  so far. The public code starts each mean at 0, so that a class's first sample enters with its full outer product.
  With n_y the result is the covariance within classes, whatever the order of the samples.
- The paper shrinks with e I, e = 0.0001. Here the shrinkage is relative to the mean variance, so that it means the same
  for features of any scale.
- The paper starts from a covariance of the first batch, by the OAS estimator. Here nothing precedes the stream.

Options: :class:`SldaOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.class_statistics import LinearDiscriminant
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.methods.shared.options import CovarianceShrinkage
from mmcl_fast.option_fields import Tunable


class SldaOptions(FeatureOptions):
    shrinkage: Annotated[CovarianceShrinkage, Tunable(1e-3, 1.0)] = 0.2


class Slda(FeatureClassifier):
    """Streaming LDA; see the module's docstring.

    Attributes:
        discriminant: means, scatter and the linear classifier from them.
    """

    name = "slda"
    supports_distributed = True
    class_state = ("count", "mean")
    Options = SldaOptions

    def __init__(self, encoder: Encoder, options: SldaOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.discriminant = LinearDiscriminant(self.reader.width, options.shrinkage)

    @property
    def count(self) -> Tensor:
        return self.discriminant.count

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        self.discriminant.add(u, data.labels, classes)

    def class_scores(self, u: Tensor) -> Tensor:
        return self.discriminant(u)

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        return self.reader.describe_prompts() + self.discriminant.remove(label)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors | self.discriminant.state(), values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.discriminant.load_state(tensors)
