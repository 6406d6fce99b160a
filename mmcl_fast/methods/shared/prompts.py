"""A bank of prompts, one for each modality or tower, the blend of them that a sample gets, and their training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.embedding import mix
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise
from mmcl_fast.ops.attention import measure_keys_and_values

INITIAL_SCALE = 0.02  # standard deviation of a new prompt's entries


def prefix_shape(encoder: Encoder, length: int, modality: str) -> torch.Size:
    """Return the shape of a prefix, ``[J, 2, L, d]``: keys and values of L tokens for each of J blocks."""
    return torch.Size((encoder.num_prompted_blocks, 2, length, encoder.prefix_width(modality)))


def prefix_units(encoder: Encoder, tokens: Tokens, modality: str) -> Tensor:
    """Return the sizes of each block's own keys and values on some samples, ``[J, 2]`` float32.

    A prefix in these units means the same for every encoder, and so does its learning rate. The sizes are root mean
    squares, without a prefix. They are 1 for an encoder whose head does not call ``ops.attention.prefix_attention``
    once for each of its J blocks.

    Args:
        encoder: the encoder.
        tokens: the trunk's output of a few samples.
        modality: of the samples.
    """
    with torch.no_grad(), measure_keys_and_values() as sizes:
        encoder.head(tokens, None, modality)
    if len(sizes) != encoder.num_prompted_blocks:
        return torch.ones(encoder.num_prompted_blocks, 2, device=encoder.device)
    return torch.stack(sizes).clamp(min=1e-6)


class PromptBank:
    """Prompts P_m by name: prefix keys and values ``[J, 2, L, d]`` of a modality or of a tower.

    Args:
        encoder: the encoder whose head reads them.
        length: L, tokens of a prompt.
    """

    def __init__(self, encoder: Encoder, length: int):
        self.encoder, self.length = encoder, length
        self.prompts: dict[str, Tensor] = {}

    def fresh(self, modality: str, generator: torch.Generator) -> Tensor:
        """Return a new prompt of small random numbers. It is not put into the bank."""
        shape = prefix_shape(self.encoder, self.length, modality)
        return (torch.randn(shape, generator=generator) * INITIAL_SCALE).to(self.encoder.device)

    def prompt_for(self, name: str, modality: str) -> Tensor:
        """Return the prompt of a name, in the form that samples of ``modality`` take."""
        return self.prompts[name]

    def tower_shares(
        self, modality: str, weight: Tensor, modalities: list[str], least: float = 0.0, also: str | None = None
    ) -> tuple[list[str], Tensor]:
        """Return the prompts that samples blend, and the share of each: contributions over the modalities of one tower.

        Args:
            modality: how the samples were decoded; it names their tower.
            weight: contributions ``[n, M]`` or ``[M]``, columns as in ``modalities``.
            modalities: M names.
            least: smaller shares become 0 and the others are scaled to a sum of 1 again, so that most samples depend
                on few prompts. The largest share always stays.
            also: a modality of the tower that counts although its prompt is not in the bank yet.

        Returns:
            K names, and shares ``[n, K]`` or ``[K]``. K is 0 where the tower has no prompt.
        """
        tower = self.encoder.tower(modality)
        names = [m for m in modalities if (m in self.prompts or m == also) and self.encoder.tower(m) == tower]
        c = weight[..., [modalities.index(m) for m in names]]
        if names:
            c = c / c.sum(-1, keepdim=True).clamp(min=1e-12)
            # The largest of K shares is 1 / K at least, so it passes this limit.
            c = torch.where(c >= min(least, 1 / len(names)), c, 0.0)
            c = c / c.sum(-1, keepdim=True).clamp(min=1e-12)
        return names, c

    def bare_rows(self, modality: str, weight: Tensor, modalities: list[str]) -> Tensor | None:
        """Return ``[n]`` bool: the samples that most resemble a modality without a prompt, so they take the bare head.

        None where every modality of the tower has a prompt. The arguments are as in ``tower_shares``.
        """
        tower = self.encoder.tower(modality)
        columns = [k for k, m in enumerate(modalities) if self.encoder.tower(m) == tower]
        bare = [modalities[k] not in self.prompts for k in columns]
        return torch.tensor(bare, device=weight.device)[weight[:, columns].argmax(1)] if any(bare) else None

    def blend(self, modality: str, weight: Tensor, modalities: list[str], least: float = 0.0) -> Tensor | None:
        """Return sum_k c_k P_k, see ``tower_shares`` and ``mix``; None where the tower has no prompt."""
        names, shares = self.tower_shares(modality, weight, modalities, least)
        return mix([self.prompt_for(m, modality) for m in names], shares)


def train_prefix(
    prefix: Tensor,
    steps: int,
    lr: float,
    loss: Callable[[int], Tensor],
    advance: Callable[[int], None],
    generator: torch.Generator,
    checkpoints: StepCheckpoints = NoCheckpoints(),
) -> None:
    """Train one prefix in place; :func:`train_groups` explains the arguments."""
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
    go_on: Callable[[int], bool] = lambda done: True,
) -> None:
    """Train groups of tensors in place, by Adam with a cosine rate that is warmed up for a tenth of the steps.

    Args:
        groups: (tensors, largest learning rate) pairs; float32 leaves. Empty groups are left out.
        steps: number of steps.
        loss: step number, from 0 -> scalar loss.
        remedy: what the user can do when the loss is not finite; None: lower the groups' rates.
        advance: called with the number of steps done since the last call.
        generator: the source of all random numbers in ``loss``.
        checkpoints: where the loop's state is kept.
        loop: name of the loop, unique within a task.
        go_on: ends the loop early, as in ``optimise``. The rate follows ``steps`` all the same.
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
        go_on=go_on,
    )
    for p in parameters:
        p.requires_grad_(False)  # they are stored and blended from here on, without a graph


def batches(count: int, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Return the row numbers of every step: a new permutation each epoch; a last, shorter batch counts as a step."""
    return [rows for _ in range(epochs) for rows in torch.randperm(count, generator=generator).split(size)]


def subset(tokens: Tokens, rows: Tensor) -> Tokens:
    """Return the samples with these row numbers, which may lie on another device."""
    return tokens[rows.to(tokens.device)]


def concat_tokens(*parts: Tokens) -> Tokens:
    """Concatenate sets of samples; shorter ones are padded, and masked, to the longest."""
    longest = max(t.tokens.shape[1] for t in parts)
    masked = any(t.mask is not None or t.tokens.shape[1] < longest for t in parts)

    def padded(t: Tokens) -> tuple[Tensor, Tensor]:
        more = longest - t.tokens.shape[1]
        mask = torch.ones(t.tokens.shape[:2], dtype=torch.bool, device=t.device) if t.mask is None else t.mask
        return F.pad(t.tokens, (0, 0, 0, more)), F.pad(mask, (0, more))

    tokens, masks = zip(*map(padded, parts))
    return Tokens(torch.cat(tokens), torch.cat([t.query for t in parts]), torch.cat(masks) if masked else None)
