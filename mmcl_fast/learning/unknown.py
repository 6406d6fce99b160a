"""How little a sample resembles the classes that a model has learned.

    r(x) = min_c |x - mu_c|^2 in W^-1  -  |x - m|^2 in T^-1

x is the frozen trunk's unit query. mu_c are the means of the modality's classes, m is the mean of its samples, W is the
covariance within the classes, and T is the covariance of all samples. The difference is the relative Mahalanobis
distance (Ren et al. 2021, arXiv 2106.09022): what is odd in every class does not count. Both covariances are shrunk
towards a multiple of the identity by ``SHRINKAGE``.

Only statistics are kept, so no sample is. They do not depend on the method, and prompts do not move them. The score of
a sample is the share of held-out samples of known classes that have a smaller r. So a limit of 0.95 flags about 5 % of
the samples of known classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Inverse
from mmcl_fast.methods.comm.removal import remove_from_memory
from mmcl_fast.methods.shared.embedding import unit_query

RANK = 64  # of the covariance within the classes of a modality
SHRINKAGE = 0.8
LEAST_SAMPLES = 8  # held-out samples of a modality, below which the other modalities' location and scale count
MOST_LEVELS = 1000  # numbers that are kept of the held-out samples


@dataclass
class _Modality:
    """What r needs of one modality; float64 tensors on the CPU.

    Attributes:
        mean: ``[K, D]``, of its classes.
        centre: ``[D]``, of its samples.
        within: the inverse of W.
        total: the inverse of T.
        solved: ``[K, D]``, the class means times the inverse of W.
        squares: ``[K]``, the class means' squared lengths in the inverse of W.
    """

    mean: Tensor
    centre: Tensor
    within: Inverse
    total: Inverse
    solved: Tensor = field(init=False)
    squares: Tensor = field(init=False)

    def __post_init__(self) -> None:
        deviation = self.mean - self.centre
        self.solved = self.within(deviation)
        self.squares = (self.solved * deviation).sum(1)

    def distance(self, x: Tensor) -> Tensor:
        """Return r ``[n]`` of queries ``[n, D]``."""
        x = x - self.centre
        own = (x * self.within(x)).sum(1)
        nearest = (self.squares - 2 * x @ self.solved.T).min(1).values
        return own + nearest - (x * self.total(x)).sum(1)


class UnknownScores:
    """Scores of samples for belonging to none of the classes learned.

    Attributes:
        memory: counts, means and the shared covariance of queries, by modality and class.
        location, scale: modality -> mean and standard deviation of r over its held-out samples.
        levels: r of all held-out samples, relative to location and scale of their modality, ascending.
    """

    def __init__(self) -> None:
        self.memory = FeatureMemory(0, RANK, 1.0)
        self.location: dict[str, float] = {}
        self.scale: dict[str, float] = {}
        self.levels: list[float] = []
        self._prepared: dict[str, _Modality] = {}

    def copy(self) -> UnknownScores:
        """Return scores that can learn without changing these."""
        other = UnknownScores()
        other.memory = self.memory.copy()
        other.location, other.scale, other.levels = dict(self.location), dict(self.scale), list(self.levels)
        return other

    def add(self, tokens: Any, modality: str, classes: Sequence[int], labels: Tensor) -> None:
        """Add a task's samples.

        Args:
            tokens: trunk tokens of n samples.
            modality: of the samples.
            classes: ids of their classes.
            labels: ``[n]``, ids of classes.
        """
        self.memory.add(modality, classes, unit_query(tokens).cpu(), labels.cpu())
        self._prepared = {}

    def remove(self, label: int) -> None:
        """Take a class out; the ids of later classes become smaller by one."""
        remove_from_memory(self.memory, label)
        self._prepared = {}

    def distance(self, tokens: Any, modality: str) -> Tensor | None:
        """Return r ``[n]`` float64 on the CPU; None for a modality that was not learned."""
        if modality not in self.memory.counts:
            return None
        if modality not in self._prepared:
            self._prepared[modality] = _prepare(self.memory, modality)
        return self._prepared[modality].distance(unit_query(tokens).cpu().double())

    def fit_levels(self, held_out: Mapping[str, Tensor]) -> None:
        """Learn which distances are usual.

        Args:
            held_out: modality -> r ``[n]`` of samples of known classes that were not learned.
        """
        enough = {m: r for m, r in held_out.items() if len(r) >= LEAST_SAMPLES}
        self.location = {m: float(r.mean()) for m, r in enough.items()}
        self.scale = {m: max(float(r.std()), 1e-12) for m, r in enough.items()}
        relative = [self._relative(r, m) for m, r in held_out.items() if self.location]
        if not relative:
            self.levels = []
            return
        levels = torch.cat(relative).sort().values
        if len(levels) > MOST_LEVELS:
            levels = levels.quantile(torch.linspace(0, 1, MOST_LEVELS, dtype=levels.dtype))
        self.levels = levels.tolist()

    def __call__(self, tokens: Any, modality: str) -> list[float | None]:
        """Return for each of n samples the share of held-out samples that resemble the classes more, from 0 to 1.

        None where nothing was held out, so that usual distances are not known. A modality that was not learned has 1.
        """
        count = len(tokens.query)
        r = self.distance(tokens, modality)
        if not self.levels:
            return [None] * count
        if r is None:
            return [1.0] * count
        below = torch.searchsorted(torch.tensor(self.levels, dtype=torch.float64), self._relative(r, modality))
        return (below.double() / len(self.levels)).tolist()

    def _relative(self, r: Tensor, modality: str) -> Tensor:
        """Return r relative to the modality's location and scale, or to the means of the others' where it has none."""

        def of(values: Mapping[str, float]) -> float:
            return values[modality] if modality in values else sum(values.values()) / len(values)

        return (r.double() - of(self.location)) / of(self.scale)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values."""
        tensors, values = self.memory.state()
        levels = {"location": self.location, "scale": self.scale, "levels": self.levels}
        return tensors, {"memory": values, **levels}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], values: Mapping[str, Any]) -> UnknownScores:
        """Return the scores that ``state`` described; without values: scores that know nothing.

        Raises:
            ValueError, KeyError, TypeError: the state is incomplete.
        """
        self = cls()
        if values:
            self.memory.load_state({k: v.cpu() for k, v in tensors.items()}, values["memory"])
            self.location = {str(m): float(v) for m, v in values["location"].items()}
            self.scale = {str(m): float(v) for m, v in values["scale"].items()}
            self.levels = [float(v) for v in values["levels"]]
        return self


def _prepare(memory: FeatureMemory, modality: str) -> _Modality:
    """Return what r needs of a modality."""
    pooled, mean = memory.pooled[modality], memory.means(modality).double()
    diagonal, factor = pooled.diagonal.double(), pooled.factor.double()
    count = torch.tensor(list(memory.counts[modality].values()), dtype=torch.float64)
    total, classes = float(count.sum()), len(count)
    centre = count @ mean / total
    wide = max(total - 1, 1) / max(total - classes, 1)  # a pooled Gaussian divides by n - 1, whatever the classes
    between = (count / max(total - 1, 1)).sqrt().unsqueeze(1) * (mean - centre)
    within = _inverse(wide * diagonal, wide**0.5 * factor)
    return _Modality(mean, centre, within, _inverse(diagonal, torch.cat([factor, between])))


def _inverse(diagonal: Tensor, rows: Tensor) -> Inverse:
    """Return the inverse of diag(d) + R'R, shrunk towards its mean variance."""
    variance = (diagonal.sum() + rows.square().sum()) / len(diagonal)
    variance = variance.clamp(min=1e-12)  # one sample has no covariance: the nearest mean counts then
    return Inverse((1 - SHRINKAGE) * diagonal + SHRINKAGE * variance, (1 - SHRINKAGE) ** 0.5 * rows)
