"""One history of prompts per modality, and the blend that a sample gets of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.steps import Journal, Unkept, optimise


class PromptBank:
    """P_m, prefix keys and values ``[J, 2, L, d]``, for each modality.

    Args:
        encoder: whose head reads them.
        length: L.
    """

    def __init__(self, encoder: Encoder, length: int):
        self.encoder, self.length = encoder, length
        self.prompts: dict[str, Tensor] = {}

    def fresh(self, modality: str, generator: torch.Generator) -> Tensor:
        shape = (self.encoder.blocks, 2, self.length, self.encoder.prefix_width(modality))
        return (torch.randn(shape, generator=generator) * 0.02).to(self.encoder.device)

    def blend(self, modality: str, weight: Tensor, modalities: list[str],
              trained: tuple[str, Tensor] | None = None) -> Tensor | None:
        """sum_k c_k P_k over the modalities of the sample's tower, c renormalised over them.

        Args:
            modality: how the sample was decoded: it names the tower.
            weight: contributions ``[n, M]`` or ``[M]``, columns as in ``modalities``.
            trained: a modality and the prompt that stands for its own.

        Returns:
            ``[n, J, 2, L, d]`` or ``[J, 2, L, d]``; None without any prompt for this tower.
        """
        bank = dict(self.prompts)
        if trained is not None:
            bank[trained[0]] = trained[1]
        tower = self.encoder.tower(modality)
        names = [m for m in modalities if m in bank and self.encoder.tower(m) == tower]
        if not names:
            return None
        c = weight[..., [modalities.index(m) for m in names]]
        c = c / c.sum(-1, keepdim=True).clamp(min=1e-12)
        return torch.einsum("...k,kjpld->...jpld", c, torch.stack([bank[m] for m in names]))


def train_prefix(prefix: Tensor, steps: int, lr: float, loss: Callable[[int], Tensor],
                 advance: Callable[[int], None], generator: torch.Generator, journal: Journal = Unkept()) -> None:
    """Adam with a warmed-up cosine rate on a prefix (float32, updated in place).

    Args:
        loss: step number -> scalar loss.
        advance: called with the number of steps done since the last call.
    """
    prefix.requires_grad_(True)
    optimiser = torch.optim.Adam([prefix], lr)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min(1.0, (k + 1) / warm) * 0.5 * (1 + math.cos(math.pi * k / max(steps, 1))))
    optimise("prompts", optimiser, steps, loss, schedule=schedule, generator=generator, journal=journal,
             advance=advance, remedy=f"lower method.options.lr (now {lr}) and start a new run")
    prefix.requires_grad_(False)


def batches(count: int, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of every step: each epoch a fresh permutation, the last batch kept even when short."""
    return [rows for _ in range(epochs) for rows in torch.randperm(count, generator=generator).split(size)]


def subset(tokens: Tokens, rows: Tensor) -> Tokens:
    return tokens[rows.to(tokens.device)]
