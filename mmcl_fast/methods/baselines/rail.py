"""RAIL in its dual form (Xu et al. 2024, NeurIPS, arXiv 2406.18868): recursive kernel ridge regression.

    k(u, v) = exp(-gamma |u - v|^2),    alpha = (K + lambda I)^-1 Y,    f(u) = k(u, U) alpha

U are the features of all samples so far, K = k(U, U) and Y are their one-hot classes. A task with features V extends K
by the blocks k(V, U) and k(V, V), and Y by rows and columns (theorem 2 of the paper). Here the Cholesky factor of
K + lambda I grows by these blocks, so alpha is the solution of all tasks together:

    L <- [L, 0; B, chol(k(V, V) + lambda I - B B')],    B = k(V, U) L^-T

The scores are fused with zero-shot probabilities p = softmax(s cos(z, T)), as in the paper. beta is ``fusion``:

    p over all classes has its maximum at a learned class:    (1 - beta) p + beta f, with f = 0 for other classes
    otherwise:                                                p

So a class that was never learned keeps its zero-shot score. Where all classes are learned, every sample gets the first
line.

u = [z / |z| ; q / |q|] by default, and p reads the bare head's z.

Departures from the paper:

- The paper's features are CLIP's z of an image. Here they are u, which all closed-form classifiers read.
- Its primal form, ridge regression on a layer of random features, is left out: ``ranpac`` solves the same equation.
- p has the encoder's logit scale. The paper's public code has 100, which is CLIP's.

The defaults of gamma, lambda and beta come from the public code.

The dual form keeps the features of every sample. It is no method for data that must not be kept, and its cost grows
with the square of the number of samples.

Options: :class:`RailOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.classifier import require_one_process
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.methods.shared.gram import symmetric
from mmcl_fast.methods.shared.options import Positive, Share
from mmcl_fast.methods.shared.prompt_training import PrefixRate
from mmcl_fast.option_fields import Symbol, Tunable

MOST_SAMPLES = 30_000  # their Cholesky factor has 7 GB
ROWS = 1024  # samples whose kernel values are in memory at once


def kernel(u: Tensor, v: Tensor, gamma: float) -> Tensor:
    """Return exp(-gamma |u_i - v_j|^2) ``[n, m]`` float64 of rows u ``[n, d]`` and v ``[m, d]``."""
    u, v = u.double(), v.double()
    squares = u.square().sum(1, keepdim=True) + v.square().sum(1) - 2 * u @ v.T
    return (-gamma * squares.clamp(min=0)).exp()


class KernelRidge:
    """Kernel ridge regression onto one-hot classes that grows by blocks of samples.

    Args:
        width: d, numbers of a feature.
        gamma: inverse width of the kernel.
        penalty: lambda.
        device: where features and labels lie.

    Attributes:
        features: U ``[n, d]`` float32.
        labels: ``[n]`` int64, columns of Y.
        blocks: the number of samples of each block.
        root: L ``[n, n]`` float64.
    """

    def __init__(self, width: int, gamma: float, penalty: float, device: torch.device):
        self.gamma, self.penalty = gamma, penalty
        self.features = torch.zeros(0, width, device=device)
        self.labels = torch.zeros(0, dtype=torch.long, device=device)
        self.blocks: list[int] = []
        self.root = torch.zeros(0, 0, dtype=torch.float64, device=device)

    def add(self, u: Tensor, labels: Tensor) -> None:
        """Add a block of samples: features ``[m, d]`` and labels ``[m]``."""
        known, total = len(self.features), len(self.features) + len(u)
        # L B' = k(U, V), so that B = k(V, U) L^-T.
        below = torch.linalg.solve_triangular(self.root, kernel(self.features, u, self.gamma), upper=False).T
        corner = symmetric(kernel(u, u, self.gamma) - below @ below.T)
        corner.diagonal().add_(self.penalty)
        root = torch.zeros(total, total, dtype=torch.float64, device=u.device)
        root[:known, :known], root[known:, :known] = self.root, below
        root[known:, known:] = torch.linalg.cholesky(corner)
        self.root = root
        self.features = torch.cat([self.features, u])
        self.labels = torch.cat([self.labels, labels.to(u.device)])
        self.blocks.append(len(u))

    def load(self, features: Tensor, labels: Tensor, blocks: list[int]) -> None:
        """Take over samples by adding their blocks one by one: L gets the same bits as it had."""
        self.features, self.labels, self.blocks = features[:0], labels[:0], []
        self.root = torch.zeros(0, 0, dtype=torch.float64, device=features.device)
        for u, some in zip(features.split(blocks), labels.split(blocks)):
            self.add(u, some)

    def weight(self, classes: int) -> Tensor:
        """Return alpha ``[n, C]`` float64 for C classes."""
        return torch.cholesky_solve(F.one_hot(self.labels, classes).double(), self.root)


class RailOptions(FeatureOptions):
    lr: PrefixRate = 0.015
    gamma: Annotated[Positive, Symbol(r"\gamma"), Tunable(0.01, 10.0)] = Field(
        0.1, description="Inverse width of the kernel exp(-gamma |u - v|^2)"
    )
    penalty: Annotated[Positive, Symbol(r"\lambda"), Tunable(0.0001, 1.0)] = Field(
        0.001, description="Ridge penalty, added to the diagonal of the kernel matrix, which is 1"
    )
    fusion: Annotated[Share, Symbol(r"\beta")] = Field(
        0.9, description="Share of the kernel's scores in the fused scores; the rest is the zero-shot probability"
    )


class Rail(FeatureClassifier):
    """RAIL in its dual form; see the module's docstring.

    Attributes:
        regression: the samples' features and the kernel ridge regression on them.
    """

    name = "rail"
    class_state = ("features", "labels")
    Options = RailOptions

    def __init__(self, encoder: Encoder, options: RailOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.regression = KernelRidge(self.reader.width, options.gamma, options.penalty, encoder.device)
        self._count_samples(0)

    @property
    def count(self) -> Tensor:
        return self._count

    def _count_samples(self, classes: int) -> None:
        """Count the samples of each class once, since a traced graph can't; forget alpha."""
        self._count = self.regression.labels.bincount(minlength=classes)
        self._weight: Tensor | None = None

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        require_one_process(self)
        total = len(self.regression.features) + len(u)
        if total > MOST_SAMPLES:
            raise ConfigError(
                f"method.name = 'rail': keeps the features of every sample, and {total:,} are more than "
                f"{MOST_SAMPLES:,}; learn fewer samples, or use ranpac"
            )
        self.regression.add(u, data.labels)
        self._count_samples(classes)

    def class_scores(self, u: Tensor) -> Tensor:
        if self._weight is None:
            self._weight = self.regression.weight(len(self._count))
        known, gamma = self.regression.features, self.options.gamma
        # A graph for export has any number of samples, so it can't be cut into blocks.
        parts = [u] if self.embedding_cache.tracing else u.split(ROWS)
        return torch.cat([kernel(rows, known, gamma) @ self._weight for rows in parts]).float()

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        zero_shot = self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        count = self.count
        if not len(count):
            return zero_shot
        more = len(classes) - len(count)
        found = F.pad(self.class_scores(self.reader(tokens, modality, given=given)), (0, more))
        learned = F.pad(count > 0, (0, more))
        probability, share = zero_shot.softmax(1), self.options.fusion
        fused = (1 - share) * probability + share * found
        return torch.where(learned[probability.argmax(1)].unsqueeze(1), fused, probability)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        tensors |= {"features": self.regression.features, "labels": self.regression.labels}
        return tensors, values | {"blocks": list(self.regression.blocks), "classes": len(self._count)}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.regression.load(tensors["features"], tensors["labels"], list(values["blocks"]))
        self._count_samples(values["classes"])
