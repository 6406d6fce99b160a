"""Feature memory: what is kept of a class instead of its data.

Per class: count, mean and a low-rank-plus-diagonal covariance of u = [z ; q]. Per modality: a pooled within-class
covariance in the same form, towards which each class's is shrunk. About ``(rank + 2) * D_u * 4`` bytes a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl_fast import parallel

CLASSES = 256  # whose moments are summed at once


def low_rank(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """rows ``[k, D]`` with covariance rows'rows -> factor ``[r, D]`` and diagonal ``[D]`` so that
    factor'factor + diag(diagonal) has the same diagonal and the same leading subspace."""
    if len(rows) > rank:
        gram = (rows @ rows.T).double()
        values, vectors = torch.linalg.eigh(gram)
        factor = vectors[:, -rank:].T.to(rows.dtype) @ rows
    else:
        factor = rows
    return factor, (rows.square().sum(0) - factor.square().sum(0)).clamp(min=0)


@dataclass
class Gaussian:
    """count, mean ``[D]``, factor ``[r, D]``, diagonal ``[D]``."""

    count: int
    mean: Tensor
    factor: Tensor
    diagonal: Tensor

    @staticmethod
    def fit(x: Tensor, rank: int) -> "Gaussian":
        mean = x.mean(0)
        factor, diagonal = low_rank((x - mean) / max(len(x) - 1, 1) ** 0.5, rank)
        return Gaussian(len(x), mean, factor, diagonal)

    def merge(self, x: Tensor, rank: int) -> "Gaussian":
        """Chan's merge of count, mean and scatter with new rows; the factor is cut to ``rank`` again."""
        other_mean, total = x.mean(0), self.count + len(x)
        between = ((other_mean - self.mean) * (self.count * len(x) / total) ** 0.5).unsqueeze(0)
        rows = torch.cat([self.factor * max(self.count - 1, 1) ** 0.5, x - other_mean, between])
        factor, diagonal = low_rank(rows / max(total - 1, 1) ** 0.5, rank)
        diagonal = diagonal + self.diagonal * (max(self.count - 1, 1) / max(total - 1, 1))
        return Gaussian(total, self.mean + (other_mean - self.mean) * (len(x) / total), factor, diagonal)


class FeatureMemory:
    """Statistics of every class seen so far.

    Args:
        class_rank: rank kept per class.
        modality_rank: rank kept per modality.
        shrink: share of the modality's covariance in a class's.
    """

    def __init__(self, class_rank: int, modality_rank: int, shrink: float):
        self.class_rank, self.modality_rank, self.shrink = class_rank, modality_rank, shrink
        self.classes: dict[tuple[str, int], Gaussian] = {}  # a shared class has one per modality
        self.pooled: dict[str, Gaussian] = {}

    def add(self, label: int, modality: str, u: Tensor) -> None:
        """Features ``[n, D_u]`` of one class; a class met again is merged."""
        known = self.classes.get((modality, label))
        self.classes[modality, label] = known.merge(u, self.class_rank) if known else Gaussian.fit(u, self.class_rank)
        centred = u - u.mean(0)
        pooled = self.pooled.get(modality)
        self.pooled[modality] = (pooled.merge(centred, self.modality_rank) if pooled
                                 else Gaussian.fit(centred, self.modality_rank))

    def labels(self, modality: str) -> list[int]:
        return [c for m, c in self.classes if m == modality]

    def draw(self, modality: str, label: int, count: int, generator: torch.Generator) -> Tensor:
        """``[count, D_u]`` features of one class."""
        own, pooled = self.classes[modality, label], self.pooled[modality]
        a = self.shrink

        def normal(width: int) -> Tensor:
            return torch.randn(count, width, generator=generator).to(own.mean.device)

        diagonal = (1 - a) * own.diagonal + a * pooled.diagonal
        return (own.mean + (1 - a) ** 0.5 * normal(len(own.factor)) @ own.factor
                + a ** 0.5 * normal(len(pooled.factor)) @ pooled.factor
                + normal(len(diagonal)) * diagonal.sqrt())

    def second_moment(self, modality: str) -> Tensor:
        """Sum over a modality's classes of E[u u'], ``[D_u, D_u]``."""
        labels, pooled = self.labels(modality), self.pooled[modality]
        a, n = self.shrink, len(labels)

        def block(number: int) -> Tensor:
            own = [self.classes[modality, c] for c in labels[number * CLASSES:(number + 1) * CLASSES]]
            common = [(n * a) ** 0.5 * pooled.factor] if number == 0 else []
            rows = torch.cat([*((1 - a) ** 0.5 * g.factor for g in own), *common, torch.stack([g.mean for g in own])])
            out, diagonal = rows.T @ rows, (1 - a) * sum(g.diagonal for g in own)
            out.diagonal().add_(diagonal if number else diagonal + n * a * pooled.diagonal)
            return out.double()

        like = torch.empty(len(pooled.mean), len(pooled.mean), dtype=torch.float64, device=pooled.mean.device)
        return parallel.tree_sum(-(-n // CLASSES), block, like).to(pooled.mean.dtype)

    def shift(self, modality: str, labels: list[int], moved: Tensor, at: Tensor, width: float, dims: int) -> None:
        """Semantic drift compensation (Yu et al. 2020, arXiv 2004.00440): move the first ``dims`` coordinates of old
        means by the drift seen on current data, weighted by a Gaussian kernel around the mean.

        Args:
            labels: the old classes to correct.
            moved: ``[n, dims]``, new minus old features of the current data.
            at: ``[n, D_u]``, old features of the current data.
            width: kernel width relative to the mean distance.
        """
        shared = parallel.stretch(len(labels))
        own = shared[parallel.rank()]
        moves = [moved.new_empty(0, dims)]
        for label in labels[own.start:own.stop]:
            distance = (at - self.classes[modality, label].mean).square().sum(1)
            weight = torch.softmax(-distance / (2 * width**2 * distance.mean()), dim=0)
            moves.append((weight @ moved).unsqueeze(0))
        for label, move in zip(labels, parallel.join_rows(torch.cat(moves), [len(s) for s in shared])):
            self.classes[modality, label].mean[:dims] += move

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {}
        named = {f"class/{m}/{c}": g for (m, c), g in self.classes.items()}
        named |= {f"pooled/{m}": g for m, g in self.pooled.items()}
        for key, g in named.items():
            tensors |= {f"{key}/{part}": getattr(g, part) for part in ("mean", "factor", "diagonal")}
        return tensors, {"classes": [[m, c, g.count] for (m, c), g in self.classes.items()],
                         "pooled": {m: g.count for m, g in self.pooled.items()}}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        def read(key: str, count: int) -> Gaussian:
            return Gaussian(count, *(tensors[f"{key}/{p}"] for p in ("mean", "factor", "diagonal")))

        self.classes = {(m, c): read(f"class/{m}/{c}", n) for m, c, n in values["classes"]}
        self.pooled = {m: read(f"pooled/{m}", n) for m, n in values["pooled"].items()}
