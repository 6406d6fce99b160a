"""A linear classifier over z that grows with the classes, and the training of prompts beside it.

What the baselines share that classify by a trained layer rather than by class texts (L2P, arXiv 2112.08654, and what
follows it): one layer for all classes, trained on the current task's classes only, asked for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.base import Method
from mmcl_fast.methods.shared.prompts import train_groups


def feature(z: Tensor) -> Tensor:
    """sqrt(D) z / |z|, ``[..., D]`` float32: entries of mean square 1 whatever the encoder's scale, so that a learning
    rate means the same for all."""
    return F.normalize(z.float(), dim=-1) * z.shape[-1] ** 0.5


class Growing:
    """Logits W f(z) + b with a row for each class; new rows are 0.

    Attributes:
        weight: ``[C, D]`` float32.
        bias: ``[C]`` float32.
    """

    def __init__(self, dim: int, device: torch.device):
        self.weight = torch.zeros(0, dim, device=device)
        self.bias = torch.zeros(0, device=device)

    def __len__(self) -> int:
        return len(self.bias)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def grow(self, count: int) -> None:
        """Rows for ``count`` classes from now on, in new tensors; those there are keep their values."""
        more = count - len(self)
        self.weight, self.bias = F.pad(self.weight.detach(), (0, 0, 0, more)), F.pad(self.bias.detach(), (0, more))

    def __call__(self, z: Tensor) -> Tensor:
        """z ``[B, D]``, as the head gives it -> logits ``[B, C]``."""
        return feature(z) @ self.weight.T + self.bias

    def loss(self, z: Tensor, targets: Tensor, classes: list[int], reduction: str = "mean") -> Tensor:
        """Cross-entropy over the task's classes alone, the other logits masked (L2P and its successors' public code).

        Args:
            targets: ``[B]`` int64, places in ``classes`` (``TaskData.targets``).
            classes: global class ids of the task.
        """
        return F.cross_entropy(self(z)[:, classes], targets, reduction=reduction)

    def scores(self, z: Tensor, count: int) -> Tensor:
        """Logits ``[n, count]`` without gradient; -inf for classes without a row."""
        with torch.no_grad():
            return F.pad(self(z), (0, count - len(self)), value=float("-inf"))

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach(), "bias": self.bias.detach()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.weight, self.bias = tensors["weight"], tensors["bias"]


def require_one_process(method: Method) -> None:
    """Raises ConfigError where several processes learn together."""
    if distributed.world_size() > 1:
        raise ConfigError(f"method.name = {method.name!r}: learns in one process only; start it with one device")


def train(
    method: Method,
    groups: Sequence[tuple[Sequence[Tensor], float]],
    steps: int,
    loss: Callable[[int], Tensor],
    *,
    advance: Callable[[int], None],
    generator: torch.Generator,
    loop: str = "prompts",
) -> None:
    """``prompts.train_groups`` for a method that learns in one process."""
    require_one_process(method)
    train_groups(groups, steps, loss, None, advance, generator, method.checkpoints, loop)
