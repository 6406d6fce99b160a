"""DualPrompt (Wang et al. 2022, arXiv 2204.04799).

    block j is prompted by g in the first blocks and by e_t in the later ones, as prefix keys and values
    training on task t:   loss = CE(task's classes) + match * gamma(q(x), k_t),   gamma = 1 - cos
    testing:              e of argmin_t gamma(q(x), k_t)

g, the general prompt, goes on from task to task; e_t and k_t, the expert prompt and its key, belong to one task. The
task is found for every sample by itself; the public code takes the one that most samples of a test batch voted for.
Each task's e_t starts afresh; the public code can copy the last task's.

The paper prompts five blocks, the first two by g (length 5) and three by e (length 20). Of J prompted blocks, J // 2
have g here, and both have one length, as the prompts of all methods. Each tower has its own g, e and keys; a sample
is matched with the tasks of its tower.
"""

from __future__ import annotations

from typing import Annotated

import torch
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
from mmcl_fast.methods.shared.prompt_pool import Composed, Pooled, distance
from mmcl_fast.option_fields import Symbol


class DualPromptOptions(MethodOptions):
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.03, description="Largest learning rate of prompts and keys")
    classifier_lr: ClassifierRate = 0.0003
    match: Annotated[Weight, Symbol(r"\lambda")] = Field(
        1.0, description="Weight of the loss term that moves a task's key to its queries"
    )


def place(general: Tensor, expert: Tensor) -> Tensor:
    """g ``[J_g, 2, L, d]`` before e ``[B, J_e, 2, L, d]`` -> ``[B, J_g + J_e, 2, L, d]``."""
    return torch.cat([general.expand(expert.shape[0], *general.shape), expert], dim=1)


class DualPrompt(Pooled):
    """A pool holds ``general`` ``[J_g, 2, L, d]``, ``experts`` ``[T, J_e, 2, L, d]`` and ``keys`` ``[T, Dq]``."""

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

        def compose(query: Tensor) -> Composed:
            prefix = place(general, expert.expand(len(query), *expert.shape))
            return prefix, o.match * distance(query, key.unsqueeze(0)).mean()

        self.fit(data, classes, [expert, key] + ([general] if early else []), compose, generator)
        new = {"experts": expert.unsqueeze(0), "keys": key.unsqueeze(0)}
        if old is not None:
            new = {k: torch.cat([old[k], v]) for k, v in new.items()}
        self.pools[tower] = {"general": general, **new}

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return place(pool["general"], pool["experts"][distance(query, pool["keys"]).argmin(1)])
