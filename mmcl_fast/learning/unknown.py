"""Scores of samples for resembling none of the classes that a model has learned.

    r(x) = min_c |x - mu_c|^2 in W^-1  -  |x - m|^2 in T^-1

x is the frozen trunk's unit query. mu_c are the means of the modality's classes, and m is the mean of its samples. W is
the covariance within the classes, and T is the covariance of all samples. The difference is the relative Mahalanobis
distance (Ren et al. 2021, arXiv 2106.09022): what is odd in every class does not count. Both covariances are shrunk
towards a multiple of the identity by ``SHRINKAGE``.

Only statistics are kept, so no sample is. They do not depend on the method, and prompts do not move them.

The score of a sample is the share of held-out samples of its modality's classes that have a smaller r. So a limit of
0.95 flags about 5 % of the samples of known classes. For it each task's training samples are divided into ``FOLDS``
parts, and r of a part is measured with the statistics of the others. Samples of one recording are in one part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import RunError
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Inverse
from mmcl_fast.methods.comm.removal import remove_from_memory
from mmcl_fast.methods.shared.embedding import unit_query

RANK = 64  # of the covariance within the classes of a modality
SHRINKAGE = 0.8
FOLDS = 5
LEAST_SAMPLES = 10  # held-out samples of a modality, below which there is no score
MOST_SAMPLES = 1000  # of a task that are held out in turn, and numbers that are kept of a modality


@dataclass
class _Modality:
    """The parts of r for one modality; float64 tensors on the CPU.

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
        nearest = (self.squares - 2 * x @ self.solved.T).amin(1)
        return own + nearest - (x * self.total(x)).sum(1)


class UnknownScores:
    """Scores of samples for belonging to none of the classes learned.

    Attributes:
        memory: counts, means and the shared covariance of queries, by modality and class.
        levels: modality -> r of held-out samples, ascending.
        unscored: modalities with classes that an earlier version learned without these statistics. They get no scores.
    """

    def __init__(self) -> None:
        self.memory = FeatureMemory(0, RANK, 1.0)
        self.levels: dict[str, list[float]] = {}
        self.unscored: frozenset[str] = frozenset()
        self._prepared: dict[str, _Modality] = {}

    def copy(self) -> UnknownScores:
        """Return scores that can learn without changing these."""
        other = UnknownScores()
        other.memory, other.levels, other.unscored = self.memory.copy(), dict(self.levels), self.unscored
        return other

    def add(
        self, tokens: Any, modality: str, classes: Sequence[int], labels: Tensor, recordings: Sequence[str]
    ) -> None:
        """Add a task's samples, unless their modality is ``unscored``.

        Args:
            tokens: trunk tokens of n samples.
            modality: of the samples.
            classes: ids of their classes.
            labels: ``[n]``, ids of classes.
            recordings: for each sample the name of what it was made from; equal names are held out together.
        """
        if modality in self.unscored:
            return
        x, labels = unit_query(tokens).cpu(), labels.cpu()
        rows = torch.arange(len(x)) if len(x) <= MOST_SAMPLES else torch.linspace(0, len(x) - 1, MOST_SAMPLES).long()
        # By order of appearance, not by name: the same samples have other keys in another version of a run.
        numbers = {name: number for number, name in enumerate(dict.fromkeys(recordings))}
        folds = torch.tensor([numbers[recordings[row]] % FOLDS for row in rows.tolist()])
        found = torch.cat([self._hold_out(x[rows], modality, labels[rows], folds == fold) for fold in range(FOLDS)])
        levels = torch.cat([torch.tensor(self.levels.get(modality, []), dtype=torch.float64), found]).sort().values
        if len(levels) > MOST_SAMPLES:
            levels = levels.quantile(torch.linspace(0, 1, MOST_SAMPLES, dtype=torch.float64))
        self.levels[modality] = levels.tolist()
        self.memory.add(modality, classes, x, labels)
        self._prepared = {}

    def _hold_out(self, x: Tensor, modality: str, labels: Tensor, held: Tensor) -> Tensor:
        """Return r of the ``held`` samples with the statistics of the others, where their classes have others."""
        others = labels[~held].unique()
        held = held & torch.isin(labels, torch.cat([others, torch.tensor(self.memory.labels(modality)).long()]))
        if not bool(held.any()) or not len(others):
            return torch.empty(0, dtype=torch.float64)
        trial = self.memory.copy()
        chosen = ~held & torch.isin(labels, others)
        trial.add(modality, others.tolist(), x[chosen], labels[chosen])
        if len(trial.counts[modality]) < 2:
            return torch.empty(0, dtype=torch.float64)  # W and T are the same then, and r is 0
        return _prepare(trial, modality).distance(x[held].double())

    def remove(self, label: int) -> None:
        """Take a class out; the ids of later classes become smaller by one."""
        remove_from_memory(self.memory, label)
        self.levels = {m: levels for m, levels in self.levels.items() if m in self.memory.counts}
        self._prepared = {}

    def distance(self, tokens: Any, modality: str) -> Tensor:
        """Return r ``[n]`` float64 on the CPU, of samples of a modality that was learned."""
        if modality not in self._prepared:
            self._prepared[modality] = _prepare(self.memory, modality)
        return self._prepared[modality].distance(unit_query(tokens).cpu().double())

    def missing(self, modality: str) -> str:
        """Return why samples of a modality that was learned have no score; empty: they have one."""
        if modality not in self.memory.counts:
            return "its classes were learned by an earlier version of mmcl_fast"
        if len(self.memory.counts[modality]) < 2:
            return "it has one class"
        count = len(self.levels.get(modality, []))
        return f"{count} samples of it were held out, fewer than {LEAST_SAMPLES}" if count < LEAST_SAMPLES else ""

    def shares(self, tokens: Any, modality: str) -> Tensor:
        """Return for each of n samples the share of held-out samples with a smaller r, ``[n]`` float64 on the CPU.

        Nothing is ``missing`` of the modality. This is tensor code alone, so exported graphs have it too.
        """
        levels = torch.tensor(self.levels[modality], dtype=torch.float64)
        return (levels < self.distance(tokens, modality).unsqueeze(1)).sum(1).double() / len(levels)

    def __call__(self, tokens: Any, modality: str) -> list[float | None]:
        """Return for each of n samples the share of held-out samples that resemble the classes more, from 0 to 1.

        A modality that was not learned has 1. None where ``missing`` gives a reason, and where nothing is known.
        """
        count = len(tokens.query)
        if modality not in self.memory.counts and modality not in self.unscored:
            return [1.0 if self.levels else None] * count
        return [None] * count if self.missing(modality) else self.shares(tokens, modality).tolist()

    def require_levels(self, where: Path) -> None:
        """Check that there are numbers of held-out samples to score with.

        Raises:
            RunError: names the run ``where``, which is of an earlier version.
        """
        if not self.levels:
            raise RunError(
                f"{where}: learned by an earlier version, so usual files are not known; train it again, or drop "
                "--unknown"
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values."""
        tensors, values = self.memory.state()
        return tensors, {"memory": values, "levels": self.levels}

    @classmethod
    def from_state(
        cls, tensors: dict[str, Tensor], values: Mapping[str, Any], learned: Collection[str] = ()
    ) -> UnknownScores:
        """Return the scores that ``state`` described; without values: scores that know nothing.

        ``learned``: all modalities that the model has learned.

        Raises:
            ValueError, KeyError, TypeError: the state is incomplete.
        """
        self = cls()
        if values:
            self.memory.load_state({k: v.cpu() for k, v in tensors.items()}, values["memory"])
            self.levels = {str(m): [float(r) for r in levels] for m, levels in values["levels"].items()}
        self.unscored = frozenset(learned) - self.memory.counts.keys()
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
