"""A linear classifier that grows with the classes, and the training of prompts together with it.

It is shared by the baselines that classify with a trained layer rather than by class texts. As in L2P (arXiv
2112.08654) and its successors, one layer serves all classes. It is trained on the current task's classes only, and
predicts over all of them.

It reads the head's output z, as in the papers, or what COMM reads: z and the trunk's query q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Encoder
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.base import Method
from mmcl_fast.methods.shared.prompts import train_groups

ClassifierFeatures = Annotated[
    Literal["z", "zq"],
    Field(
        description="What the classifier reads. z: the head's output under the prompt, as in the paper. zq: z and the "
        "trunk's query q, as COMM does"
    ),
]


def classifier_input(z: Tensor, query: Tensor | None = None) -> Tensor:
    """Return the features f that a classifier reads, float32, each of length sqrt(D).

    f(z) = sqrt(D) z / |z|, ``[..., D]``, for z ``[..., D]`` alone. Its entries have a mean square of 1 whatever the
    encoder's scale is, so that a learning rate means the same for all.

    f(u) = sqrt(D) u / |u|, ``[..., D + Dq]``, for z and a query q ``[..., Dq]`` of any scale. u = [z / |z| ; q / |q|]
    is the vector that COMM remembers. It is as long as f(z), so a gradient step changes a logit as much as before.
    """
    u = F.normalize(z.float(), dim=-1)
    if query is not None:
        u = F.normalize(torch.cat([u, F.normalize(query.float(), dim=-1)], dim=-1), dim=-1)
    return u * z.shape[-1] ** 0.5


def cross_entropy_of_task(logits: Tensor, targets: Tensor, classes: list[int]) -> Tensor:
    """Return the cross-entropy over the task's classes alone; L2P's public code masks the other logits too.

    Args:
        logits: ``[B, C]``, of all classes.
        targets: ``[B]`` int64, positions in ``classes`` (``TaskData.targets``).
        classes: ids of the task's classes.
    """
    return F.cross_entropy(logits[:, classes], targets)


class GrowingClassifier:
    """A linear layer W f + b with a row for each class; new rows are 0. f is ``classifier_input``.

    Args:
        dim: D, the width of z.
        device: of its tensors.
        query_dim: Dq, the width of the query; 0: it reads z alone, and queries that are passed are ignored.

    Attributes:
        weight: W ``[C, D + query_dim]`` float32.
        bias: b ``[C]`` float32.
    """

    def __init__(self, dim: int, device: torch.device, query_dim: int = 0):
        self.reads_query = query_dim > 0
        self.weight = torch.zeros(0, dim + query_dim, device=device)
        self.bias = torch.zeros(0, device=device)

    @staticmethod
    def of(encoder: Encoder, features: Literal["z", "zq"]) -> GrowingClassifier:
        """Return an empty classifier over an encoder's z, or over its z and queries."""
        return GrowingClassifier(encoder.dim, encoder.device, encoder.query_dim if features == "zq" else 0)

    def __len__(self) -> int:
        return len(self.bias)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def grow(self, count: int) -> None:
        """Add rows up to ``count`` classes, in new tensors; the present rows keep their values."""
        more = count - len(self)  # padding makes new tensors: a state that was handed out does not change
        self.weight, self.bias = F.pad(self.weight.detach(), (0, 0, 0, more)), F.pad(self.bias.detach(), (0, more))

    def features(self, z: Tensor, query: Tensor | None = None) -> Tensor:
        """Return f ``[B, D]``, or ``[B, D + Dq]`` with the query.

        Args:
            z: the head's output ``[B, D]``.
            query: ``[B, Dq]``, of any scale; needed where the classifier reads it.
        """
        return classifier_input(z, query if self.reads_query else None)

    def __call__(self, z: Tensor, query: Tensor | None = None) -> Tensor:
        """Return logits ``[B, C]``; ``features`` explains the arguments."""
        return self.features(z, query) @ self.weight.T + self.bias

    def loss(self, z: Tensor, targets: Tensor, classes: list[int], query: Tensor | None = None) -> Tensor:
        """Return ``cross_entropy_of_task`` of the logits; ``features`` explains ``z`` and ``query``."""
        return cross_entropy_of_task(self(z, query), targets, classes)

    def scores(self, z: Tensor, count: int, query: Tensor | None = None) -> Tensor:
        """Return logits ``[n, count]`` without gradient; -inf for classes without a row."""
        with torch.no_grad():
            return F.pad(self(z, query), (0, count - len(self)), value=float("-inf"))

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
