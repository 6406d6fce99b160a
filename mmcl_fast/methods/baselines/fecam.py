"""FeCAM: Mahalanobis distances with a covariance for each class (Goswami et al. 2023, arXiv 2309.14062).

    t = sign(u) |u|^lambda
    mu_c, Sigma_c = mean and covariance of t over class c
    Sigma_s = Sigma_c + gamma_1 V_1 I + gamma_2 V_2 (1 1' - I)
    Sigma_n(i, j) = Sigma_s(i, j) / sqrt(Sigma_s(i, i) Sigma_s(j, j))
    x_c = t / |t| - mu_c / |mu_c|,    score_c = - x_c' Sigma_n^-1 x_c

These are Tukey's transform, shrinkage, correlations and the Mahalanobis distance. V_1 and V_2 are the means of the
diagonal and of the other entries of Sigma_c. u = [z / |z| ; q / |q|] by default. The statistics are exact for classes
met again, so the order of the tasks does not matter.

Departures from the paper and its public code:

- The transform keeps the sign of a feature, because z has both signs. The paper's features come after a ReLU. A power
  below 1 makes such features less like a Gaussian, not more, so the default is lambda = 1: no transform.
- Features are transformed before their mean is taken, as in the paper; the public code transforms the mean.
- The public code shrinks twice. That is one shrinkage by gamma (2 + gamma), so its gammas of 1 are the defaults 3 here.
- A V_2 below 0 counts as 0, and gamma_2 V_2 as gamma_1 V_1 at most. Then Sigma_s can be inverted, whatever the features
  are. For features of both signs V_2 is near 0, so gamma_2 changes little and is not searched.
- A class whose samples are all the same, such as a class of one sample, has V_1 = 0. Its Sigma_n is the identity.
- The scatter of a class is kept as R with R'R = (n - 1) Sigma_c. For n samples R has min(n - 1, d) rows, while Sigma_c
  has d. R and the mean of a class with few samples reveal its features up to a rotation.

Options: :class:`FeCamOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import TaskData
from mmcl_fast.methods.shared.class_statistics import ClassStatistics
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.methods.shared.options import TINY, Positive, Weight
from mmcl_fast.methods.shared.prompt_training import PrefixRate
from mmcl_fast.option_fields import Symbol, Tunable


class FeCamOptions(FeatureOptions):
    lr: PrefixRate = 0.015
    tukey: Annotated[float, Symbol(r"\lambda"), Tunable(0.25, 4.0)] = Field(
        1.0, gt=0, le=8, description="Power of Tukey's transform; 1: features as they are"
    )
    variance_shrinkage: Annotated[Positive, Symbol(r"\gamma_1"), Tunable(0.1, 100.0)] = Field(
        3.0, description="Weight of the mean variance, which is added to each variance of a class"
    )
    covariance_shrinkage: Annotated[Weight, Symbol(r"\gamma_2")] = Field(
        3.0, description="Weight of the mean covariance, which is added to each covariance of a class"
    )


def tukey_transform(u: Tensor, power: float) -> Tensor:
    """Return sign(u) |u|^power, elementwise."""
    return u.sign() * u.abs() ** power


def scatter_factor(x: Tensor) -> Tensor:
    """Return R ``[n - 1, d]`` with R'R = sum_i (x_i - mean)(x_i - mean)' of x ``[n, d]``.

    Row k is (x_1 + ... + x_k - k x_{k+1}) / sqrt(k (k + 1)): Helmert's contrasts.
    """
    k = torch.arange(1, len(x), dtype=x.dtype, device=x.device).unsqueeze(1)
    return (x.cumsum(0)[:-1] - k * x[1:]) / (k * (k + 1)).sqrt()


def compressed(rows: Tensor) -> Tensor:
    """Return R with R'R = rows'rows and at most d rows, for rows ``[r, d]``."""
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R


class Mahalanobis:
    """Squared Mahalanobis distances by the shrunk correlations of one class, from a factor of its scatter.

    U has the rows of R / sqrt(n - 1) and sqrt(gamma_2 V_2) 1'. With a = gamma_1 V_1 - gamma_2 V_2, Sigma_s = U'U + a I.
    With s = sqrt(diag(Sigma_s)) and y = s * x the distance is y' Sigma_s^-1 y. By Woodbury's identity it is

        (|y|^2 - |K y|^2) / a,    K = L^-1 U,    L L' = U U' + a I

    Args:
        factor: R ``[r, d]``.
        count: n, the number of samples.
        gamma: the shrinkages gamma_1 of variances and gamma_2 of covariances.

    Attributes:
        scale: s / sqrt(a) ``[d]`` float32.
        whitening: K ``[r + 1, d]`` float32; no rows where the correlations are the identity.
    """

    def __init__(self, factor: Tensor, count: int, gamma: tuple[float, float]):
        rows, width = factor.double() / max(count - 1, 1) ** 0.5, factor.shape[1]
        variance = rows.square().sum(0)
        mean_variance = float(variance.mean())
        if mean_variance == 0:
            self.scale, self.whitening = torch.ones(width), torch.zeros(0, width)
            return
        total = float(rows.sum(1).square().sum() - variance.sum())  # of the entries beside the diagonal
        mean_covariance = max(total / max(width * (width - 1), 1), 0.0)
        lift = gamma[0] * mean_variance  # of each variance
        common = min(gamma[1] * mean_covariance, (1 - TINY) * lift)  # of each covariance
        level = lift - common
        u = torch.cat([rows, rows.new_full((1, width), common**0.5)])
        gram = u @ u.T + level * torch.eye(len(u), dtype=torch.float64)
        whitening = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), u, upper=False)
        self.scale = ((variance + lift) / level).sqrt().float()
        self.whitening = whitening.float()

    def to(self, device: torch.device) -> Mahalanobis:
        """Move the tensors to a device and return self."""
        self.scale, self.whitening = self.scale.to(device), self.whitening.to(device)
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Return distances ``[n]`` float32 of differences x ``[n, d]`` from the mean."""
        y = x * self.scale
        return y.square().sum(1) - (y @ self.whitening.T).square().sum(1)


class FeCam(FeatureClassifier):
    """FeCAM; see the module's docstring.

    Attributes:
        statistics: counts and means of t.
        factors: R of each class, ``[r, d]`` float32.
    """

    name = "fecam"
    supports_distributed = True
    class_state = ("count", "mean", "factor")
    Options = FeCamOptions

    def __init__(self, encoder: Encoder, options: FeCamOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.statistics = ClassStatistics(self.reader.width, scatter=False)
        self.factors: list[Tensor] = []
        self._distances: dict[int, Mahalanobis] = {}

    @property
    def count(self) -> Tensor:
        return self.statistics.count

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        t, labels = tukey_transform(u, self.options.tukey), data.labels.cpu()
        earlier = {c: (int(n), self.statistics.mean[c]) for c, n in enumerate(self.count) if n}
        self.statistics.add(t, labels, classes)
        self.factors += [torch.zeros(0, u.shape[1]) for _ in range(classes - len(self.factors))]
        for c in labels.unique().tolist():
            x = t[(labels == c).to(t.device)].double().cpu()
            rows = [self.factors[c].double(), scatter_factor(x)]
            if c in earlier:
                n, mean = earlier[c]
                rows.append((n * len(x) / (n + len(x))) ** 0.5 * (x.mean(0, keepdim=True) - mean))
            self.factors[c] = compressed(torch.cat(rows)).float().contiguous()
            self._distances.pop(c, None)
            distributed.broadcast_tensors(self.factors[c])  # the same bits on unlike machines too

    def _distance(self, c: int) -> Mahalanobis:
        if c not in self._distances:
            gamma = self.options.variance_shrinkage, self.options.covariance_shrinkage
            distance = Mahalanobis(self.factors[c], int(self.count[c]), gamma)
            self._distances[c] = distance.to(self.encoder.device)
        return self._distances[c]

    def class_scores(self, u: Tensor) -> Tensor:
        x = F.normalize(tukey_transform(u, self.options.tukey), dim=1)
        mean = F.normalize(self.statistics.mean, dim=1).float().to(u.device)
        return torch.stack([-self._distance(c)(x - mean[c]) for c in range(len(mean))], dim=1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        tensors |= self.statistics.state() | {"factor": torch.cat([*self.factors, torch.zeros(0, self.reader.width)])}
        return tensors, values | {"factor_rows": [len(factor) for factor in self.factors]}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.statistics.load_state(tensors)
        self.factors = list(tensors["factor"].cpu().split(values["factor_rows"]))
        self._distances = {}
