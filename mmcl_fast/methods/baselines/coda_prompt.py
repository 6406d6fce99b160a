"""CODA-Prompt (Smith et al. 2023, arXiv 2211.13218).

    alpha_k = cos(q(x) * A_k, K_k),   p(x) = sum_k alpha_k P_k           in every prompted block
    loss = CE(task's classes) + orthogonality * sum over blocks of (O(P) + O(K) + O(A))

P_k is a component, prefix keys and values. K_k is its key, and A_k its attention vector over the query. Each task adds
new components, which are trained together with the frozen sum of the old ones.

Departures from the paper:

- O(B) is the mean square of the entries of B B' - I over all components, as in the public code. The paper's
  ||B B' - I|| has the same minimum.
- New components start orthonormal to each other and to the old ones. The public code does so too, by Gram-Schmidt
  in every task; the paper's experiments did so once for a known number of tasks.
- The paper divides 100 components among the tasks, 10 for each in most of its streams. Here the number of tasks is not
  known, so each task adds ``components``. Length 8 is the paper's.
- Each tower has its own components.
- In the paper the classifier reads z alone. Here it can read q too (``features``).

Options: :class:`CodaPromptOptions`.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import LearningRate, Weight
from mmcl_fast.methods.shared.prompt_pool import PoolTextRate, PromptPool, PromptPoolOptions, PromptsAndLoss
from mmcl_fast.methods.shared.prompt_training import ChannelDropout, LeastSteps
from mmcl_fast.option_fields import Symbol, Tunable, TunableChoices


class CodaPromptOptions(PromptPoolOptions):
    channel_dropout: ChannelDropout = 0.0
    least_steps: LeastSteps = 0
    components: int = Field(10, ge=1, description="Prompt components that each task adds")
    lr: Annotated[LearningRate, Tunable(1e-4, 3.0)] = Field(
        0.03, description="Largest learning rate of components, keys and attention vectors"
    )
    text_lr: Annotated[PoolTextRate, TunableChoices("auto", 0.003, 0.01, 0.03, 0.1, 0.3)] = "auto"
    orthogonality: Annotated[Weight, Symbol(r"\lambda"), Tunable(0.001, 10.0)] = Field(
        0.1, description="Weight of the loss term that keeps components, keys and attention vectors orthogonal"
    )


def component_weights(query: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """Return alpha ``[B, J, K]`` for queries ``[B, Dq]``, and keys and attention vectors ``[J, K, Dq]``."""
    dot = torch.einsum("bd,jkd->bjk", query, attention * F.normalize(keys, dim=-1))
    square = torch.einsum("bd,jkd->bjk", query.square(), attention.square())  # |q * A_k|^2
    return dot / square.clamp(min=1e-24).sqrt()


def weighted_sum(alpha: Tensor, components: Tensor) -> Tensor:
    """Return sum_k alpha_k P_k: ``[B, J, K]``, ``[J, K, 2, L, d]`` -> ``[B, J, 2, L, d]``."""
    return torch.einsum("bjk,jkxld->bjxld", alpha, components)


def orthogonality_loss(x: Tensor) -> Tensor:
    """Return O summed over blocks, for x ``[J, K, ...]``."""
    rows = x.flatten(2)
    return (rows @ rows.mT - torch.eye(rows.shape[1], device=x.device)).square().mean((1, 2)).sum()


def orthonormal_rows(count: int, known: Tensor, generator: torch.Generator) -> Tensor:
    """Return random unit rows ``[count, n]``, orthogonal to each other and to the known rows ``[K, n]``.

    Where n dimensions have no room for all of them, they are orthogonal to each other alone, or not even to each other.
    """
    known_count, width = known.shape
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if known_count and known_count + count <= width:
        basis = torch.linalg.qr(known.double().cpu().T).Q  # on the CPU: the same components for any device
        rows = rows - rows @ basis @ basis.T
    if count <= width:
        rows = torch.linalg.qr(rows.T).Q.T
    return F.normalize(rows, dim=1).to(known)


class CodaPrompt(PromptPool):
    """CODA-Prompt. A pool holds ``components`` ``[J, K, 2, L, d]``, ``keys`` and ``attention`` ``[J, K, Dq]``."""

    name = "coda_prompt"
    Options = CodaPromptOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, e, tower = self.options, self.encoder, self.encoder.tower(data.modality)
        generator = self.generator(data.index, 3)
        shapes = {
            "components": (2, o.prompt_length, e.prefix_width(data.modality)),
            "keys": (e.query_dim,),
            "attention": (e.query_dim,),
        }
        old = self.pools.get(tower) or {
            k: torch.zeros(e.num_prompted_blocks, 0, *shape, device=e.device) for k, shape in shapes.items()
        }
        new = {
            k: torch.stack(
                [orthonormal_rows(o.components, block.flatten(1), generator) for block in old[k].flatten(2)]
            ).unflatten(2, shape)
            for k, shape in shapes.items()
        }

        def whole_pool() -> dict[str, Tensor]:
            # Only ``new`` is trained: the old components take part in the sum, frozen.
            return {k: torch.cat([old[k], new[k]], dim=1) for k in old}

        def compose(query: Tensor) -> PromptsAndLoss:
            pool = whole_pool()
            return self.prefix(query, pool), o.orthogonality * sum(orthogonality_loss(x) for x in pool.values())

        self.fit(data, classes, list(new.values()), compose, generator)
        self.pools[tower] = whole_pool()

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return weighted_sum(component_weights(query, pool["keys"], pool["attention"]), pool["components"])
