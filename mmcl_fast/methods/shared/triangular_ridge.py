"""Ridge regression onto one-hot classes from a triangular factor of the moments, for more features than samples.

With G = H'H and C = H'Y of all samples so far, the state is R and Z with

    R'R = G,    R'Z = C,    R [r, M] upper triangular,    r = min(n, M)

as the QR decomposition of [H | Y] gives them. For n < M it has fewer numbers than G, and in float32 it keeps small
eigenvalues that a G in float32 would lose. The first k columns of R are the factor of the first k features. So the
moments of all smaller widths are there too.

A solution needs only the matrix K = R R' of r rows: W = (G + lambda I)^-1 C = R'(K + lambda I)^-1 Z.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.ridge_regression import RidgeSpectrum, gcv_value, penalty_grid

LARGEST_EIGENPROBLEM = 3000  # rows of K; with more, a Cholesky decomposition for each tried lambda takes less time
PENALTIES_PER_DECADE, START = 2, 14  # the grid of the Cholesky way, and the position of 0.1 in it
JITTER = 1e-10  # least lift of G's diagonal for its Cholesky decomposition, relative to the diagonal's mean


class RidgeSystem:
    """Ridge regression on a factor R, for any lambda.

    Args:
        factor: R ``[r, k]`` float64.
        targets: Z ``[r, C]`` float64.
        count: n, the number of samples. It is also |Y|^2, since Y is one-hot.

    Attributes:
        scale: the mean eigenvalue of K.
    """

    def __init__(self, factor: Tensor, targets: Tensor, count: int):
        self.factor, self.targets, self.count = factor, targets, count
        self.residual = max(0.0, count - float(targets.square().sum()))
        self.kernel = gram_matrix(factor.T)
        self.scale = float(self.kernel.diagonal().mean())
        self.spectrum: RidgeSpectrum | None = None
        if len(factor) <= LARGEST_EIGENPROBLEM:
            values, self._vectors = torch.linalg.eigh(self.kernel)
            values = values.clamp(min=0)
            self._projected = self._vectors.T @ targets
            explained = self._projected.square().sum(1)
            self.spectrum = RidgeSpectrum(values, explained, self.residual, count)

    def weight(self, penalty: float) -> Tensor:
        """Return W = (G + lambda I)^-1 C ``[k, C]`` float64 for lambda above 0."""
        if self.spectrum is None:
            solved = torch.cholesky_solve(self.targets, self._cholesky(penalty))
        else:
            solved = self._vectors @ (self._projected / (self.spectrum.eigenvalues + penalty).unsqueeze(1))
        return self.factor.T @ solved

    def gcv(self, penalty: float) -> float:
        """Return GCV of lambda, above 0."""
        if self.spectrum is not None:
            return float(self.spectrum.gcv(torch.tensor([penalty], dtype=torch.float64, device=self.factor.device)))
        root = self._cholesky(penalty)
        solved = torch.cholesky_solve(self.targets, root)  # Y - H W is lambda times it, after a rotation
        squares = self.residual + penalty**2 * solved.square().sum()
        df = len(root) - penalty * torch.cholesky_inverse(root).trace()
        return float(gcv_value(self.count, squares, df))

    def best_penalty(self) -> float:
        """Return the lambda with the least GCV; 1 where all features are 0.

        Without an eigendecomposition it is the least one downhill from a tenth of the mean eigenvalue.
        """
        if self.scale <= 0:
            return 1.0
        if self.spectrum is not None:
            return self.spectrum.best_penalty()
        grid, at = penalty_grid(self.scale, PENALTIES_PER_DECADE).tolist(), START
        known = {at: self.gcv(grid[at])}
        while True:
            for neighbour in (at - 1, at + 1):
                if 0 <= neighbour < len(grid) and neighbour not in known:
                    known[neighbour] = self.gcv(grid[neighbour])
            # Of equal values the larger penalty is taken, so the walk ends.
            best = min(known, key=lambda i: (known[i], -i))
            if best == at:
                return grid[at]
            at = best

    def _cholesky(self, penalty: float) -> Tensor:
        lifted = self.kernel.clone()
        lifted.diagonal().add_(penalty)
        return cholesky_with_jitter(lifted)


def cholesky_with_jitter(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a positive semidefinite matrix, whose diagonal is lifted where it must be.

    Args:
        matrix: ``[d, d]`` float64; it is overwritten.
    """
    lift = JITTER * float(matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny / JITTER))
    root, failed = torch.linalg.cholesky_ex(matrix)
    while bool(failed) or not bool(root.diagonal().all()):
        matrix.diagonal().add_(lift)
        lift *= 10
        root, failed = torch.linalg.cholesky_ex(matrix)
    return root


class TriangularMoments:
    """The factor R and the targets Z of all samples so far, float32. It keeps no samples.

    Args:
        width: M, the number of features.
        device: where R and Z lie.

    Attributes:
        factor: R ``[r, M]``.
        targets: Z ``[r, C]``.
        count: n.
    """

    def __init__(self, width: int, device: torch.device):
        self.factor = torch.zeros(0, width, device=device)
        self.targets = torch.zeros(0, 0, device=device)
        self.count = 0

    def add(self, blocks: Iterable[tuple[Tensor, Tensor]], count: int, outputs: int) -> None:
        """Add samples.

        Args:
            blocks: features ``[b, M]`` and labels ``[b]`` int64, which are columns of C, of some samples after others.
            count: the number of samples in all blocks.
            outputs: the number of columns that C has from now on.
        """
        rows, width = self.factor.shape
        factor = self.factor.double()
        targets = F.pad(self.targets, (0, outputs - self.targets.shape[1])).double()
        pairs = ((h.double(), F.one_hot(labels.to(h.device), outputs).double()) for h, labels in blocks)
        if rows + count <= width:
            stacked = [torch.cat([factor, targets], dim=1), *(torch.cat(pair, dim=1) for pair in pairs)]
            factor, targets = torch.linalg.qr(torch.cat(stacked), mode="r").R.split([width, outputs], dim=1)
        else:
            gram, cross = gram_matrix(factor), factor.T @ targets
            for h, y in pairs:
                gram += gram_matrix(h)
                cross += h.T @ y
            factor, targets = self._from_moments(gram, cross)
        self.factor, self.targets = factor.float().contiguous(), targets.float().contiguous()
        self.count += count

    def load_moments(self, gram: Tensor, cross: Tensor, count: int) -> None:
        """Take over G ``[M, M]`` and C ``[M, C]``, float64, and n."""
        factor, targets = self._from_moments(gram.clone(), cross)
        self.factor, self.targets, self.count = factor.float().contiguous(), targets.float().contiguous(), count

    @staticmethod
    def _from_moments(gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        root = cholesky_with_jitter(gram)
        return root.T, torch.linalg.solve_triangular(root, cross, upper=False)

    def system(self, width: int | None = None) -> RidgeSystem:
        """Return the regression on the first ``width`` features; None: on all."""
        width = self.factor.shape[1] if width is None else width
        rows = min(len(self.factor), width)  # the other rows of R are 0 in these columns
        return RidgeSystem(self.factor[:rows, :width].double(), self.targets[:rows].double(), self.count)
