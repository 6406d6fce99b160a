"""Re-alignment of the modalities' embeddings after a task, from sampled features only.

e = normalize(z + sum_k c_k (u A_k) B_k), u = [z ; q], trained with the contribution-weighted cross-modal alignment
loss L = sum_i w_i CE(s cos(e_i, T), y_i) / sum_i w_i. A_k and B_k start from the closed-form ridge solution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise

DUAL_PENALTY = 1e-3  # eps of the dual basis
POOL_FACTOR = 4  # features sampled once, for each feature of a step


def class_targets(texts: Tensor, dual: bool) -> Tensor:
    """Return regression targets ``[C, D]`` of the classes.

    They are the class texts T themselves, or their dual basis Y = (T T' + eps I)^-1 T. For the latter Y T' = I, so that
    after regression onto it e T' are the scores of one-hot ridge regression.

    Args:
        texts: T ``[C, D]``.
        dual: return the dual basis.
    """
    if not dual:
        return texts
    if len(texts) > texts.shape[1]:  # T (T' T + eps I)^-1: the same, without a matrix of C by C
        gram = texts.double().T @ texts.double()
        return torch.linalg.solve(
            gram + DUAL_PENALTY * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), texts.double().T
        ).T.to(texts.dtype)
    gram = texts.double() @ texts.double().T
    return torch.linalg.solve(
        gram + DUAL_PENALTY * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), texts.double()
    ).to(texts.dtype)


def closed_form(
    memory: FeatureMemory, targets: Tensor, modality: str, rank: int, penalty: float, source_dims: slice
) -> tuple[Tensor, Tensor]:
    """Solve the reduced-rank ridge regression of (class target - z) on u over a modality's classes.

    It needs their moments alone: W = (E[uu'] + lambda tr/d I)^-1 E[u (y - z)'], cut to rank r by the SVD of L' W, with
    G = L L' the regularised moment.

    Args:
        memory: the feature memory.
        targets: ``[C, D]``, ``class_targets`` of all classes.
        modality: whose classes are taken.
        rank: r.
        penalty: lambda.
        source_dims: the coordinates of u that are read.

    Returns:
        down ``[D_u, r]`` and up ``[r, D]``.
    """
    dim, labels = targets.shape[1], memory.labels(modality)
    moment = memory.second_moment(modality)[source_dims]
    means = memory.means(modality)
    live = (moment[:, source_dims].diagonal() > 0).nonzero().squeeze(1)  # the other tower's coordinates are all zero
    cross = (means[:, source_dims].T @ targets[labels] - moment[:, :dim])[live]
    gram = moment[:, source_dims][live][:, live]
    gram.diagonal().add_(penalty * moment[:, source_dims].diagonal().mean())
    root = torch.linalg.cholesky(gram)
    white = torch.linalg.solve_triangular(root, cross, upper=False)
    values, right = torch.linalg.eigh((white.T @ white).double())
    rank_now = min(rank, dim)
    values, right = values[-rank_now:].clamp(min=1e-12), right[:, -rank_now:].to(white.dtype)
    down = torch.linalg.solve_triangular(root.T, white @ right, upper=True)  # W = down right'
    scale = (down.norm(dim=0).clamp(min=1e-12)).sqrt()
    full = down.new_zeros(len(moment), rank_now)
    full[live] = down / scale
    return _pad_rank(full, 1, rank), _pad_rank((right * scale).T.contiguous(), 0, rank)


def _pad_rank(x: Tensor, dim: int, rank: int) -> Tensor:
    """Fill up a dimension of a matrix with zeros to ``rank``."""
    missing = rank - x.shape[dim]
    return x if missing <= 0 else F.pad(x, (0, missing) if dim == 1 else (0, 0, 0, missing))


def _realigned_loss(
    u: Tensor,
    gate: Tensor,
    label: Tensor,
    weight: Tensor,
    texts: Tensor,
    down: Tensor,
    up: Tensor,
    width: int,
    logit_scale: float,
) -> Tensor:
    """The alignment loss of features u ``[B, D_u]`` after re-alignment, which reads their first ``width`` numbers."""
    e = ops.realign(u[:, : texts.shape[1]], gate, down, up, source=u[:, :width])
    return ops.alignment_loss(e, texts, label, weight=weight, logit_scale=logit_scale)


@cache
def _compiled_loss() -> Callable[..., Tensor]:
    return torch.compile(_realigned_loss, fullgraph=True)


class Realigner:
    """The re-alignment: A ``[M, D_u, r]`` and B ``[M, r, D]``, one pair for each modality seen so far.

    Args:
        dim: D.
        rank: r.
        reads_query: u = [z ; q] is read; False: z alone.

    Attributes:
        down: A; None before the first solution.
        up: B; None before the first solution.
    """

    def __init__(self, dim: int, *, rank: int, reads_query: bool):
        self.dim, self.rank, self.reads_query = dim, rank, reads_query
        self.down: Tensor | None = None
        self.up: Tensor | None = None

    def source(self, u: Tensor) -> Tensor:
        """Return the coordinates of features u ``[B, D_u]`` that re-alignment reads."""
        return u if self.reads_query else u[:, : self.dim]

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

    def solve(self, memory: FeatureMemory, texts: Tensor, modalities: list[str], penalty: float, dual: bool) -> None:
        """Take the closed-form solution of every modality, see ``closed_form`` and ``class_targets``."""
        dims = slice(None) if self.reads_query else slice(0, self.dim)
        targets = class_targets(texts, dual)
        pairs = [closed_form(memory, targets, m, self.rank, penalty, dims) for m in modalities]
        self.down, self.up = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def start_at_zero(
        self, width: int, modalities: list[str], generator: torch.Generator, device: torch.device
    ) -> None:
        """Set A to random numbers and B to zero, so that re-alignment does nothing. ``width``: D_u."""
        width = width if self.reads_query else self.dim
        self.down = (torch.randn(len(modalities), width, self.rank, generator=generator) * width**-0.5).to(device)
        self.up = torch.zeros(len(modalities), self.rank, self.dim, device=device)

    def train(
        self,
        memory: FeatureMemory,
        texts: Tensor,
        modalities: list[str],
        gate_of: Callable[[Tensor], Tensor],
        *,
        steps: int,
        per_step: int,
        lr: float,
        decay: float,
        logit_scale: float,
        weighted: bool,
        generator: torch.Generator,
        advance: Callable[[int], None],
        checkpoints: StepCheckpoints = NoCheckpoints(),
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """Minimise the weighted alignment loss on sampled features, balanced over modalities.

        Args:
            memory: the feature memory.
            texts: T ``[C, D]``.
            modalities: M names, in the order of the gate's columns.
            gate_of: sampled u ``[n, D_u]`` -> contributions ``[n, M]``.
            steps: number of steps.
            per_step: features in a step.
            lr: largest learning rate.
            decay: weight of the pull towards the starting point (L2-SP), relative to the loss.
            logit_scale: s.
            weighted: weigh a sample by the contribution of its true modality (times the inverse frequency of the
                modality); otherwise by the inverse frequency alone.
            generator: the source of all random numbers.
            advance: called with the number of steps done since the last call.
            checkpoints: where the training loop's state is kept.
            dtype: of the features and the matrix products; A, B and the loss are float32.
            compiled: run forward and backward of a step through torch.compile.
        """
        if self.down is None or self.up is None:
            raise ValueError("nothing to train from: call solve or start_at_zero first")
        features, classes, modality_of = [], [], []
        for number, modality in enumerate(modalities):
            labels = memory.labels(modality)
            per_class = max(1, round(POOL_FACTOR * per_step / (len(modalities) * len(labels))))
            features.append(memory.sample(modality, per_class, generator))
            classes.append(torch.tensor(labels).repeat_interleave(per_class))
            modality_of.append(torch.full((len(classes[-1]),), number))
        u = torch.cat(features)
        label, true_modality = torch.cat(classes).to(u.device), torch.cat(modality_of).to(u.device)
        gate = gate_of(u)
        weight = 1.0 / torch.bincount(true_modality, minlength=len(modalities))[true_modality].float()
        if weighted:
            weight = weight * gate.gather(1, true_modality.unsqueeze(1)).squeeze(1)
        weight = weight / weight.mean()
        u = u.to(dtype)
        plan = torch.randint(len(u), (steps, per_step), generator=generator).to(u.device)  # no step waits for a draw
        start = [self.down.clone(), self.up.clone()]
        down, up = self.down.requires_grad_(True), self.up.requires_grad_(True)
        optimiser = torch.optim.Adam([down, up], lr, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        width = u.shape[1] if self.reads_query else self.dim
        realigned_loss = _compiled_loss() if compiled else _realigned_loss

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step], weight)
            with torch.autocast(u.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                value = realigned_loss(
                    u[rows], gate[rows], label[rows], weight[rows], texts, down, up, width, logit_scale
                )
                value = value * share
            if decay:
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
            remedy=f"lower method.options.realignment_lr (now {lr}) and start a new run",
        )
        self.down, self.up = down.detach(), up.detach()
