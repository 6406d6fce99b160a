"""KLDA: linear discriminant analysis on random Fourier features (Momeni, Mazumder and Liu 2024, arXiv 2412.15571).

    phi(u) = sqrt(2 / M) cos(W'u + b),    W ~ N(0, 2 gamma),    b ~ U(0, 2 pi),    both fixed
    score_c(u) = w_c'phi(u) + b_c, the linear discriminant of phi with one covariance (:mod:`slda`)

<phi(u), phi(v)> approximates the kernel exp(-gamma |u - v|^2) (Rahimi and Recht 2007, "Random features for large-scale
kernel machines"). u = [z / |z| ; q / |q|] by default. The statistics are sums: with gamma a number, the order of the
tasks does not matter.

Departures from the paper:

- gamma = "auto" takes the median heuristic of Garreau, Jitkrittum and Kanagawa 2017 (arXiv 1707.07269) on the first
  task: a factor / (the median of |u - v|^2 over pairs of its samples). The median over all classes so far would need
  their samples, and another gamma would need their statistics anew. So a first task whose samples are unlike the later
  ones gives a gamma that does not suit these. ``gamma_factor`` can be tuned for that. The paper tunes gamma for each
  encoder.
- The paper inverts the covariance by a pseudo-inverse; its public code scores by the Mahalanobis distance, which ranks
  classes alike. Here the covariance is shrunk first, relative to the mean variance.
- The paper has 5,000 features. The default is smaller, because every checkpoint holds a matrix of M x M numbers.
- Its ensemble of several draws of W, KLDA-E, is left out.

Options: :class:`KldaOptions`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import TaskData
from mmcl_fast.methods.shared.class_statistics import LinearDiscriminant
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.methods.shared.options import CovarianceShrinkage
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import PrefixRate
from mmcl_fast.option_fields import Symbol, Tunable

MEDIAN_SAMPLES = 1000  # most samples whose pairs give the median distance
ROWS = 8192  # samples whose random features are in memory at once
KernelWidth = Annotated[float, Field(gt=0, le=1e6)]


class KldaOptions(FeatureOptions):
    random_features: Annotated[int, Symbol("M")] = Field(2000, ge=1, le=20_000, description="Random Fourier features")
    lr: PrefixRate = 0.015
    gamma: Annotated[KernelWidth | Literal["auto"], Symbol(r"\gamma")] = Field(
        "auto",
        description="Inverse width of the kernel exp(-gamma |u - v|^2). auto: gamma_factor / the median of |u - v|^2 "
        "over pairs of samples of the first task",
    )
    gamma_factor: Annotated[float, Tunable(0.05, 20.0, needs=("gamma", ("auto",)))] = Field(
        1.0, gt=0, le=1e6, description="Factor of gamma = auto"
    )
    shrinkage: Annotated[CovarianceShrinkage, Tunable(1e-3, 1.0)] = 0.2


def median_gamma(u: Tensor, generator: torch.Generator) -> float:
    """Return 1 / the median of |u_i - u_j|^2 over pairs i < j; 1 where there is no pair of different samples.

    Args:
        u: ``[n, d]``. Of more than ``MEDIAN_SAMPLES`` rows, so many random ones are taken.
        generator: draws them.
    """
    u = u[torch.randperm(len(u), generator=generator)[:MEDIAN_SAMPLES].to(u.device)].double().cpu()
    square = torch.pdist(u).square()
    median = float(square[square > 0].median()) if (square > 0).any() else 1.0
    return 1 / median


class Klda(FeatureClassifier):
    """KLDA; see the module's docstring.

    Attributes:
        direction: directions from N(0, 1) ``[width, M]`` float32; W is sqrt(2 gamma) times it.
        offset: b ``[M]`` float32.
        gamma: of the kernel; None until the first task with gamma = "auto".
        discriminant: the statistics of phi, and the linear classifier from them.
    """

    name = "klda"
    supports_distributed = True
    class_state = ("phi/count", "phi/mean")
    Options = KldaOptions

    def __init__(self, encoder: Encoder, options: KldaOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        generator, size = self.generator(1), options.random_features
        self.direction = torch.randn(self.reader.width, size, generator=generator).to(encoder.device)
        self.offset = (2 * math.pi * torch.rand(size, generator=generator)).to(encoder.device)
        self.gamma: float | None = None if options.gamma == "auto" else options.gamma
        self.discriminant = LinearDiscriminant(size, options.shrinkage)

    @property
    def count(self) -> Tensor:
        return self.discriminant.count

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        if self.gamma is None:
            self.gamma = self.options.gamma_factor * median_gamma(u, self.generator(data.index, 6))
        for rows, labels in zip(u.split(ROWS), data.labels.split(ROWS)):
            self.discriminant.add(self.random_features(rows), labels, classes)

    def random_features(self, u: Tensor) -> Tensor:
        """Return phi(u) ``[n, M]`` float32 of u ``[n, width]``."""
        assert self.gamma is not None, "gamma is known from the first task on"
        scale = (2 / self.options.random_features) ** 0.5
        return scale * ((2 * self.gamma) ** 0.5 * (u @ self.direction) + self.offset).cos()

    def class_scores(self, u: Tensor) -> Tensor:
        return self.discriminant(self.random_features(u))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        # Directions are stored: another version of torch may draw other numbers from the same seed.
        tensors |= {"direction": self.direction, "offset": self.offset}
        tensors |= {f"phi/{name}": tensor for name, tensor in self.discriminant.state().items()}
        return tensors, values | {"gamma": self.gamma}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.direction, self.offset, self.gamma = tensors["direction"], tensors["offset"], values["gamma"]
        self.discriminant.load_state(strip_prefix("phi/", tensors))
