"""The relevance function R: which of the modalities seen so far a query resembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import gram_matrix, symmetric
from mmcl_fast.methods.shared.ridge_regression import Ridge
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise

MLP_WIDTH, MLP_STEPS, MLP_BATCH = 128, 300, 128


def discriminant(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """Return linear discriminants of the modalities, alike for many and for few samples, from the moments of a ridge.

    With the mean mu_m of a modality's queries, and S the covariance around these means,

        R_m(q) = (q - mu)' S^-1 (mu_m - mu) - 1/2 |mu_m - mu|^2_{S^-1},   mu = the mean of all mu_m

    divided by the mean of |mu_m - mu|^2_{S^-1}. Every modality counts alike. Ridge regression would favour one with
    many samples, and never find one with few.

    Args:
        gram: X'X ``[d + 1, d + 1]`` float64; rows of X are queries with a constant 1 at the end.
        cross: X'Y ``[d + 1, M]``, with one-hot rows of Y.
        penalty: added to the diagonal of S, relative to the mean of the Gram matrix's diagonal for one sample.

    Returns:
        ``[d + 1, M]`` float64, with the constant's row last.
    """
    counts = cross[-1].clamp(min=1)
    total = counts.sum()
    means = cross[:-1] / counts  # [d, M]
    covariance = (gram[:-1, :-1] - (cross[:-1] / counts) @ cross[:-1].T) / total
    covariance = symmetric(covariance)
    covariance.diagonal().add_(penalty * gram.diagonal().mean() / total)
    centre = means.mean(1, keepdim=True)
    directions = torch.linalg.solve(covariance, means - centre)
    squares = (directions * (means - centre)).sum(0)
    bias = -0.5 * squares - (directions * centre).sum(0)
    return torch.cat([directions, bias.unsqueeze(0)]) / squares.mean().clamp(min=1e-30)


class Relevance:
    """c(x) = softmax(R(q) / tau) over the modalities seen so far.

    Args:
        width: Dq, numbers of a query.
        kind: ``analytic``: :func:`discriminant`, whatever the order of tasks. ``mlp``: one hidden layer, trained on
            the task's queries and on queries sampled from the Gaussians of all classes learned before.
        tau: temperature.
        penalty: see :func:`discriminant`.
    """

    def __init__(self, width: int, kind: str, tau: float, penalty: float):
        self.kind, self.tau, self.penalty = kind, tau, penalty
        self.modalities: list[str] = []
        self.ridge = Ridge(width, penalty)  # its moments
        self._weight: Tensor | None = None
        self.mlp: nn.Sequential | None = None

    def learn(
        self,
        query: Tensor,
        modality: str,
        sampled: dict[str, Tensor],
        generator: torch.Generator,
        checkpoints: StepCheckpoints = NoCheckpoints(),
    ) -> None:
        """Learn a task's queries.

        Args:
            query: ``[n, Dq]``, unit rows.
            modality: of the task.
            sampled: for mlp: modality -> unit queries that stand for earlier tasks, of this modality too.
            generator: for mlp: the source of random numbers.
            checkpoints: for mlp: where the training loop's state is kept.
        """
        if modality not in self.modalities:
            self.modalities.append(modality)
        if self.kind == "analytic":
            column = self.modalities.index(modality)
            self.ridge.add(query, torch.full((len(query),), column), len(self.modalities))
            self._weight = None
        else:
            earlier = [sampled[modality]] if modality in sampled else []
            self._train_mlp({**sampled, modality: torch.cat([query, *earlier])}, generator, checkpoints)

    def _train_mlp(self, queries: dict[str, Tensor], generator: torch.Generator, checkpoints: StepCheckpoints) -> None:
        x = torch.cat([queries[m] for m in self.modalities])
        y = torch.cat([torch.full((len(queries[m]),), i) for i, m in enumerate(self.modalities)]).to(x.device)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from torch's global generator
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            mlp = self.mlp = self._network(x.shape[1]).to(x.device)
        weight = 1.0 / torch.bincount(y, minlength=len(self.modalities)).clamp(min=1).float()
        optimiser = torch.optim.AdamW(mlp.parameters(), 1e-3, weight_decay=1e-2)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(x), (MLP_BATCH,), generator=generator).to(x.device)
            rows, share = distributed.shard_batch(rows, weight[y])
            return share * F.cross_entropy(mlp(x[rows]), y[rows], weight=weight)

        optimise(
            "relevance",
            optimiser,
            MLP_STEPS,
            loss,
            generator=generator,
            checkpoints=checkpoints,
            remedy='use method.options.relevance = "analytic"',
        )
        mlp.requires_grad_(False)

    def remove_class(
        self, modality: str, number: int, means: Sequence[Tensor], counts: Sequence[Tensor], own: Tensor
    ) -> None:
        """Take a class out of the moments of the analytic kind.

        The Gram matrix is the sum over the classes of n_k [mu_k ; 1] [mu_k ; 1]', plus the scatter within the classes.
        The class's own term goes. The scatter holds no class apart: its variances become the other classes',
        and its correlations stay.

        Args:
            modality: of the class.
            number: of the class, a row of the modality's ``means``.
            means: for each modality the means of its classes' queries ``[K_m, Dq]``, the class's own included.
            counts: for each modality the samples of its classes ``[K_m]``.
            own: the diagonal of the scatter of the class's queries around their mean, ``[Dq]``.
        """
        if self.kind != "analytic":
            return
        column = self.modalities.index(modality)
        rows = [F.pad(mean.double().cpu(), (0, 1), value=1.0) for mean in means]
        weights = [n.double().cpu() for n in counts]
        between = gram_matrix(torch.cat([row * n.sqrt().unsqueeze(1) for row, n in zip(rows, weights)]))
        within = self.ridge.gram - between
        total = within.diagonal()
        share = (1 - F.pad(own.double().cpu(), (0, 1)) / total.clamp(min=1e-30)).clamp(0, 1).sqrt()
        mean, count = rows[column][number], weights[column][number]
        self.ridge.gram = symmetric(between - count * torch.outer(mean, mean) + share.unsqueeze(1) * within * share)
        self.ridge.cross[:, column] -= count * mean
        self._weight = None

    def remove_modality(self, modality: str) -> None:
        """Take out a modality that has no class any more."""
        column = self.modalities.index(modality)
        self.modalities.remove(modality)
        if self.kind == "analytic":
            kept = [number for number in range(self.ridge.cross.shape[1]) if number != column]
            self.ridge.cross, self._weight = self.ridge.cross[:, kept], None

    def train_on_samples(self, sampled: dict[str, Tensor], generator: torch.Generator) -> None:
        """Train the mlp anew on sampled queries alone, as after a class was taken out; the analytic kind needs nothing.

        Args:
            sampled: modality -> unit queries sampled from its classes.
            generator: the source of random numbers.
        """
        if self.kind == "mlp":
            self._train_mlp(sampled, generator, NoCheckpoints())

    def _network(self, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, MLP_WIDTH), nn.GELU(), nn.Linear(MLP_WIDTH, len(self.modalities)))

    def __call__(self, query: Tensor) -> Tensor:
        """Return contributions ``[n, M]`` of unit queries ``[n, Dq]``; each row sums to 1."""
        return (self._scores(query) / self.tau).softmax(-1)

    def _scores(self, query: Tensor) -> Tensor:
        """R(q) ``[n, M]`` float32."""
        if self.mlp is not None:
            return self.mlp(query)
        if self._weight is None:
            self._weight = discriminant(self.ridge.gram, self.ridge.cross, self.penalty).float()
        weight = self._weight.to(query.device)
        return query.float() @ weight[:-1] + weight[-1]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = self.ridge.state() if self.kind == "analytic" else dict(self.mlp.state_dict()) if self.mlp else {}
        return tensors, {"modalities": list(self.modalities)}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.modalities = list(values["modalities"])
        if self.kind == "analytic":
            self.ridge.load_state(tensors)
            self._weight = None
        elif tensors:
            self.mlp = self._network(tensors["0.weight"].shape[1]).to(tensors["0.weight"].device)
            self.mlp.load_state_dict(tensors)
            self.mlp.requires_grad_(False)
