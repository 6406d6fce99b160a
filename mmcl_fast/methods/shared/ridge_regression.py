"""Ridge regression onto one-hot classes in closed form, from accumulated moments.

The penalty is a number, or generalised cross-validation chooses it (Golub, Heath and Wahba 1979, Technometrics 21):

    GCV(lambda) = n RSS(lambda) / (n - rho df(lambda))^2,    RSS = |Y - X W|^2 = |Y|^2 - 2 tr W'C + tr W'G W

with G = X'X, C = X'Y and df the trace of the hat matrix X (G + lambda I)^-1 X'. With eigenvalues e_i and eigenvectors
v_i of G, and b_i = |v_i'C|^2 / e_i the part of |Y|^2 along v_i:

    df = sum_i e_i / (e_i + lambda),    RSS = |Y|^2 - sum_i b_i + sum_i b_i (lambda / (e_i + lambda))^2

So one eigendecomposition gives GCV for every lambda, and no sample is needed.

rho = 1 is GCV itself. It fails where samples come in near-duplicates, such as clips of one recording. With as many
coordinates as samples, few pairs that predict each other then make lambda = 0 look best. Kim and Gu (2004, Journal of
the Royal Statistical Society B 66) count df ``rho`` times against such choices. Then df stays below n / rho.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import SHARED_COVARIANCE, gram_matrix, symmetric

BLOCK_ROWS = 2048  # samples whose moments are summed at once
RHO = 1.1  # larger than the share of samples with a near-duplicate; the choice is then near leaving one sample out
PENALTIES_PER_DECADE, LOWEST_DECADE, HIGHEST_DECADE = 8, -8, 3  # tried penalties, relative to the mean eigenvalue


def penalty_grid(scale: float, per_decade: int = PENALTIES_PER_DECADE) -> Tensor:
    """Return the penalties that are tried, float64 and ascending, from 10^-8 to 10^3 times ``scale``."""
    count = (HIGHEST_DECADE - LOWEST_DECADE) * per_decade + 1
    return scale * 10 ** torch.linspace(LOWEST_DECADE, HIGHEST_DECADE, count, dtype=torch.float64)


def gcv_value(count: int, squares: Tensor, df: Tensor, rho: float = RHO) -> Tensor:
    """Return n RSS / (n - rho df)^2, infinite where rho df is n or more; of tensors of one shape, elementwise."""
    left = count - rho * df
    return torch.where(left > 0, count * squares / left.square(), torch.inf)


@dataclass(frozen=True)
class RidgeSpectrum:
    """The quantities from which GCV is computed, in the eigenvectors of the Gram matrix.

    Attributes:
        eigenvalues: e ``[r]`` float64, none below 0; r is at most n - ``free``.
        explained: b ``[r]`` float64, the part of |Y|^2 along each eigenvector.
        residual: the part of |Y|^2 along none of them.
        count: n, the number of samples.
        free: the number of columns of X without a penalty, such as an intercept. X and Y are orthogonal to them.
    """

    eigenvalues: Tensor
    explained: Tensor
    residual: float
    count: int
    free: int = 0

    def gcv(self, penalties: Tensor, rho: float = RHO) -> Tensor:
        """Return GCV ``[p]`` float64 of penalties ``[p]``, each above 0; infinite where rho df is n or more."""
        shrunk = penalties[:, None] / (self.eigenvalues + penalties[:, None])
        squares = self.residual + shrunk.square() @ self.explained
        return gcv_value(self.count, squares, self.free + (1 - shrunk).sum(1), rho)

    def best_penalty(self) -> float:
        """Return the penalty of the grid with the least GCV, the largest of equal ones; 1 where X is constant."""
        if not bool((self.eigenvalues > 0).any()):
            return 1.0
        grid = penalty_grid(float(self.eigenvalues.mean()))
        values = self.gcv(grid)
        return float(grid[values <= values.min() * (1 + 1e-9)][-1])


def decompose(
    gram: Tensor, cross: Tensor, target_square: float, count: int, *, free: int = 0, noise: float | None = None
) -> tuple[RidgeSpectrum, Tensor, Tensor]:
    """Return the spectrum of a ridge regression, its eigenvectors, and C in them.

    Eigenvalues that are rounding errors are left out, with their eigenvectors. There are at most n - ``free`` others.

    Args:
        gram: G ``[d, d]`` float64.
        cross: C ``[d, C]`` float64.
        target_square: |Y|^2.
        count: n.
        free: as in :class:`RidgeSpectrum`; G, C and |Y|^2 are those after the projection.
        noise: the trace of the matrix whose rounding errors G has; None: of G itself.

    Returns:
        The spectrum; V ``[d, r]``; V'C ``[r, C]``. The solution for a penalty is V ((V'C) / (e + lambda)).
    """
    values, vectors = torch.linalg.eigh(gram)
    tolerance = torch.finfo(gram.dtype).eps * len(gram) * float(gram.trace() if noise is None else noise)
    rank = min(int((values > tolerance).sum()), max(0, count - free))
    values, vectors = values[len(values) - rank :], vectors[:, len(gram) - rank :]
    projected = vectors.T @ cross
    explained = projected.square().sum(1) / values
    residual = max(0.0, target_square - float(explained.sum()))
    return RidgeSpectrum(values, explained, residual, count, free), vectors, projected


class Ridge:
    """Ridge regression from accumulated moments, whatever the order of the tasks. It keeps no samples.

    A row of X is x with a constant 1 at its end. With a number as the penalty, the constant is penalised like the rest:

        W = (X'X + lambda tr(X'X)/(d + 1) I)^-1 X'Y

    With ``"auto"`` the intercept is free: x and y are centred, coordinates of x that were never above or below 0 are
    left out, and GCV chooses lambda. The moments of a task are the same bits for any number of processes.

    Args:
        width: d, numbers of an x.
        penalty: lambda, or ``"auto"``.
    """

    def __init__(self, width: int, penalty: float | Literal["auto"]):
        self.penalty = penalty
        self.gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.cross = torch.zeros(width + 1, 0, dtype=torch.float64)
        self._weight: Tensor | None = None

    def add(self, x: Tensor, target: Tensor, outputs: int) -> None:
        """Add samples to the moments.

        Args:
            x: ``[n, d]``.
            target: ``[n]`` int64, the column of each sample.
            outputs: the number of columns from now on.
        """
        self.cross = F.pad(self.cross, (0, outputs - self.cross.shape[1]))

        def block(number: int) -> Tensor:
            return F.pad(x[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS].double(), (0, 1), value=1.0).cpu()

        def gram(number: int) -> Tensor:
            return gram_matrix(block(number))

        def cross(number: int) -> Tensor:
            columns = target[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS].cpu()
            return block(number).T @ F.one_hot(columns, outputs).double()

        count = max(1, -(-len(x) // BLOCK_ROWS))
        # The order of a tree sum does not depend on how the blocks are divided among processes.
        self.gram += distributed.tree_sum(count, gram, self.gram)
        self.cross += distributed.tree_sum(count, cross, self.cross)
        self._weight = None

    def remove(self, label: int) -> list[str]:
        """Take a class out, as ``Method.remove_class`` does.

        G = sum_k n_k [mu_k ; 1] [mu_k ; 1]' + S, with S the scatter within the classes. The class's own term goes, and
        S is scaled by the share of samples that remain.
        """
        total, count = self.cross[-1].clamp(min=1), self.gram[-1, -1].clamp(min=1)

        def between(columns: list[int]) -> Tensor:
            return gram_matrix((self.cross[:, columns] / total[columns].sqrt()).T)

        kept = [c for c in range(self.cross.shape[1]) if c != label]
        within = self.gram - between(list(range(self.cross.shape[1])))
        self.gram = symmetric(between(kept) + within * (self.cross[-1, kept].sum() / count))
        self.cross, self._weight = self.cross[:, kept], None
        return [SHARED_COVARIANCE]

    def weight(self) -> Tensor:
        """Return the solution ``[d + 1, outputs]`` float32, with the constant's row last."""
        if self._weight is None:
            self._weight = (self._chosen() if self.penalty == "auto" else self._fixed(float(self.penalty))).float()
        return self._weight

    def _fixed(self, penalty: float) -> Tensor:
        lift = penalty * self.gram.diagonal().mean()
        return torch.linalg.solve(self.gram + lift * torch.eye(len(self.gram), dtype=torch.float64), self.cross)

    def _chosen(self) -> Tensor:
        spectrum, vectors, projected, used = self._centred()
        count, total = self.gram[-1, -1].clamp(min=1), self.cross[-1]
        weight = torch.zeros_like(self.cross)
        weight[used] = vectors @ (projected / (spectrum.eigenvalues + spectrum.best_penalty()).unsqueeze(1))
        weight[-1] = (total - self.gram[-1] @ weight) / count  # the constant's own row is 0 until here
        return weight

    def spectrum(self) -> RidgeSpectrum:
        """Return the spectrum of the centred regression; GCV is computed from it."""
        return self._centred()[0]

    def _centred(self) -> tuple[RidgeSpectrum, Tensor, Tensor, Tensor]:
        """Return what :func:`decompose` returns of the centred moments, and the numbers ``[k]`` of their coordinates.

        A coordinate that was always 0 belongs to a tower that no sample went through.
        """
        count, sums, total = self.gram[-1, -1].clamp(min=1), self.gram[:-1, -1], self.cross[-1]
        used = (self.gram.diagonal()[:-1] > 0).nonzero().flatten()
        raw, sums = self.gram[used][:, used], sums[used]
        gram = symmetric(raw - torch.outer(sums, sums) / count)
        cross = self.cross[used] - torch.outer(sums, total) / count
        square = float((total - total.square() / count).sum())
        found = decompose(gram, cross, square, round(float(count)), free=1, noise=float(raw.trace()))
        return *found, used

    def __call__(self, x: Tensor) -> Tensor:
        """Return scores ``[n, outputs]`` float32 of x ``[n, d]``."""
        weight = self.weight().to(x.device)
        return x.float() @ weight[:-1] + weight[-1]

    def state(self) -> dict[str, Tensor]:
        return {"gram": self.gram, "cross": self.cross}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.gram, self.cross, self._weight = tensors["gram"], tensors["cross"], None
