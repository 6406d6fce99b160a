"""L2P: learning to prompt (Wang et al. 2022, arXiv 2112.08654).

    K_x = the N keys k of the pool with the least gamma(q(x), k),   gamma = 1 - cos
    x is prompted by the prompts of K_x;   loss = CE(task's classes) + pull * sum over K_x of gamma(q(x), k)

Keys, their prompts and the classifier are learned. N is chosen for every sample by itself, as the equation says; the
public code takes the keys that most samples of a batch chose, in testing too. The sum is taken per sample and
averaged over the batch. The paper's table of frequencies, optional there, which drives later tasks to other prompts,
is left out, as in the public code.

The paper prepends prompts to the input (10 of length 5, N = 5, pull = 0.5). Here they are prefix keys and values of
every prompted block, as for all methods, and short enough that a sample gets as many in all as with the others
(N = 4 of length 2). Each tower has its own pool.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.errors import ConfigError
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
from mmcl_fast.methods.shared.prompt_pool import Composed, Pooled, distance
from mmcl_fast.option_fields import Symbol


class L2pOptions(MethodOptions):
    pool_size: Annotated[int, Symbol("M")] = Field(10, ge=1, description="Prompts in the pool of a tower")
    selected: Annotated[int, Symbol("N")] = Field(4, ge=1, description="Prompts that each sample selects from the pool")
    prompt_length: PromptLength = 2
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.1, description="Largest learning rate of prompts and keys")
    classifier_lr: ClassifierRate = 0.003
    pull: Annotated[Weight, Symbol(r"\lambda")] = Field(
        0.5, description="Weight of the loss term that moves selected keys to the sample's query"
    )

    @model_validator(mode="after")
    def _check_selected(self) -> L2pOptions:
        if self.selected > self.pool_size:
            raise ValueError(
                f"selected = {self.selected}: is more than the pool holds (pool_size = {self.pool_size}); lower it"
            )
        return self


def select(query: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest keys of each sample: gamma and places, both ``[B, count]``, nearest first.

    Args:
        query: ``[B, Dq]``, unit rows.
        keys: ``[M, Dq]``.
    """
    near = distance(query, keys).topk(count, largest=False)
    return near.values, near.indices


def join(prompts: Tensor, places: Tensor) -> Tensor:
    """prompts ``[M, J, 2, L, d]``, places ``[B, N]`` -> prefix ``[B, J, 2, N L, d]``."""
    return prompts[places].permute(0, 2, 3, 1, 4, 5).flatten(3, 4)


class L2p(Pooled):
    name = "l2p"
    Options = L2pOptions

    def __init__(self, encoder: Encoder, options: L2pOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        if options.selected > options.pool_size:
            raise ConfigError(
                f"method.options.selected = {options.selected}: is more than the pool holds "
                f"(method.options.pool_size = {options.pool_size}); lower it"
            )

    def _fresh(self, modality: str, generator: torch.Generator) -> dict[str, Tensor]:
        o, e = self.options, self.encoder
        prompts = torch.randn(
            o.pool_size, e.num_prompted_blocks, 2, o.prompt_length, e.prefix_width(modality), generator=generator
        )
        keys = torch.rand(o.pool_size, e.query_dim, generator=generator) * 2 - 1
        return {"prompts": (prompts * 0.02).to(e.device), "keys": keys.to(e.device)}

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, tower, generator = self.options, self.encoder.tower(data.modality), self.generator(data.index, 3)
        old = self.pools.get(tower) or self._fresh(data.modality, generator)
        pool = {k: v.clone() for k, v in old.items()}

        def compose(query: Tensor) -> Composed:
            near, places = select(query, pool["keys"], o.selected)
            return join(pool["prompts"], places), o.pull * near.sum(1).mean()

        self.fit(data, classes, list(pool.values()), compose, generator)
        self.pools[tower] = pool

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return join(pool["prompts"], select(query, pool["keys"], self.options.selected)[1])
