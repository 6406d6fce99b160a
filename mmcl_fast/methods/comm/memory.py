"""Feature memory: what is kept of a class instead of its data.

For each class it keeps the count, and the mean and a low-rank-plus-diagonal covariance of the features u. For each
modality it keeps a pooled within-class covariance in the same form, towards which each class's is shrunk. A class takes
``(rank + 2) * D_u * 4`` bytes. Classes lie in blocks, so that an operation on all of them is a few tensor operations
for each block.

A factor of n samples has at most n / 4 rows. A factor of n - 1 rows would hold the samples themselves.
docs/method.md says what the statistics give away.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import gram_matrix, symmetric

BLOCK_CLASSES = 256  # most classes of a block
FIELDS = ("mean", "factor", "diagonal")  # the tensors of a Gaussian and of a block
SAMPLES_PER_ROW = 4  # least number of samples for each row of a class's factor
POOLED_SAMPLES_PER_ROW = 2  # and of a modality's pooled factor
PRIOR_SAMPLES = 16  # samples that the pooled covariance counts for in a class's, where the share is "auto"


def low_rank(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Approximate the covariance rows'rows of ``[k, D]`` by factor'factor + diag(diagonal).

    The approximation has the same diagonal and the same leading subspace. The matrix whose eigenvectors give it has k
    by k or D by D numbers, whichever is fewer.

    Returns:
        factor ``[r, D]``, r <= rank, with orthogonal rows; and diagonal ``[D]``.
    """
    count, width = rows.shape
    kept = min(rank, count, width)
    if not kept:
        factor = rows.new_zeros(0, width)
    elif count <= width:
        vectors = torch.linalg.eigh(symmetric((rows @ rows.T).double())).eigenvectors
        factor = vectors[:, -kept:].T.to(rows.dtype) @ rows
    else:
        values, vectors = torch.linalg.eigh(gram_matrix(rows).double())
        factor = (vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()).T.to(rows.dtype)
    return factor, (rows.square().sum(0) - factor.square().sum(0)).clamp(min=0)  # rounding may give less than 0


def allowed_rank(count: int, rank: int, per_row: int) -> int:
    """Return the rank of a factor of ``count`` samples: ``rank``, and at most one for each ``per_row`` samples."""
    return min(rank, count // per_row)


@dataclass
class Gaussian:
    """count, mean ``[D]``, factor ``[r, D]``, diagonal ``[D]``."""

    count: int
    mean: Tensor
    factor: Tensor
    diagonal: Tensor

    @staticmethod
    def fit(x: Tensor, rank: int, per_row: int = SAMPLES_PER_ROW) -> Gaussian:
        """Return the Gaussian of features ``[n, D]``; see ``allowed_rank``. One sample has no covariance."""
        mean = x.mean(0)
        factor, diagonal = low_rank((x - mean) / max(len(x) - 1, 1) ** 0.5, allowed_rank(len(x), rank, per_row))
        return Gaussian(len(x), mean, factor, diagonal)

    def merge(self, x: Tensor, rank: int, per_row: int = SAMPLES_PER_ROW) -> Gaussian:
        """Return the Gaussian of the present samples and new ones, by Chan's merge; the factor is cut as in ``fit``."""
        other_mean, total = x.mean(0), self.count + len(x)
        between = ((other_mean - self.mean) * (self.count * len(x) / total) ** 0.5).unsqueeze(0)
        rows = torch.cat([self.factor * max(self.count - 1, 1) ** 0.5, x - other_mean, between])
        factor, diagonal = low_rank(rows / max(total - 1, 1) ** 0.5, allowed_rank(total, rank, per_row))
        diagonal = diagonal + self.diagonal * (max(self.count - 1, 1) / max(total - 1, 1))
        return Gaussian(total, self.mean + (other_mean - self.mean) * (len(x) / total), factor, diagonal)

    def limit_rank(self, rank: int, per_row: int = SAMPLES_PER_ROW) -> Gaussian:
        """Return this Gaussian with a factor as short as ``fit`` gives; itself where it is short enough.

        States of earlier versions have longer factors. The diagonal of the covariance stays.
        """
        allowed = allowed_rank(self.count, rank, per_row)
        if len(self.factor) <= rank and int(self.factor.any(1).sum()) <= allowed:
            return self
        factor, rest = low_rank(self.factor, allowed)
        return Gaussian(self.count, self.mean, factor, self.diagonal + rest)


@dataclass
class Block:
    """Gaussians of k <= ``BLOCK_CLASSES`` classes: mean ``[k, D]``, factor ``[k, r, D]``, diagonal ``[k, D]``."""

    mean: Tensor
    factor: Tensor
    diagonal: Tensor

    @staticmethod
    def stack(gaussians: Sequence[Gaussian], rank: int) -> Block:
        """Stack Gaussians; factors of a smaller rank are filled up with zeros."""
        return Block(
            torch.stack([g.mean for g in gaussians]),
            torch.stack([F.pad(g.factor, (0, 0, 0, rank - len(g.factor))) for g in gaussians]),
            torch.stack([g.diagonal for g in gaussians]),
        )

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: Any) -> Block:
        return Block(*(getattr(self, field)[rows] for field in FIELDS))

    def __add__(self, other: Block) -> Block:
        return Block(*(torch.cat([getattr(self, field), getattr(other, field)]) for field in FIELDS))


class FeatureMemory:
    """Statistics of every class seen so far.

    Args:
        class_rank: rank of the covariance kept for a class.
        modality_rank: rank of the pooled covariance kept for a modality.
        shrink: share of the modality's covariance in the covariance of a class. ``"auto"``: k / (n - 1 + k) for n
            samples, with k = ``PRIOR_SAMPLES``. A class of one sample has the modality's alone.

    Attributes:
        counts: modality -> class id -> number of samples; a class of several modalities has a count in each.
        blocks: modality -> blocks, all full but the last, rows in the order of ``counts``.
        pooled: modality -> the pooled Gaussian.
    """

    def __init__(self, class_rank: int, modality_rank: int, shrink: float | Literal["auto"]):
        self.class_rank, self.modality_rank, self.shrink = class_rank, modality_rank, shrink
        self.counts: dict[str, dict[int, int]] = {}
        self.blocks: dict[str, list[Block]] = {}
        self.pooled: dict[str, Gaussian] = {}

    def copy(self) -> FeatureMemory:
        """Return a memory of the same statistics. Samples that are added to it leave this one as it is."""
        other = FeatureMemory(self.class_rank, self.modality_rank, self.shrink)
        other.counts = {m: dict(known) for m, known in self.counts.items()}
        other.blocks = {m: list(blocks) for m, blocks in self.blocks.items()}
        other.pooled = dict(self.pooled)
        return other

    def add(self, modality: str, classes: Sequence[int], u: Tensor, labels: Tensor) -> None:
        """Add samples of a modality's classes; a class met again is merged.

        Args:
            modality: of the samples.
            classes: ids of their classes.
            u: features ``[n, D_u]``.
            labels: ``[n]``, ids of classes.
        """
        rows = {c: row for row, c in enumerate(self.counts.get(modality, ()))}
        new: dict[int, Gaussian] = {}
        own: set[int] = set()  # blocks that no copy shares
        all_centred = []
        for c in classes:
            samples = u[labels == c]
            if c in rows:
                number, row = rows[c] // BLOCK_CLASSES, rows[c] % BLOCK_CLASSES
                merged = self._gaussian_at(modality, c, rows[c]).merge(samples, self.class_rank)
                filled = Block.stack([merged], self.class_rank)
                if number not in own:
                    block = self.blocks[modality][number]
                    self.blocks[modality][number] = Block(*(getattr(block, field).clone() for field in FIELDS))
                    own.add(number)
                for field in FIELDS:
                    getattr(self.blocks[modality][number], field)[row] = getattr(filled, field)[0]
                self.counts[modality][c] = merged.count
            else:
                new[c] = Gaussian.fit(samples, self.class_rank)
            all_centred.append(samples - samples.mean(0))
        # All classes at once: a factor that is cut after each class would lose more.
        centred, pooled = torch.cat(all_centred), self.pooled.get(modality)
        self.pooled[modality] = (
            pooled.merge(centred, self.modality_rank, POOLED_SAMPLES_PER_ROW)
            if pooled
            else Gaussian.fit(centred, self.modality_rank, POOLED_SAMPLES_PER_ROW)
        )
        self._append(modality, new)

    def _append(self, modality: str, new: dict[int, Gaussian]) -> None:
        """Append new classes to the last block, and to new ones when it is full."""
        blocks, gaussians = self.blocks.setdefault(modality, []), list(new.values())
        self.counts.setdefault(modality, {}).update({c: g.count for c, g in new.items()})
        while gaussians:
            room = BLOCK_CLASSES - len(blocks[-1]) if blocks else 0
            if room:
                blocks[-1] = blocks[-1] + Block.stack(gaussians[:room], self.class_rank)
            else:
                room = BLOCK_CLASSES
                blocks.append(Block.stack(gaussians[:room], self.class_rank))
            gaussians = gaussians[room:]

    def widen(self, width: int) -> None:
        """Give features ``width`` coordinates; new ones are 0 in all statistics. Wider features stay as they are."""
        widened: list[Gaussian | Block] = [*self.pooled.values()]
        for blocks in self.blocks.values():
            widened += blocks
        for gaussian in widened:
            more = width - gaussian.mean.shape[-1]
            for field in FIELDS if more > 0 else ():
                setattr(gaussian, field, F.pad(getattr(gaussian, field), (0, more)))

    def labels(self, modality: str) -> list[int]:
        """Return the ids of a modality's classes."""
        return list(self.counts.get(modality, ()))

    def gaussian(self, modality: str, label: int) -> Gaussian:
        """Return the Gaussian of one class. Its tensors are views of the memory's own."""
        return self._gaussian_at(modality, label, self.labels(modality).index(label))

    def _gaussian_at(self, modality: str, label: int, row: int) -> Gaussian:
        found = self.blocks[modality][row // BLOCK_CLASSES][row % BLOCK_CLASSES]
        return Gaussian(self.counts[modality][label], found.mean, found.factor, found.diagonal)

    def means(self, modality: str) -> Tensor:
        """Return the means of a modality's n classes ``[n, D_u]``, in the order of :meth:`labels`."""
        return torch.cat([block.mean for block in self.blocks[modality]])

    def shares(self, modality: str) -> Tensor:
        """Return the share ``[n]`` of the modality's covariance in each of its n classes', float32 on the CPU."""
        count = torch.tensor(list(self.counts[modality].values()), dtype=torch.float32)
        if self.shrink == "auto":
            return PRIOR_SAMPLES / (count - 1 + PRIOR_SAMPLES)
        return torch.where(count > 1, float(self.shrink), 1.0)

    def sizes(self, modality: str) -> Tensor:
        """Return the trace of the covariance of each of a modality's n classes, relative to the pooled one's, ``[n]``.

        The pooled trace counts for one sample: a trace sums many variances, so few samples tell it well.
        """
        pooled = self.pooled[modality]
        own = torch.cat([b.factor.square().sum((1, 2)) + b.diagonal.sum(1) for b in self.blocks[modality]])
        of_pool = pooled.factor.square().sum() + pooled.diagonal.sum()
        count = torch.tensor(list(self.counts[modality].values()), dtype=torch.float32).to(own.device)
        return (own / of_pool.clamp(min=1e-30) * (count - 1) + 1) / count

    def sample(self, modality: str, count: int, generator: torch.Generator, most_classes: int | None = None) -> Tensor:
        """Sample features of n classes of a modality, ``[n * count, D_u]``, in the order of :meth:`labels`.

        A mean of k samples is known up to a k-th of the covariance. So the covariance of the samples of a class is
        (1 + 1/k) times the class's.

        Args:
            modality: whose classes are sampled.
            count: features of each class.
            generator: the source of random numbers, on the CPU.
            most_classes: where there are more classes, sample only so many of them, evenly spaced.
        """
        total, pooled = len(self.counts[modality]), self.pooled[modality]
        chosen = torch.arange(total if most_classes is None else min(total, most_classes))
        chosen = chosen * total // len(chosen)
        device, share, sizes = pooled.mean.device, self.shares(modality), self.sizes(modality).cpu()
        wider = (1 + 1 / torch.tensor(list(self.counts[modality].values()), dtype=torch.float32)).sqrt()

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        out = []
        for number, block in enumerate(self.blocks[modality]):
            of_block = chosen[chosen // BLOCK_CLASSES == number]
            rows = of_block % BLOCK_CLASSES
            part = block if len(rows) == len(block) else block[rows.to(device)]
            own, common, scale = (x[of_block].to(device).view(-1, 1, 1) for x in (1 - share, share * sizes, wider))
            diagonal = own * part.diagonal.unsqueeze(1) + common * pooled.diagonal
            x = normal(len(part), count, diagonal.shape[2]) * diagonal.sqrt()
            x += own.sqrt() * (normal(len(part), count, self.class_rank) @ part.factor)
            x += common.sqrt() * (normal(len(part), count, len(pooled.factor)) @ pooled.factor)
            out.append((part.mean.unsqueeze(1) + scale * x).flatten(0, 1))
        return torch.cat(out)

    def correct_drift(
        self, modality: str, current: Collection[int], moved: Tensor, at: Tensor, width: float, dims: int
    ) -> None:
        """Move old means by the drift seen on the task's samples (semantic drift compensation).

        Source: Yu et al. 2020, arXiv 2004.00440. The drift is weighted by a Gaussian kernel around each mean.

        Args:
            modality: whose means are moved.
            current: ids of the classes that stay.
            moved: ``[n, dims]``, new minus old features of the task's samples.
            at: ``[n, D_u]``, old features of the task's samples.
            width: width of the kernel relative to the mean distance.
            dims: number of leading coordinates that move.
        """
        blocks, centre = self.blocks[modality], at.mean(0)
        near = at - centre  # centred: the differences of smaller squares below lose fewer digits
        size = near.square().sum(1)

        def moves(block: Block) -> Tensor:
            mean = block.mean - centre
            distance = (mean.square().sum(1, keepdim=True) + size - 2 * mean @ near.T).clamp(min=0)
            scale = 2 * width**2 * distance.mean(1, keepdim=True).clamp(min=1e-12)
            return torch.softmax(-distance / scale, dim=1) @ moved

        blocks_of_rank = distributed.shard_ranges(len(blocks))
        computed = [moves(blocks[number]) for number in blocks_of_rank[distributed.rank()]]
        counts = [sum(len(blocks[number]) for number in numbers) for numbers in blocks_of_rank]
        found = distributed.all_gather_rows(torch.cat([moved.new_empty(0, dims), *computed]), counts)
        found[[row for row, c in enumerate(self.counts[modality]) if c in current]] = 0
        for block, move in zip(blocks, found.split(BLOCK_CLASSES)):
            block.mean[:, :dims] += move

    def move_means(self, modality: str, labels: Sequence[int], moves: Tensor) -> None:
        """Add moves ``[k, dims]`` to the leading coordinates of k classes' means.

        Args:
            modality: of the classes.
            labels: their k ids.
            moves: what is added.
        """
        rows = {c: row for row, c in enumerate(self.counts[modality])}
        for c, move in zip(labels, moves):
            self.blocks[modality][rows[c] // BLOCK_CLASSES].mean[rows[c] % BLOCK_CLASSES, : len(move)] += move

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        named: dict[str, Block | Gaussian] = {
            f"class/{m}/{number}": block for m, blocks in self.blocks.items() for number, block in enumerate(blocks)
        }
        named |= {f"pooled/{m}": g for m, g in self.pooled.items()}
        tensors = {f"{key}/{field}": getattr(g, field) for key, g in named.items() for field in FIELDS}
        return tensors, {
            "classes": {m: {"labels": list(known), "counts": list(known.values())} for m, known in self.counts.items()},
            "pooled": {m: g.count for m, g in self.pooled.items()},
        }

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned, or the older form with tensors for each class.

        Factors with more rows than today's are cut. Earlier versions kept more, or had other ranks.

        Raises:
            ValueError: the statistics are not one for each class, or a count is wrong.
        """

        def read(key: str) -> list[Tensor]:
            return [tensors[f"{key}/{field}"] for field in FIELDS]

        self.counts, self.blocks = {}, {}
        if not all(type(count) is int and count > 0 for count in values["pooled"].values()):
            raise ValueError("pooled statistics: a count of samples is no whole number above 0")
        self.pooled = {
            m: Gaussian(n, *read(f"pooled/{m}")).limit_rank(self.modality_rank, POOLED_SAMPLES_PER_ROW)
            for m, n in values["pooled"].items()
        }
        if isinstance(values["classes"], list):  # the older form
            for modality in dict.fromkeys(m for m, _, _ in values["classes"]):
                self._append(
                    modality,
                    {
                        c: Gaussian(n, *read(f"class/{m}/{c}")).limit_rank(self.class_rank)
                        for m, c, n in values["classes"]
                        if m == modality
                    },
                )
            return
        for modality, known in values["classes"].items():
            if not all(type(count) is int and count > 0 for count in known["counts"]):
                raise ValueError(f"statistics of {modality}: a count of samples is no whole number above 0")
            self.counts[modality] = dict(zip(known["labels"], known["counts"], strict=True))
            count = -(-len(self.counts[modality]) // BLOCK_CLASSES)
            self.blocks[modality] = [Block(*read(f"class/{modality}/{number}")) for number in range(count)]
            if sum(map(len, self.blocks[modality])) != len(self.counts[modality]):
                raise ValueError(f"statistics of {modality}: not one for each class")
            self.blocks[modality] = [
                self._limit_ranks(block, known["counts"][number * BLOCK_CLASSES :])
                for number, block in enumerate(self.blocks[modality])
            ]

    def _limit_ranks(self, block: Block, counts: Sequence[int]) -> Block:
        """Return a block with ``class_rank`` rows in a factor; the block itself where it has them."""
        rows = block.factor.any(2).sum(1).tolist()
        as_wanted = block.factor.shape[1] == self.class_rank
        if as_wanted and all(r <= count // SAMPLES_PER_ROW for r, count in zip(rows, counts)):
            return block
        gaussians = [
            Gaussian(count, block.mean[k], block.factor[k], block.diagonal[k]).limit_rank(self.class_rank)
            for k, count in zip(range(len(block)), counts)
        ]
        return Block.stack(gaussians, self.class_rank)
