"""DualPrompt (Wang et al. 2022, arXiv 2204.04799).

    prompts:              g in the first blocks, e_t in the later ones, as prefix keys and values

    training on task t:   loss = CE(task's classes) + match * gamma(q(x), k_t),   gamma = 1 - cos

    testing:              e of argmin_t gamma(q(x), k_t)

The general prompt g goes on from task to task. The expert prompt e_t and its key k_t belong to one task.

Departures from the paper and its public code:

- The task is found for each sample by itself. In the public code the samples of a test batch vote for one task.
- Each task's e_t starts anew. The public code can copy the last task's.
- The paper prompts five blocks: the first two by g (length 5), three by e (length 20). Here, of J prompted blocks the
  first J // 2 have g, and both prompts have one length, as the prompts of all methods here.
- Each tower has its own g, e and keys; a sample is matched with the tasks of its tower.
- In the paper the classifier reads z alone. Here it can read q too (``features``).

Options: :class:`DualPromptOptions`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import LearningRate, Weight
from mmcl_fast.methods.shared.prompt_pool import PrefixAndLoss, PromptPool, PromptPoolOptions, cosine_distance
from mmcl_fast.option_fields import Symbol, Tunable


class DualPromptOptions(PromptPoolOptions):
    lr: Annotated[LearningRate, Tunable(1e-4, 3.0)] = Field(
        0.03, description="Largest learning rate of prompts and keys"
    )
    match: Annotated[Weight, Symbol(r"\lambda"), Tunable(0.01, 10.0)] = Field(
        1.0, description="Weight of the loss term that moves a task's key to its queries"
    )


def join_blocks(general: Tensor, expert: Tensor) -> Tensor:
    """Put g ``[J_g, 2, L, d]`` before e ``[B, J_e, 2, L, d]``; returns ``[B, J_g + J_e, 2, L, d]``."""
    return torch.cat([general.expand(expert.shape[0], *general.shape), expert], dim=1)


class DualPrompt(PromptPool):
    """DualPrompt.

    A pool holds ``general`` ``[J_g, 2, L, d]``, ``experts`` ``[T, J_e, 2, L, d]`` and ``keys`` ``[T, Dq]``.
    """

    name = "dualprompt"
    Options = DualPromptOptions

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, e, tower = self.options, self.encoder, self.encoder.tower(data.modality)
        generator, old = self.generator(data.index, 3), self.pools.get(tower)
        shape, early = (2, o.prompt_length, e.prefix_width(data.modality)), e.num_prompted_blocks // 2
        expert = (torch.randn(e.num_prompted_blocks - early, *shape, generator=generator) * 0.02).to(e.device)
        key = (torch.rand(e.query_dim, generator=generator) * 2 - 1).to(e.device)
        general = (
            (torch.randn(early, *shape, generator=generator) * 0.02).to(e.device)
            if old is None
            else old["general"].clone()
        )

        def compose(query: Tensor) -> PrefixAndLoss:
            prefix = join_blocks(general, expert.expand(len(query), *expert.shape))
            return prefix, o.match * cosine_distance(query, key.unsqueeze(0)).mean()

        # With one prompted block there is no general prompt.
        self.fit(data, classes, [expert, key] + ([general] if early else []), compose, generator)
        new = {"experts": expert.unsqueeze(0), "keys": key.unsqueeze(0)}
        if old is not None:
            new = {k: torch.cat([old[k], v]) for k, v in new.items()}
        self.pools[tower] = {"general": general, **new}

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return join_blocks(pool["general"], pool["experts"][cosine_distance(query, pool["keys"]).argmin(1)])
