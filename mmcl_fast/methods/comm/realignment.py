"""Re-alignment of the modalities' embeddings after a task, from sampled features only.

e = normalize(z + sum_k c_k (v A_k) B_k), v = [u ; 1]. A_k and B_k start from a closed form and are trained with the
contribution-weighted cross-modal alignment loss L = sum_i w_i CE(s cos(e_i, T), y_i) / sum_i w_i. Other samples then
decide how far to go from the closed form to the trained solution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.methods.comm.closed_form import DEFAULT_SHARE, closed_form, dual_basis
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise

POOL_FACTOR = 4  # features sampled once, for each feature of a step
LEAST_SAMPLED = 20  # features of a class, in the pool and over all steps; with fewer, training is worse than none
POOL_BYTES = 2**30  # largest pool
HELD_OUT, MOST_HELD_OUT = 10, 20_000  # held-out features: of a class, and of a modality
ZERO_RANK = 32  # largest rank of a re-alignment that starts from zero
STANDARD_ERRORS = 2  # that training must gain on held-out features
ROWS = 4096  # features whose scores are computed at once
TRAINED_SHARES = (0.25, 0.5, 0.75, 1.0)  # tried positions between the closed form (0) and the trained solution (1)


def class_targets(texts: Tensor, dual: bool) -> Tensor:
    """Return one target vector ``[C, D]`` for each class.

    They are the class texts T themselves, or their dual basis Y with Y T' = I.

    Args:
        texts: T ``[C, D]``.
        dual: return the dual basis.
    """
    if not dual:
        return texts
    return dual_basis(texts.double(), texts.new_ones(len(texts), dtype=torch.float64)).to(texts.dtype)


def trains(classes: int, wide: int, steps: int, per_step: int) -> bool:
    """Return whether re-alignment is trained: with ``LEAST_SAMPLED`` features of every class, or not at all.

    Args:
        classes: C.
        wide: D_u.
        steps: number of steps.
        per_step: features in a step.
    """
    return steps * per_step >= LEAST_SAMPLED * classes and 4 * LEAST_SAMPLED * classes * wide <= POOL_BYTES


def _realigned_loss(
    z: Tensor,
    source: Tensor,
    gate: Tensor,
    label: Tensor,
    weight: Tensor,
    texts: Tensor,
    down: Tensor,
    up: Tensor,
    logit_scale: float,
) -> Tensor:
    """The alignment loss of embeddings z ``[B, D]`` after re-alignment, which reads ``source``."""
    e = ops.realign(z, gate, down, up, source=source)
    return ops.alignment_loss(e, texts, label, weight=weight, logit_scale=logit_scale)


@cache
def _compiled_loss() -> Callable[..., Tensor]:
    return torch.compile(_realigned_loss, fullgraph=True)


class Realigner:
    """The re-alignment: A ``[M, D_u + 1, r]`` and B ``[M, r, D]``, one pair for each modality seen so far.

    Args:
        dim: D.
        rank: largest r.
        reads_query: all of u is read; False: z alone.

    Attributes:
        down: A; None before the first solution. Its last row belongs to a constant 1; older versions had none.
        up: B; None before the first solution.
    """

    def __init__(self, dim: int, *, rank: int, reads_query: bool):
        self.dim, self.rank, self.reads_query = dim, rank, reads_query
        self.down: Tensor | None = None
        self.up: Tensor | None = None

    def source(self, u: Tensor) -> Tensor:
        """Return what re-alignment reads of features u ``[B, D_u]``: their coordinates, and a constant 1."""
        read = u if self.reads_query else u[:, : self.dim]
        constants = 1 if self.down is None else self.down.shape[1] - read.shape[1]
        return F.pad(read, (0, constants), value=1.0)

    def __call__(self, u: Tensor, gate: Tensor) -> Tensor:
        """Return e ``[B, D]``, unit rows; z / |z| before the first solution.

        Args:
            u: ``[B, D_u]``; its first D coordinates are z.
            gate: contributions ``[B, M]``.
        """
        z = u[:, : self.dim]
        if self.down is None or self.up is None:
            return F.normalize(z, dim=-1)
        return ops.realign(z, gate, self.down, self.up, source=self.source(u))

    def solve(
        self,
        memory: FeatureMemory,
        texts: Tensor,
        modalities: list[str],
        penalty: float | Literal["auto"],
        dual: bool,
        share: float = DEFAULT_SHARE,
    ) -> None:
        """Take the solution of :func:`closed_form` for every modality."""
        width = len(memory.pooled[modalities[0]].mean) if self.reads_query else self.dim
        self.down, self.up = closed_form(
            memory, texts, modalities, rank=self.rank, penalty=penalty, width=width, dual=dual, share=share
        )
        distributed.broadcast_tensors(self.down, self.up)  # the same bits on unlike machines too

    def start_at_zero(
        self, width: int, modalities: list[str], generator: torch.Generator, device: torch.device
    ) -> None:
        """Set A to random numbers and B to zero, so that re-alignment does nothing. ``width``: D_u."""
        width, rank = (width if self.reads_query else self.dim) + 1, min(self.rank, ZERO_RANK)
        self.down = (torch.randn(len(modalities), width, rank, generator=generator) * width**-0.5).to(device)
        self.up = torch.zeros(len(modalities), rank, self.dim, device=device)

    def train(
        self,
        memory: FeatureMemory,
        texts: Tensor,
        modalities: list[str],
        gate_of: Callable[[Tensor], Tensor],
        options: CommOptions,
        generator: torch.Generator,
        *,
        advance: Callable[[int], None],
        checkpoints: StepCheckpoints = NoCheckpoints(),
        dtype: torch.dtype = torch.float32,
    ) -> float:
        """Minimise the weighted alignment loss on sampled features, balanced over modalities.

        Other samples then decide. A and B stay at the starting point, unless a point on the way to the trained solution
        is better by more than two standard errors.

        Args:
            memory: the feature memory.
            texts: T ``[C, D]``.
            modalities: M names, in the order of the gate's columns.
            gate_of: sampled u ``[n, D_u]`` -> contributions ``[n, M]``.
            options: ``steps``, ``sampled_features``, ``realignment_lr``, ``realignment_decay``, ``realignment_scale``,
                ``weighted`` and ``compiled`` are used.
            generator: the source of all random numbers.
            advance: called with the number of steps done since the last call.
            checkpoints: where the training loop's state is kept.
            dtype: of the features and the matrix products; A, B and the loss are float32.

        Returns:
            The share of the way from the starting point to the trained solution: 0 to 1. It is 0 without training,
            where ``trains`` says that it would see too few features of each class.
        """
        if self.down is None or self.up is None:
            raise ValueError("nothing to train from: call solve or start_at_zero first")
        steps, per_step, decay = options.steps, options.sampled_features, options.realignment_decay
        classes = sum(len(memory.labels(m)) for m in modalities)
        if not trains(classes, len(memory.pooled[modalities[0]].mean), steps, per_step):
            return 0.0
        per_modality = POOL_FACTOR * per_step / len(modalities)
        u, label, true_modality = _draw(
            memory, modalities, generator, lambda k: max(LEAST_SAMPLED, round(per_modality / k))
        )
        held_out = _draw(memory, modalities, generator, lambda k: max(1, min(HELD_OUT, MOST_HELD_OUT // k)))
        gate = gate_of(u)
        weight = 1.0 / torch.bincount(true_modality, minlength=len(modalities))[true_modality].float()
        if options.weighted:  # by the contribution of its true modality too
            weight = weight * gate.gather(1, true_modality.unsqueeze(1)).squeeze(1)
        weight = weight / weight.mean()
        z, source = u[:, : self.dim].to(dtype), self.source(u).to(dtype)
        plan = torch.randint(len(u), (steps, per_step), generator=generator).to(u.device)  # no step waits for a draw
        start = [self.down.clone(), self.up.clone()]
        down, up = self.down.requires_grad_(True), self.up.requires_grad_(True)
        optimiser = torch.optim.Adam([down, up], options.realignment_lr, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        realigned_loss = _compiled_loss() if options.compiled else _realigned_loss

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step], weight)
            with torch.autocast(u.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                of_rows = z[rows], source[rows], gate[rows], label[rows], weight[rows]
                value = share * realigned_loss(*of_rows, texts, down, up, options.realignment_scale)
            if decay:  # L2-SP: a pull towards the starting point
                moved = (down - start[0]).square().sum() + (up - start[1]).square().sum()
                value = value + decay / distributed.world_size() * moved
            return value

        optimise(
            "re-alignment",
            optimiser,
            steps,
            loss,
            schedule=schedule,
            checkpoints=checkpoints,
            advance=advance,
            remedy=f"lower method.options.realignment_lr (now {options.realignment_lr}) and start a new run",
        )
        return self._choose(start, [down.detach(), up.detach()], held_out, gate_of, texts)

    @torch.no_grad()
    def _choose(
        self,
        start: list[Tensor],
        trained: list[Tensor],
        held_out: tuple[Tensor, Tensor, Tensor],
        gate_of: Callable[[Tensor], Tensor],
        texts: Tensor,
    ) -> float:
        """Set A and B to the best point between two solutions, by accuracy on held-out samples.

        The line between two solutions often holds better ones than its ends (Wortsman et al. 2022, arXiv 2109.01903).

        Args:
            start: A and B before training.
            trained: A and B after training.
            held_out: features, labels and modalities, as ``_draw`` returns them.
            gate_of: as in :meth:`train`.
            texts: T ``[C, D]``.

        Returns:
            The chosen point's share of the way, one of 0 and ``TRAINED_SHARES``.
        """
        u, label, modality = held_out
        gate = gate_of(u)
        weight = 1.0 / torch.bincount(modality)[modality].double()
        weight = weight / weight.sum()

        def right(share: float) -> Tensor:
            self.down, self.up = (torch.lerp(a, b, share) for a, b in zip(start, trained))
            found = [(self(rows, gates) @ texts.T).argmax(1) for rows, gates in zip(u.split(ROWS), gate.split(ROWS))]
            return (torch.cat(found) == label).double()

        first, best, chosen = right(0.0), 0.0, 0.0
        for share in TRAINED_SHARES:
            gain = right(share) - first
            mean = (weight * gain).sum()
            error = (weight.square() * (gain - mean).square()).sum().sqrt()
            if float(mean) > max(best, STANDARD_ERRORS * float(error)):
                best, chosen = float(mean), share
        chosen = distributed.broadcast_object(chosen)
        self.down, self.up = (torch.lerp(a, b, chosen) if chosen else a for a, b in zip(start, trained))
        return chosen


def _draw(
    memory: FeatureMemory, modalities: list[str], generator: torch.Generator, per_class: Callable[[int], int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample features of all classes.

    Args:
        memory: the feature memory.
        modalities: M names.
        generator: the source of random numbers.
        per_class: number of a modality's classes -> samples of each.

    Returns:
        u ``[n, D_u]``, labels ``[n]`` and numbers of modalities ``[n]``.
    """
    features, labels, numbers = [], [], []
    for number, modality in enumerate(modalities):
        known = memory.labels(modality)
        count = per_class(len(known))
        features.append(memory.sample(modality, count, generator))
        labels.append(torch.tensor(known).repeat_interleave(count))
        numbers.append(torch.full((len(labels[-1]),), number))
    u = torch.cat(features)
    return u, torch.cat(labels).to(u.device), torch.cat(numbers).to(u.device)
