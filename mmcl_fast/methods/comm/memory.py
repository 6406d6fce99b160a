"""Feature memory: what is kept of a class instead of its data.

Per class: count, mean and a low-rank-plus-diagonal covariance of u = [z ; q]. Per modality: a pooled within-class
covariance in the same form, towards which each class's is shrunk. ``(rank + 2) * D_u * 4`` bytes a class. Classes lie
in blocks, so that what is done with all of them is a few tensor operations a block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import gram_matrix

CLASSES = 256  # of a block
PARTS = ("mean", "factor", "diagonal")


def low_rank(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """rows ``[k, D]`` with covariance rows'rows -> factor ``[r, D]`` and diagonal ``[D]`` so that
    factor'factor + diag(diagonal) has the same diagonal and the same leading subspace."""
    if len(rows) > rank:
        gram = (rows @ rows.T).double()
        vectors = torch.linalg.eigh(gram).eigenvectors
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
    def fit(x: Tensor, rank: int) -> Gaussian:
        mean = x.mean(0)
        factor, diagonal = low_rank((x - mean) / max(len(x) - 1, 1) ** 0.5, rank)
        return Gaussian(len(x), mean, factor, diagonal)

    def merge(self, x: Tensor, rank: int) -> Gaussian:
        """Chan's merge of count, mean and scatter with new rows; the factor is cut to ``rank`` again."""
        other_mean, total = x.mean(0), self.count + len(x)
        between = ((other_mean - self.mean) * (self.count * len(x) / total) ** 0.5).unsqueeze(0)
        rows = torch.cat([self.factor * max(self.count - 1, 1) ** 0.5, x - other_mean, between])
        factor, diagonal = low_rank(rows / max(total - 1, 1) ** 0.5, rank)
        diagonal = diagonal + self.diagonal * (max(self.count - 1, 1) / max(total - 1, 1))
        return Gaussian(total, self.mean + (other_mean - self.mean) * (len(x) / total), factor, diagonal)


@dataclass
class Block:
    """Up to ``CLASSES`` Gaussians: mean ``[k, D]``, factor ``[k, r, D]`` (zeros fill it up), diagonal ``[k, D]``."""

    mean: Tensor
    factor: Tensor
    diagonal: Tensor

    @staticmethod
    def of(gaussians: Sequence[Gaussian], rank: int) -> Block:
        return Block(
            torch.stack([g.mean for g in gaussians]),
            torch.stack([F.pad(g.factor, (0, 0, 0, rank - len(g.factor))) for g in gaussians]),
            torch.stack([g.diagonal for g in gaussians]),
        )

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: Any) -> Block:
        return Block(*(getattr(self, part)[rows] for part in PARTS))

    def __add__(self, other: Block) -> Block:
        return Block(*(torch.cat([getattr(self, part), getattr(other, part)]) for part in PARTS))


class FeatureMemory:
    """Statistics of every class seen so far.

    Args:
        class_rank: rank kept per class.
        modality_rank: rank kept per modality.
        shrink: share of the modality's covariance in a class's.
    """

    def __init__(self, class_rank: int, modality_rank: int, shrink: float):
        self.class_rank, self.modality_rank, self.shrink = class_rank, modality_rank, shrink
        self.counts: dict[str, dict[int, int]] = {}  # modality -> class -> samples; a shared class has one in each
        self.blocks: dict[str, list[Block]] = {}  # all full but the last, rows in the order of ``counts``
        self.pooled: dict[str, Gaussian] = {}

    def add(self, modality: str, classes: Sequence[int], u: Tensor, labels: Tensor) -> None:
        """Features ``[n, D_u]`` of a modality's classes, with labels ``[n]``; a class met again is merged."""
        rows = {c: row for row, c in enumerate(self.counts.get(modality, ()))}
        new: dict[int, Gaussian] = {}
        for c in classes:
            own = u[labels == c]
            if c in rows:
                block, row = self.blocks[modality][rows[c] // CLASSES], rows[c] % CLASSES
                merged = self._at(modality, c, rows[c]).merge(own, self.class_rank)
                block.mean[row], block.factor[row], block.diagonal[row] = merged.mean, merged.factor, merged.diagonal
                self.counts[modality][c] = merged.count
            else:
                new[c] = Gaussian.fit(own, self.class_rank)
            centred = own - own.mean(0)
            pooled = self.pooled.get(modality)
            self.pooled[modality] = (
                pooled.merge(centred, self.modality_rank) if pooled else Gaussian.fit(centred, self.modality_rank)
            )
        self._append(modality, new)

    def _append(self, modality: str, new: dict[int, Gaussian]) -> None:
        blocks, gaussians = self.blocks.setdefault(modality, []), list(new.values())
        self.counts.setdefault(modality, {}).update({c: g.count for c, g in new.items()})
        while gaussians:
            room = CLASSES - len(blocks[-1]) if blocks else 0
            if room:
                blocks[-1] = blocks[-1] + Block.of(gaussians[:room], self.class_rank)
            else:
                room = CLASSES
                blocks.append(Block.of(gaussians[:room], self.class_rank))
            gaussians = gaussians[room:]

    def labels(self, modality: str) -> list[int]:
        return list(self.counts.get(modality, ()))

    def of(self, modality: str, label: int) -> Gaussian:
        """One class's; its tensors are the memory's own."""
        return self._at(modality, label, self.labels(modality).index(label))

    def _at(self, modality: str, label: int, row: int) -> Gaussian:
        own = self.blocks[modality][row // CLASSES][row % CLASSES]
        return Gaussian(self.counts[modality][label], own.mean, own.factor, own.diagonal)

    def means(self, modality: str) -> Tensor:
        """``[n, D_u]``, rows in the order of :meth:`labels`."""
        return torch.cat([block.mean for block in self.blocks[modality]])

    def draw(self, modality: str, count: int, generator: torch.Generator, most: int | None = None) -> Tensor:
        """``[n * count, D_u]``: ``count`` features of each of a modality's n classes, in the order of :meth:`labels`.

        Args:
            most: where there are more classes, only of so many of them, evenly spaced.
        """
        total, pooled, a = len(self.counts[modality]), self.pooled[modality], self.shrink
        chosen = torch.arange(total if most is None else min(total, most))
        chosen = chosen * total // len(chosen)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(pooled.mean.device)

        out = []
        for number, block in enumerate(self.blocks[modality]):
            rows = chosen[chosen // CLASSES == number] % CLASSES
            own = block if len(rows) == len(block) else block[rows.to(block.mean.device)]
            diagonal = (1 - a) * own.diagonal + a * pooled.diagonal
            x = normal(len(own), count, diagonal.shape[1]) * diagonal.sqrt().unsqueeze(1) + own.mean.unsqueeze(1)
            x += (1 - a) ** 0.5 * normal(len(own), count, self.class_rank) @ own.factor
            x += a**0.5 * normal(len(own), count, len(pooled.factor)) @ pooled.factor
            out.append(x.flatten(0, 1))
        return torch.cat(out)

    def second_moment(self, modality: str) -> Tensor:
        """Sum over a modality's classes of E[u u'], ``[D_u, D_u]``."""
        blocks, pooled = self.blocks[modality], self.pooled[modality]
        a, n = self.shrink, len(self.counts[modality])

        def moment(number: int) -> Tensor:
            own = blocks[number]
            common = [(n * a) ** 0.5 * pooled.factor] if number == 0 else []
            rows = torch.cat([(1 - a) ** 0.5 * own.factor.flatten(0, 1), *common, own.mean])
            out, diagonal = gram_matrix(rows), (1 - a) * own.diagonal.sum(0)
            out.diagonal().add_(diagonal if number else diagonal + n * a * pooled.diagonal)
            return out.double()

        like = torch.empty(len(pooled.mean), len(pooled.mean), dtype=torch.float64, device=pooled.mean.device)
        return distributed.tree_sum(len(blocks), moment, like).to(pooled.mean.dtype)

    def shift(
        self, modality: str, current: Collection[int], moved: Tensor, at: Tensor, width: float, dims: int
    ) -> None:
        """Semantic drift compensation (Yu et al. 2020, arXiv 2004.00440): move the first ``dims`` coordinates of old
        means by the drift seen on current data, weighted by a Gaussian kernel around the mean.

        Args:
            current: the classes that are not to be corrected.
            moved: ``[n, dims]``, new minus old features of the current data.
            at: ``[n, D_u]``, old features of the current data.
            width: kernel width relative to the mean distance.
        """
        blocks, centre = self.blocks[modality], at.mean(0)
        near = at - centre  # squares of small numbers: less is lost in their differences
        size = near.square().sum(1)

        def moves(block: Block) -> Tensor:
            mean = block.mean - centre
            distance = (mean.square().sum(1, keepdim=True) + size - 2 * mean @ near.T).clamp(min=0)
            scale = 2 * width**2 * distance.mean(1, keepdim=True).clamp(min=1e-12)
            return torch.softmax(-distance / scale, dim=1) @ moved

        shared = distributed.shard_ranges(len(blocks))
        own = [moves(blocks[number]) for number in shared[distributed.rank()]]
        counts = [sum(len(blocks[number]) for number in share) for share in shared]
        found = distributed.all_gather_rows(torch.cat([moved.new_empty(0, dims), *own]), counts)
        found[[row for row, c in enumerate(self.counts[modality]) if c in current]] = 0
        for block, move in zip(blocks, found.split(CLASSES)):
            block.mean[:, :dims] += move

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        named: dict[str, Block | Gaussian] = {
            f"class/{m}/{number}": block for m, blocks in self.blocks.items() for number, block in enumerate(blocks)
        }
        named |= {f"pooled/{m}": g for m, g in self.pooled.items()}
        tensors = {f"{key}/{part}": getattr(g, part) for key, g in named.items() for part in PARTS}
        return tensors, {
            "classes": {m: {"labels": list(known), "counts": list(known.values())} for m, known in self.counts.items()},
            "pooled": {m: g.count for m, g in self.pooled.items()},
        }

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Inverse of :meth:`state`; also takes the form of one entry a class that was written before."""

        def read(key: str) -> list[Tensor]:
            return [tensors[f"{key}/{part}"] for part in PARTS]

        self.counts, self.blocks = {}, {}
        self.pooled = {m: Gaussian(n, *read(f"pooled/{m}")) for m, n in values["pooled"].items()}
        if isinstance(values["classes"], list):
            for modality in dict.fromkeys(m for m, _, _ in values["classes"]):
                self._append(
                    modality,
                    {c: Gaussian(n, *read(f"class/{m}/{c}")) for m, c, n in values["classes"] if m == modality},
                )
            return
        for modality, known in values["classes"].items():
            self.counts[modality] = dict(zip(known["labels"], known["counts"], strict=True))
            count = -(-len(self.counts[modality]) // CLASSES)
            self.blocks[modality] = [Block(*read(f"class/{modality}/{number}")) for number in range(count)]
            if sum(map(len, self.blocks[modality])) != len(self.counts[modality]):
                raise ValueError(f"statistics of {modality}: not one for each class")
