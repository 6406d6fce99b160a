"""Ridge regression onto one-hot classes in closed form, from accumulated moments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import gram_matrix

BLOCK_ROWS = 2048  # samples whose moments are summed at once


class Ridge:
    """Ridge regression from accumulated moments: W = (X'X + lambda tr(X'X)/(d + 1) I)^-1 X'Y.

    A row of X is x with a constant 1 at its end. Tasks may come in any order, or in batches: the solution is the joint
    one, without replay. The moments of a task are the same bits for any number of processes.

    Args:
        width: d, numbers of an x.
        penalty: lambda.
    """

    def __init__(self, width: int, penalty: float):
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

    def weight(self) -> Tensor:
        """Return the solution ``[d + 1, outputs]`` float32, with the constant's row last."""
        if self._weight is None:
            lift = self.penalty * self.gram.diagonal().mean()
            system = self.gram + lift * torch.eye(len(self.gram), dtype=torch.float64)
            self._weight = torch.linalg.solve(system, self.cross).float()
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """Return scores ``[n, outputs]`` float32 of x ``[n, d]``."""
        weight = self.weight().to(x.device)
        return x.float() @ weight[:-1] + weight[-1]

    def state(self) -> dict[str, Tensor]:
        return {"gram": self.gram, "cross": self.cross}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.gram, self.cross, self._weight = tensors["gram"], tensors["cross"], None
