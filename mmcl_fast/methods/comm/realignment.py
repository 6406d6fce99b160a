"""Re-alignment of the modalities' embeddings after a task, from drawn features only.

e = normalize(z + sum_k c_k (u A_k) B_k), u = [z ; q], trained with the contribution-weighted cross-modal alignment
loss L = sum_i w_i CE(s cos(e_i, T), y_i) / sum_i w_i. A_k, B_k start from the closed-form ridge solution.
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


def class_codes(texts: Tensor, dual: bool) -> Tensor:
    """Regression targets ``[C, D]`` of the classes: the class texts themselves, or their dual basis
    Y = (T T' + eps I)^-1 T, for which Y T' = I: regressing onto it makes e T' the one-hot ridge scores."""
    if not dual:
        return texts
    if len(texts) > texts.shape[1]:  # T (T' T + eps I)^-1, the same without a matrix of all classes by all classes
        gram = texts.double().T @ texts.double()
        return torch.linalg.solve(
            gram + 1e-3 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), texts.double().T
        ).T.to(texts.dtype)
    gram = texts.double() @ texts.double().T
    return torch.linalg.solve(
        gram + 1e-3 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), texts.double()
    ).to(texts.dtype)


def closed_form(
    memory: FeatureMemory, codes: Tensor, modality: str, rank: int, penalty: float, source_dims: slice
) -> tuple[Tensor, Tensor]:
    """Reduced-rank ridge regression of (class code - z) on u over a modality's classes, from their moments alone.

    W = (E[uu'] + lambda tr/d I)^-1 E[u (y - z)'], cut to rank r by the SVD of L' W, G = L L'.

    Returns:
        down ``[D_u, r]`` and up ``[r, D]``.
    """
    dim, labels = codes.shape[1], memory.labels(modality)
    moment = memory.second_moment(modality)[source_dims]
    means = memory.means(modality)
    live = (moment[:, source_dims].diagonal() > 0).nonzero().squeeze(1)  # the other tower's slots are all zero
    cross = (means[:, source_dims].T @ codes[labels] - moment[:, :dim])[live]
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
    return _fit_rank(full, 1, rank), _fit_rank((right * scale).T.contiguous(), 0, rank)


def _fit_rank(x: Tensor, dim: int, rank: int) -> Tensor:
    missing = rank - x.shape[dim]
    return x if missing <= 0 else F.pad(x, (0, missing) if dim == 1 else (0, 0, 0, missing))


def _aligned(
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
    e = ops.realign(u[:, : texts.shape[1]], gate, down, up, source=u[:, :width])
    return ops.alignment_loss(e, texts, label, weight=weight, logit_scale=logit_scale)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_aligned, fullgraph=True)


class Realigner:
    """A ``[M, D_u, r]`` and B ``[M, r, D]``, one pair per modality seen so far."""

    def __init__(self, dim: int, *, rank: int, reads_query: bool):
        self.dim, self.rank, self.reads_query = dim, rank, reads_query
        self.down: Tensor | None = None
        self.up: Tensor | None = None

    def source(self, u: Tensor) -> Tensor:
        return u if self.reads_query else u[:, : self.dim]

    def __call__(self, u: Tensor, gate: Tensor) -> Tensor:
        """u ``[B, D_u]`` (its first D coordinates are z), gate ``[B, M]`` -> e ``[B, D]``, unit rows."""
        z = u[:, : self.dim]
        if self.down is None or self.up is None:
            return F.normalize(z, dim=-1)
        return ops.realign(z, gate, self.down, self.up, source=self.source(u))

    def solve(self, memory: FeatureMemory, texts: Tensor, modalities: list[str], penalty: float, dual: bool) -> None:
        dims = slice(None) if self.reads_query else slice(0, self.dim)
        codes = class_codes(texts, dual)
        pairs = [closed_form(memory, codes, m, self.rank, penalty, dims) for m in modalities]
        self.down, self.up = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def start_at_zero(
        self, width: int, modalities: list[str], generator: torch.Generator, device: torch.device
    ) -> None:
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
        """Minimise the weighted alignment loss on drawn features, balanced over modalities.

        Args:
            gate_of: drawn u ``[n, D_u]`` -> contributions ``[n, M]``.
            per_step: features drawn per step.
            decay: pull towards the starting point (L2-SP), relative to the loss.
            weighted: weigh a sample by the contribution of its true modality (times the inverse frequency of the
                modality); otherwise by the inverse frequency alone.
            dtype: of the drawn features and the matrix products; A, B and the loss are float32.
            compiled: a step's forward and backward through torch.compile.
        """
        if self.down is None or self.up is None:
            raise ValueError("nothing to train from: solve or start_at_zero first")
        drawn, classes, rows_of = [], [], []
        for row, modality in enumerate(modalities):
            labels = memory.labels(modality)
            share = max(1, round(4 * per_step / (len(modalities) * len(labels))))
            drawn.append(memory.draw(modality, share, generator))
            classes.append(torch.tensor(labels).repeat_interleave(share))
            rows_of.append(torch.full((len(classes[-1]),), row))
        u = torch.cat(drawn)
        label, home = torch.cat(classes).to(u.device), torch.cat(rows_of).to(u.device)
        gate = gate_of(u)
        weight = 1.0 / torch.bincount(home, minlength=len(modalities))[home].float()
        if weighted:
            weight = weight * gate.gather(1, home.unsqueeze(1)).squeeze(1)
        weight = weight / weight.mean()
        u = u.to(dtype)
        plan = torch.randint(len(u), (steps, per_step), generator=generator).to(u.device)  # no step waits for a draw
        start = [self.down.clone(), self.up.clone()]
        down, up = self.down.requires_grad_(True), self.up.requires_grad_(True)
        optimiser = torch.optim.Adam([down, up], lr, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

        aligned = _compiled() if compiled else _aligned

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step], weight)
            with torch.autocast(u.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                value = (
                    aligned(
                        u[rows],
                        gate[rows],
                        label[rows],
                        weight[rows],
                        texts,
                        down,
                        up,
                        u.shape[1] if self.reads_query else self.dim,
                        logit_scale,
                    )
                    * share
                )
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
