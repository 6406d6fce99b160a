"""One history of prompts per modality, and the blend that a sample gets of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.embedding import mix
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise


def prefix_shape(encoder: Encoder, length: int, modality: str) -> torch.Size:
    """J, 2, L, d."""
    return torch.Size((encoder.num_prompted_blocks, 2, length, encoder.prefix_width(modality)))


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
        shape = prefix_shape(self.encoder, self.length, modality)
        return (torch.randn(shape, generator=generator) * 0.02).to(self.encoder.device)

    def part(self, name: str, modality: str) -> Tensor:
        """The prompt of that name as samples of ``modality`` take it."""
        return self.prompts[name]

    def shares(
        self, modality: str, weight: Tensor, modalities: list[str], least: float = 0.0, beside: str | None = None
    ) -> tuple[list[str], Tensor]:
        """Which prompts a sample gets, and how much of each: c over the modalities of its tower.

        Args:
            modality: how the sample was decoded: it names the tower.
            weight: contributions ``[n, M]`` or ``[M]``, columns as in ``modalities``.
            least: smaller shares are left out and the others scaled to a sum of 1 again, so that most samples depend
                on few prompts.
            beside: a modality whose prompt is not in the bank yet.

        Returns:
            K names, and shares ``[n, K]`` or ``[K]``.
        """
        tower = self.encoder.tower(modality)
        names = [m for m in modalities if (m in self.prompts or m == beside) and self.encoder.tower(m) == tower]
        c = weight[..., [modalities.index(m) for m in names]]
        if names:
            c = c / c.sum(-1, keepdim=True).clamp(min=1e-12)
            c = torch.where(c >= min(least, 1 / len(names)), c, 0.0)
            c = c / c.sum(-1, keepdim=True).clamp(min=1e-12)
        return names, c

    def blend(self, modality: str, weight: Tensor, modalities: list[str], least: float = 0.0) -> Tensor | None:
        """sum_k c_k P_k, see ``shares`` and ``mix``; None without any prompt for this tower."""
        names, shares = self.shares(modality, weight, modalities, least)
        return mix([self.part(m, modality) for m in names], shares)


def train_prefix(
    prefix: Tensor,
    steps: int,
    lr: float,
    loss: Callable[[int], Tensor],
    advance: Callable[[int], None],
    generator: torch.Generator,
    checkpoints: StepCheckpoints = NoCheckpoints(),
) -> None:
    """:func:`train_groups` of a prefix alone."""
    remedy = f"lower method.options.lr (now {lr}) and start a new run"
    train_groups([([prefix], lr)], steps, loss, remedy, advance, generator, checkpoints)


def train_groups(
    groups: Sequence[tuple[Sequence[Tensor], float]],
    steps: int,
    loss: Callable[[int], Tensor],
    remedy: str | None,
    advance: Callable[[int], None],
    generator: torch.Generator,
    checkpoints: StepCheckpoints = NoCheckpoints(),
    loop: str = "prompts",
) -> None:
    """Adam with a warmed-up cosine rate on groups of tensors, in place.

    Args:
        groups: (tensors, learning rate) pairs; leaves, float32. Empty ones are left out.
        loss: step number -> scalar loss.
        remedy: what to do when the loss is not finite; None: lower the groups' rates.
        advance: called with the number of steps done since the last call.
        loop: its name, unique within a task.
    """
    if remedy is None:
        rates = ", ".join(str(lr) for tensors, lr in groups if len(tensors))
        remedy = f"lower method.options' learning rates (now {rates}) and start a new run"
    parameters = [p.requires_grad_(True) for tensors, _ in groups for p in tensors]
    optimiser = torch.optim.Adam([{"params": list(tensors), "lr": lr} for tensors, lr in groups if len(tensors)])
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min(1.0, (k + 1) / warm) * 0.5 * (1 + math.cos(math.pi * k / max(steps, 1)))
    )
    optimise(
        loop,
        optimiser,
        steps,
        loss,
        schedule=schedule,
        generator=generator,
        checkpoints=checkpoints,
        advance=advance,
        remedy=remedy,
    )
    for p in parameters:
        p.requires_grad_(False)


def batches(count: int, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of every step: each epoch a fresh permutation, the last batch kept even when short."""
    return [rows for _ in range(epochs) for rows in torch.randperm(count, generator=generator).split(size)]


def subset(tokens: Tokens, rows: Tensor) -> Tokens:
    return tokens[rows.to(tokens.device)]


def join(*parts: Tokens) -> Tokens:
    """The rows of all; the shorter ones are padded, and masked, to the longest."""
    longest = max(t.tokens.shape[1] for t in parts)
    masked = any(t.mask is not None or t.tokens.shape[1] < longest for t in parts)

    def padded(t: Tokens) -> tuple[Tensor, Tensor]:
        more = longest - t.tokens.shape[1]
        mask = torch.ones(t.tokens.shape[:2], dtype=torch.bool, device=t.device) if t.mask is None else t.mask
        return F.pad(t.tokens, (0, 0, 0, more)), F.pad(mask, (0, more))

    tokens, masks = zip(*map(padded, parts))
    return Tokens(torch.cat(tokens), torch.cat([t.query for t in parts]), torch.cat(masks) if masked else None)
