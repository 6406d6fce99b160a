"""Moments of all modalities' features, and the penalty that generalised cross-validation chooses from them.

Features are centred in their modality, and all modalities share one covariance within the classes. The feature
memory gives the moments, so no sample is needed. Everything is float64: in float32 the solution fails where the
covariance has fewer samples than coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.comm import memory as memories
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.ridge_regression import RidgeSpectrum, penalty_grid

LOWEST_PENALTY, HIGHEST_PENALTY = 0.06, 60.0  # of GCV, relative to the mean variance within a class


class Inverse:
    """The inverse of A = diag(d) + R'R, by Woodbury's formula. It costs k^2 p, so it is cheap for few rows.

    Args:
        diagonal: d ``[p]``, above 0.
        rows: R ``[k, p]`` of the same dtype.
    """

    def __init__(self, diagonal: Tensor, rows: Tensor):
        self.diagonal = diagonal
        inner = gram_matrix((rows / diagonal.sqrt()).T)
        inner.diagonal().add_(1)
        # A^-1 = diag(1 / d) - thin' thin
        self.thin = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), rows / diagonal, upper=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return X A^-1 ``[n, p]`` of rows X ``[n, p]``."""
        return x / self.diagonal - (x @ self.thin.T) @ self.thin

    def trace(self) -> float:
        """Return tr A^-1."""
        return float((1 / self.diagonal).sum() - self.thin.square().sum())


def compress(blocks: Sequence[Tensor]) -> Tensor:
    """Return R ``[k, p]`` with R'R the sum of B'B over the blocks B ``[., p]``, and k <= p.

    The result is the same bits for any number of processes.
    """
    rows = torch.cat(list(blocks))
    if len(rows) <= rows.shape[1]:
        return rows
    like = rows.new_empty(rows.shape[1], rows.shape[1])
    gram = distributed.tree_sum(len(blocks), lambda number: gram_matrix(blocks[number]), like)
    gram.diagonal().add_(1e-12 * gram.diagonal().mean())  # rounding: its rank may be less
    return torch.linalg.cholesky(gram).T.contiguous()


class Moments:
    """The means and covariances of all modalities' features, for the closed form.

    Coordinates that are 0 in all features belong to a tower that no sample went through. They are left out.

    Args:
        memory: the feature memory.
        modalities: the names of the M modalities.
        width: the number of leading coordinates of u that are read.

    Attributes:
        live: numbers ``[p]`` of the coordinates that are read and not always 0.
        own: for each modality the positions in ``live`` of the coordinates that are not always 0 in its features.
        count: N, the number of samples.
        counts: for each modality the number of samples of its classes, ``[K_m]`` float64.
        classes: K, the number of classes, counted once in each modality.
        centre: for each modality the mean of its samples, ``[p]``.
        deviations: for each modality the class means minus its centre, ``[K_m, p]``.
        within_diagonal, within_rows: d ``[p]`` and R ``[k, p]``; diag(d) + R'R is the covariance within the classes.
        between_rows: R ``[k, p]``; R'R is the covariance of the class means around their centres, weighted by counts.
    """

    def __init__(self, memory: FeatureMemory, modalities: list[str], width: int):
        pooled = [memory.pooled[m] for m in modalities]
        device = pooled[0].mean.device
        self.counts = [torch.tensor(list(memory.counts[m].values())).double().to(device) for m in modalities]
        self.count = int(sum(float(n.sum()) for n in self.counts))
        self.classes = sum(len(n) for n in self.counts)
        used = [
            sum(
                (block.mean[:, :width].square().sum(0) for block in memory.blocks[m]),
                g.factor[:, :width].square().sum(0) + g.diagonal[:width],
            )
            > 0
            for m, g in zip(modalities, pooled)
        ]
        self.live = torch.stack(used).any(0).nonzero().flatten()
        self.own = [coordinates[self.live].nonzero().flatten() for coordinates in used]
        means = [memory.means(m)[:, self.live].double() for m in modalities]
        self.centre = [n @ mean / n.sum() for n, mean in zip(self.counts, means)]
        self.deviations = [mean - centre for mean, centre in zip(means, self.centre)]
        # A pooled Gaussian divides by n - 1, whatever the number of classes.
        share = [max(g.count - 1, 1) / max(1, self.count - self.classes) for g in pooled]
        diagonals = [s * g.diagonal[self.live].double() for s, g in zip(share, pooled)]
        self.within_diagonal = torch.stack(diagonals).sum(0)
        self.within_rows = compress([s**0.5 * g.factor[:, self.live].double() for s, g in zip(share, pooled)])
        self.between_rows = compress(self._blocks(0.5))

    def _blocks(self, power: float) -> list[Tensor]:
        """(n_c / N)^power times the deviation of each class, in blocks of rows."""
        return [
            rows
            for n, deviation in zip(self.counts, self.deviations)
            for rows in ((n / self.count).unsqueeze(1) ** power * deviation).split(memories.BLOCK_CLASSES)
        ]

    @property
    def within_trace(self) -> float:
        """The trace of the covariance within the classes."""
        return float(self.within_diagonal.sum() + self.within_rows.square().sum())

    @property
    def scale(self) -> float:
        """The mean variance within a class; 1 where there is none."""
        return self.within_trace / len(self.live) or 1.0

    def inverse(self, penalty: float, columns: Tensor, dtype: torch.dtype = torch.float64) -> Inverse:
        """Return the inverse of S = (1 - K/N) W + penalty * scale * I, with W the covariance within the classes.

        Args:
            penalty: relative to ``scale``.
            columns: positions in ``live`` of the rows and columns of S that are taken.
            dtype: of the computation. float32 does where S is only tried.
        """
        share = 1 - self.classes / self.count
        diagonal = share * self.within_diagonal[columns] + penalty * self.scale
        return Inverse(diagonal.to(dtype), (share**0.5 * self.within_rows[:, columns]).to(dtype))

    def spectrum(self) -> RidgeSpectrum:
        """Return the spectrum of ridge regression of the centred one-hots on the centred features, for GCV.

        Its leading directions span the factors and all class means. The variance that is left lies in the
        other directions that the samples can span, the same in each: of N samples in M modalities N - M.
        """
        share = 1 - self.classes / self.count
        rows = compress([share**0.5 * self.within_rows, self.between_rows])
        values, vectors = torch.linalg.eigh(gram_matrix(rows.T))
        kept = values > 1e-12 * values[-1]
        values = values[kept]
        directions = (vectors[:, kept] / values.sqrt()).T @ rows  # unit rows
        left = share * float(self.within_diagonal.sum()) / len(self.live)
        values = values + left
        cross = directions @ compress(self._blocks(1.0)).T
        explained = cross.square().sum(1) / values
        square = 1 - sum(float(n.square().sum() / n.sum()) for n in self.counts) / self.count
        free = len(self.centre)
        others = max(0, min(len(self.live), self.count - free) - len(values))
        if others:
            rest = left * (len(self.live) - len(values)) / others
            values = torch.cat([values.new_full((others,), rest), values])
            explained = F.pad(explained, (others, 0))
        residual = max(0.0, square - float(explained.sum()))
        return RidgeSpectrum(values.cpu(), explained.cpu(), residual, self.count, free)

    def gcv_penalty(self) -> float:
        """Return the penalty that GCV chooses, relative to ``scale`` and within fixed bounds.

        Ridge regression gives directions that no sample spans the penalty alone. The covariance's diagonal already
        gives them some, so that is taken from the penalty.
        """
        unseen = max(0.0, 1 - (self.count - len(self.centre)) / len(self.live))
        has, spectrum = unseen * float(self.within_diagonal.mean()), self.spectrum()
        if not len(spectrum.eigenvalues):  # one sample: everything has the same score
            return 1.0
        tried = penalty_grid(float(spectrum.eigenvalues.mean()))
        best = float(tried[spectrum.gcv(tried, rho=1.0).argmin()])
        return min(max((best - has) / self.scale, LOWEST_PENALTY), HIGHEST_PENALTY)
