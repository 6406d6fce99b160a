"""CODA-Prompt (Smith et al. 2023, arXiv 2211.13218).

    alpha_k = cos(q(x) * A_k, K_k),   p(x) = sum_k alpha_k P_k           in every prompted block
    loss = CE(task's classes) + orthogonality * sum over blocks of (O(P) + O(K) + O(A))

P_k: a component, prefix keys and values; K_k, A_k: its key and its attention vector over the query. Each task brings
new components, which are trained together with the old ones' frozen sum. O(B) is the mean square of the entries of
B B' - I over all components, as in the public code; the paper's ||B B' - I|| has the same minimum. New components are
orthonormal at the start, to each other and to the old ones (the public code's, by Gram-Schmidt in every task; the
paper's experiments did this once for all of a known number of tasks).

The paper shares 100 components out to the tasks (10 in most of its streams) and has length 8. The number of tasks is
not known here: each brings ``components``. Each tower has its own.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    LearningRate,
    MethodOptions,
    PromptLength,
    Weight,
)
from mmcl_fast.methods.shared.prompt_pool import Composed, Pooled
from mmcl_fast.option_fields import Symbol


class CodaPromptOptions(MethodOptions):
    components: int = Field(10, ge=1, description="Prompt components that each task adds")
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.03, description="Largest learning rate of components, keys and attention vectors")
    classifier_lr: ClassifierRate = 0.0003
    orthogonality: Annotated[Weight, Symbol(r"\lambda")] = Field(
        0.1, description="Weight of the loss term that keeps components, keys and attention vectors orthogonal"
    )


def weights(query: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """alpha ``[B, J, K]``. query: ``[B, Dq]``; keys, attention: ``[J, K, Dq]``."""
    dot = torch.einsum("bd,jkd->bjk", query, attention * F.normalize(keys, dim=-1))
    square = torch.einsum("bd,jkd->bjk", query.square(), attention.square())  # |q * A_k|^2
    return dot / square.clamp(min=1e-24).sqrt()


def compose(alpha: Tensor, components: Tensor) -> Tensor:
    """sum_k alpha_k P_k: ``[B, J, K]``, ``[J, K, 2, L, d]`` -> ``[B, J, 2, L, d]``."""
    return torch.einsum("bjk,jkxld->bjxld", alpha, components)


def unorthogonal(x: Tensor) -> Tensor:
    """O summed over blocks; x ``[J, K, ...]``."""
    rows = x.flatten(2)
    return (rows @ rows.mT - torch.eye(rows.shape[1], device=x.device)).square().mean((1, 2)).sum()


def orthonormal(count: int, beside: Tensor, generator: torch.Generator) -> Tensor:
    """``[count, n]`` unit rows, orthogonal to each other and to those of ``beside`` ``[K, n]`` where n has room for
    all; else to each other alone, or where even that has no room, random."""
    known, width = beside.shape
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if known and known + count <= width:
        basis = torch.linalg.qr(beside.double().cpu().T).Q
        rows = rows - rows @ basis @ basis.T
    if count <= width:
        rows = torch.linalg.qr(rows.T).Q.T
    return F.normalize(rows, dim=1).to(beside)


class CodaPrompt(Pooled):
    """A pool holds ``components`` ``[J, K, 2, L, d]``, ``keys`` and ``attention`` ``[J, K, Dq]``."""

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
                [orthonormal(o.components, block.flatten(1), generator) for block in old[k].flatten(2)]
            ).unflatten(2, shape)
            for k, shape in shapes.items()
        }

        def with_old() -> dict[str, Tensor]:
            return {k: torch.cat([old[k], new[k]], dim=1) for k in old}

        def composed(query: Tensor) -> Composed:
            pool = with_old()
            return self.prefix(query, pool), o.orthogonality * sum(unorthogonal(x) for x in pool.values())

        self.fit(data, classes, list(new.values()), composed, generator)
        self.pools[tower] = with_old()

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return compose(weights(query, pool["keys"], pool["attention"]), pool["components"])
