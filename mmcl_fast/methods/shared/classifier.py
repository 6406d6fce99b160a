"""A linear classifier over z that grows with the classes, and the training of prompts together with it.

It is shared by the baselines that classify with a trained layer rather than by class texts. As in L2P (arXiv
2112.08654) and its successors, one layer serves all classes. It is trained on the current task's classes only, and
predicts over all of them.
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


def classifier_input(z: Tensor) -> Tensor:
    """Return f(z) = sqrt(D) z / |z|, ``[..., D]`` float32.

    Its entries have a mean square of 1 whatever the encoder's scale is, so that a learning rate means the same for all.
    """
    return F.normalize(z.float(), dim=-1) * z.shape[-1] ** 0.5


class GrowingClassifier:
    """A linear layer W f(z) + b with a row for each class; new rows are 0.

    Attributes:
        weight: W ``[C, D]`` float32.
        bias: b ``[C]`` float32.
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
        """Add rows up to ``count`` classes, in new tensors; the present rows keep their values."""
        more = count - len(self)  # padding makes new tensors: a state that was handed out does not change
        self.weight, self.bias = F.pad(self.weight.detach(), (0, 0, 0, more)), F.pad(self.bias.detach(), (0, more))

    def __call__(self, z: Tensor) -> Tensor:
        """Return logits ``[B, C]`` for the head's output z ``[B, D]``."""
        return classifier_input(z) @ self.weight.T + self.bias

    def loss(self, z: Tensor, targets: Tensor, classes: list[int], reduction: str = "mean") -> Tensor:
        """Return the cross-entropy over the task's classes alone; L2P's public code masks the other logits too.

        Args:
            z: ``[B, D]``.
            targets: ``[B]`` int64, positions in ``classes`` (``TaskData.targets``).
            classes: ids of the task's classes.
            reduction: as in ``torch.nn.functional.cross_entropy``.
        """
        return F.cross_entropy(self(z)[:, classes], targets, reduction=reduction)

    def scores(self, z: Tensor, count: int) -> Tensor:
        """Return logits ``[n, count]`` without gradient; -inf for classes without a row."""
        with torch.no_grad():
            return F.pad(self(z), (0, count - len(self)), value=float("-inf"))

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach(), "bias": self.bias.detach()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.weight, self.bias = tensors["weight"], tensors["bias"]


def require_one_process(method: Method) -> None:
    """Raise ConfigError where several processes learn together."""
    if distributed.world_size() > 1:
        raise ConfigError(f"method.name = {method.name!r}: learns in one process only; start it with one device")


def train_in_one_process(
    method: Method,
    groups: Sequence[tuple[Sequence[Tensor], float]],
    steps: int,
    loss: Callable[[int], Tensor],
    *,
    advance: Callable[[int], None],
    generator: torch.Generator,
    loop: str = "prompts",
) -> None:
    """Call ``prompts.train_groups`` for a method that learns in one process; the arguments are explained there."""
    require_one_process(method)
    train_groups(groups, steps, loss, None, advance, generator, method.checkpoints, loop)
