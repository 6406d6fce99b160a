"""L2P: learning to prompt (Wang et al. 2022, arXiv 2112.08654).

    K_x = the N keys k of the pool with the least gamma(q(x), k),   gamma = 1 - cos
    x is prompted by the prompts of K_x;   loss = CE(task's classes) + pull * sum over K_x of gamma(q(x), k)

Keys, their prompts and the classifier are learned.

Departures from the paper and its public code:

- The N keys are selected for each sample by itself, as the equation says. The public code takes the keys that most
  samples of a batch selected, in testing too. The sum is taken for each sample and averaged over the batch.
- The paper has an optional table of frequencies, which drives later tasks to other prompts. It is left out, as in the
  public code.
- The paper prepends prompts to the input (a pool of 10, each of length 5, N = 5, pull = 0.5). Here they are prefix keys
  and values of every prompted block, as for all methods. They are so short that a sample gets 8 tokens in all, as with
  the other methods (N = 4, length 2).
- Each tower has its own pool.
- In the paper the classifier reads z alone. Here it can read q too (``features``).

Options: :class:`L2pOptions`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import ClassifierRate, LearningRate, PromptLength, Weight
from mmcl_fast.methods.shared.prompt_pool import (
    PoolTextRate,
    PromptPool,
    PromptPoolOptions,
    PromptsAndLoss,
    cosine_distance,
)
from mmcl_fast.methods.shared.prompt_training import ChannelDropout, LeastSteps
from mmcl_fast.option_fields import Symbol, Tunable, TunableChoices


class L2pOptions(PromptPoolOptions):
    channel_dropout: ChannelDropout = 0.0
    least_steps: LeastSteps = 0
    pool_size: Annotated[int, Symbol("M")] = Field(10, ge=1, description="Prompts in the pool of a tower")
    selected: Annotated[int, Symbol("N")] = Field(4, ge=1, description="Prompts that each sample selects from the pool")
    prompt_length: PromptLength = 2
    lr: Annotated[LearningRate, Tunable(1e-4, 3.0)] = Field(
        0.1, description="Largest learning rate of prompts and keys"
    )
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.003
    text_lr: Annotated[PoolTextRate, TunableChoices("auto", 0.01, 0.03, 0.1, 0.3, 1.0)] = "auto"
    pull: Annotated[Weight, Symbol(r"\lambda"), Tunable(0.01, 10.0)] = Field(
        0.5, description="Weight of the loss term that moves selected keys to the sample's query"
    )

    @model_validator(mode="after")
    def _check_selected(self) -> L2pOptions:
        if self.selected > self.pool_size:
            raise ValueError(
                f"selected = {self.selected}: is more than the pool holds (pool_size = {self.pool_size}); lower it"
            )
        return self


def select_keys(query: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select the nearest keys of each sample.

    Args:
        query: ``[B, Dq]``, unit rows.
        keys: ``[M, Dq]``.
        count: N.

    Returns:
        gamma and row numbers of the keys, both ``[B, N]``, nearest first.
    """
    near = cosine_distance(query, keys).topk(count, largest=False)
    return near.values, near.indices


def concat_prompts(prompts: Tensor, selected: Tensor) -> Tensor:
    """Concatenate the selected prompts of each sample along the tokens.

    prompts ``[M, J, 2, L, d]``, selected ``[B, N]`` -> prefix ``[B, J, 2, N L, d]``.
    """
    return prompts[selected].permute(0, 2, 3, 1, 4, 5).flatten(3, 4)


class L2p(PromptPool):
    """L2P. A pool holds ``prompts`` ``[M, J, 2, L, d]`` and ``keys`` ``[M, Dq]``."""

    name = "l2p"
    Options = L2pOptions

    def _new_pool(self, modality: str, generator: torch.Generator) -> dict[str, Tensor]:
        o, e = self.options, self.encoder
        shape = (o.pool_size, e.num_prompted_blocks, 2, o.prompt_length, e.prefix_width(modality))
        prompts = torch.randn(*shape, generator=generator)
        keys = torch.rand(o.pool_size, e.query_dim, generator=generator) * 2 - 1
        return {"prompts": (prompts * 0.02).to(e.device), "keys": keys.to(e.device)}

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, tower, generator = self.options, self.encoder.tower(data.modality), self.generator(data.index, 3)
        old = self.pools.get(tower) or self._new_pool(data.modality, generator)
        pool = {k: v.clone() for k, v in old.items()}  # training is in place; a failed task leaves the old pool

        def compose(query: Tensor) -> PromptsAndLoss:
            near, selected = select_keys(query, pool["keys"], o.selected)
            return concat_prompts(pool["prompts"], selected), o.pull * near.sum(1).mean()

        self.fit(data, classes, list(pool.values()), compose, generator)
        self.pools[tower] = pool

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return concat_prompts(pool["prompts"], select_keys(query, pool["keys"], self.options.selected)[1])
