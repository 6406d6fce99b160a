"""Means of classes and one covariance that all classes share, updated exactly; linear discriminant analysis from them.

A batch of class c with m samples, mean b and scatter S_b around b changes n samples with mean mu and scatter S to

    S <- S + S_b + n m / (n + m) (b - mu)(b - mu)',    mu <- mu + m / (n + m) (b - mu),    n <- n + m

Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance". For one sample it is the streaming
update of an LDA. The result does not depend on how samples are divided into batches, nor on the order of tasks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import SHARED_COVARIANCE, gram_matrix
from mmcl_fast.methods.shared.ridge_regression import BLOCK_ROWS


class ClassStatistics:
    """Counts and means of classes, and the scatter of all samples around their class's mean; float64, on the CPU.

    The statistics of a batch are the same bits for any number of processes.

    Args:
        width: d, numbers of a feature.
        scatter: keep the scatter too.

    Attributes:
        count: ``[C]`` int64, samples of each class.
        mean: ``[C, d]``; zeros for a class without samples.
        scatter: S = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})' ``[d, d]``; None without ``scatter``.
    """

    def __init__(self, width: int, *, scatter: bool = True):
        self.count = torch.zeros(0, dtype=torch.int64)
        self.mean = torch.zeros(0, width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64) if scatter else None

    def add(self, x: Tensor, labels: Tensor, classes: int) -> None:
        """Add samples.

        Args:
            x: ``[n, d]``, on any device, the same in every process.
            labels: ``[n]`` int64, ids of classes.
            classes: C from now on; at least the present one.
        """
        more = classes - len(self.count)
        self.count, self.mean = F.pad(self.count, (0, more)), F.pad(self.mean, (0, 0, 0, more))
        labels = labels.cpu()
        blocks = max(1, -(-len(x) // BLOCK_ROWS))

        def block(number: int) -> tuple[Tensor, Tensor]:
            rows = slice(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
            return x[rows].double().cpu(), labels[rows]

        def class_sums(number: int) -> Tensor:
            rows, ids = block(number)
            return torch.zeros_like(self.mean).index_add_(0, ids, rows)

        added = torch.bincount(labels, minlength=classes)
        batch_mean = distributed.tree_sum(blocks, class_sums, self.mean) / added.clamp(min=1).unsqueeze(1)
        share = (added.double() / (self.count + added).clamp(min=1)).unsqueeze(1)
        difference = (batch_mean - self.mean) * (added > 0).unsqueeze(1)
        if self.scatter is not None:

            def scatter(number: int) -> Tensor:
                rows, ids = block(number)
                return gram_matrix(rows - batch_mean[ids])

            met_again = difference * (self.count.unsqueeze(1) * share).sqrt()
            met_again = met_again[met_again.any(1)]
            self.scatter = self.scatter + distributed.tree_sum(blocks, scatter, self.scatter)
            if len(met_again):
                self.scatter = self.scatter + gram_matrix(met_again)
        self.mean = self.mean + share * difference
        self.count = self.count + added

    def remove(self, label: int) -> list[str]:
        """Take a class out, as ``Method.remove_class`` does.

        The scatter holds no class apart, so it is scaled by the share of samples that remain.
        """
        kept = [c for c in range(len(self.count)) if c != label]
        remaining = self.count[kept]
        if self.scatter is None:
            remains = []
        else:
            self.scatter = self.scatter * (remaining.sum() / self.count.sum().clamp(min=1))
            remains = [SHARED_COVARIANCE]
        self.count, self.mean = remaining, self.mean[kept]
        return remains

    def state(self) -> dict[str, Tensor]:
        """Return ``count``, ``mean`` and, where it is kept, ``scatter``."""
        tensors = {"count": self.count, "mean": self.mean}
        return tensors if self.scatter is None else {**tensors, "scatter": self.scatter}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.count, self.mean = tensors["count"].cpu(), tensors["mean"].cpu()
        if self.scatter is not None:
            self.scatter = tensors["scatter"].cpu()


class LinearDiscriminant(ClassStatistics):
    """Linear discriminant analysis with one covariance and equal priors.

        Sigma = S / n,    Sigma_e = (1 - e) Sigma + e tr(Sigma) / d I
        score_c(x) = v_c' Sigma_e^-1 (x - m) - 1/2 v_c' Sigma_e^-1 v_c,    v_c = mu_c - m

    m is the mean of all samples. Any m gives the same differences between classes, and this one keeps scores small, so
    that float32 suffices. The shrinkage is relative to the mean variance, so that it means the same for features of any
    scale. Where no class has two different samples, Sigma is 0 and the identity is taken: the nearest mean wins.

    Args:
        width: d.
        shrinkage: e, above 0.
    """

    def __init__(self, width: int, shrinkage: float):
        super().__init__(width)
        self.shrinkage = shrinkage
        self._weights: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, x: Tensor, labels: Tensor, classes: int) -> None:
        super().add(x, labels, classes)
        self._weights = None

    def remove(self, label: int) -> list[str]:
        self._weights = None
        return super().remove(label)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        super().load_state(tensors)
        self._weights = None

    def covariance(self) -> Tensor:
        """Return Sigma_e ``[d, d]`` float64."""
        assert self.scatter is not None
        identity = torch.eye(len(self.scatter), dtype=torch.float64)
        variance = self.scatter.diagonal().mean() / self.count.sum()
        if variance == 0:
            return identity
        sigma = self.scatter / self.count.sum()
        return (1 - self.shrinkage) * sigma + self.shrinkage * variance * identity

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return m ``[d]``, Sigma_e^-1 v ``[d, C]``, and the constant of each score ``[C]``; float32."""
        if self._weights is None:
            centre = self.count.double() @ self.mean / self.count.sum()
            difference = (self.mean - centre).T
            solved = torch.cholesky_solve(difference, torch.linalg.cholesky(self.covariance()))
            self._weights = centre.float(), solved.float(), (-0.5 * (difference * solved).sum(0)).float()
        return self._weights

    def __call__(self, x: Tensor) -> Tensor:
        """Return scores ``[n, C]`` float32 of x ``[n, d]``."""
        centre, weight, constant = (tensor.to(x.device) for tensor in self.weights())
        return (x.float() - centre) @ weight + constant
