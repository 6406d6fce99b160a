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
- The paper does not have ``token_scale_shift``. It gives each e_t COMM's scales and shifts of tokens too. A sample of
  another layout of tokens takes the prefix of e_t alone. Training then also drops channels and takes a least number of
  steps, as in COMM (``methods/shared/prompt_training.py``).

Options: :class:`DualPromptOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.options import (
    LearningRate,
    ScaleShiftRank,
    ScaleShiftRate,
    TextScaleShift,
    TokenScaleShift,
    Weight,
)
from mmcl_fast.methods.shared.prompt_pool import PromptPool, PromptPoolOptions, PromptsAndLoss, cosine_distance
from mmcl_fast.methods.shared.prompt_training import AutoChannelDropout, AutoLeastSteps
from mmcl_fast.methods.shared.token_scale_shift import PromptInTraining, TokenScaleShiftHead
from mmcl_fast.option_fields import Symbol, Tunable


class DualPromptOptions(PromptPoolOptions):
    token_scale_shift: TokenScaleShift = False
    text_scale_shift: TextScaleShift = False
    scale_shift_rank: ScaleShiftRank = 4
    channel_dropout: AutoChannelDropout = "auto"
    least_steps: AutoLeastSteps = "auto"
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(0.005, 0.5, needs=("token_scale_shift", (True,)))] = 0.06
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

    A pool holds ``general`` ``[J_g, 2, L, d]``, ``experts`` ``[T, J_e, 2, L, d]`` and ``keys`` ``[T, Dq]``. With
    ``token_scale_shift`` it holds the scales and shifts of task t, flat, as ``scale_shift/t``.
    """

    name = "dualprompt"
    Options = DualPromptOptions

    def __init__(self, encoder: Encoder, options: DualPromptOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.tokens_head = TokenScaleShiftHead(
            encoder, options.prompt_length, options.token_scale_shift, options.text_scale_shift
        )
        if options.token_scale_shift:
            self.head = self.tokens_head

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

        scale_shift = self._new_scale_shift(data, generator)

        def compose(query: Tensor) -> PromptsAndLoss:
            prefix = join_blocks(general, expert.expand(len(query), *expert.shape))
            further = o.match * cosine_distance(query, key.unsqueeze(0)).mean()
            if not o.token_scale_shift:
                return prefix, further
            return torch.cat([prefix.flatten(1), self._table(scale_shift).expand(len(query), -1)], dim=1), further

        # With one prompted block there is no general prompt.
        trained = [expert, key] + ([general] if early else [])
        self.fit(data, classes, trained, compose, generator, [(scale_shift.pairs, o.scale_shift_lr)])
        new = {"experts": expert.unsqueeze(0), "keys": key.unsqueeze(0)}
        tables: dict[str, Tensor] = {}
        if old is not None:
            new = {k: torch.cat([old[k], v]) for k, v in new.items()}
            tables = {k: v for k, v in old.items() if k.startswith("scale_shift/")}
        if o.token_scale_shift:
            tables[f"scale_shift/{len(new['keys']) - 1}"] = self._table(scale_shift).detach().clone()
        self.pools[tower] = {"general": general, **new, **tables}

    def _new_scale_shift(self, data: TaskData, generator: torch.Generator) -> PromptInTraining:
        """Return scales and shifts that change nothing, as parameters, behind a prefix of zeros that is not trained."""
        start = torch.zeros(self.tokens_head.prompt_size(data.tokens, data.modality), device=self.encoder.device)
        width, rank = data.tokens.tokens.shape[2], self.options.scale_shift_rank
        return PromptInTraining(self.tokens_head, start, data.modality, width=width, rank=rank, generator=generator)

    @staticmethod
    def _table(scale_shift: PromptInTraining) -> Tensor:
        return scale_shift()[len(scale_shift.prefix) :]

    def _nearest(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        """``[B]``: the task of each query."""
        return cosine_distance(query, pool["keys"]).argmin(1)

    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        return join_blocks(pool["general"], pool["experts"][self._nearest(query, pool)])

    def prompts(self, query: Tensor, pool: dict[str, Tensor], tokens: Tokens, modality: str) -> Tensor:
        """Compose prefixes, with the scales and shifts of each sample's task; zeros where its tokens lay otherwise."""
        prefix = self.prefix(query, pool)
        if not self.options.token_scale_shift:
            return prefix
        size = self.tokens_head.prompt_size(tokens, modality) - self.tokens_head.prefix(modality).numel()
        tables = [pool[f"scale_shift/{task}"] for task in range(len(pool["keys"]))]
        if self.encoder.tower(modality) == "text":  # shorter and longer texts share positions
            size = max(map(len, tables))
            tables = [F.pad(table, (0, size - len(table))) for table in tables]
        fitting = torch.stack([table if len(table) == size else table.new_zeros(size) for table in tables])
        return torch.cat([prefix.flatten(1), fitting[self._nearest(query, pool)]], dim=1)
