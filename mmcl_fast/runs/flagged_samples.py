"""Labelled samples that are flagged as unknown, counted by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcl_fast.learning.unknown_counts import auroc, is_flagged


@dataclass(frozen=True)
class FlaggedCount:
    """The number of samples, and of the flagged ones among them.

    Attributes:
        samples: number of samples that have an unknown score.
        flagged: how many of them are flagged.
        unscored: number of samples without a score, which are not in ``samples``.
    """

    samples: int
    flagged: int
    unscored: int = 0

    @property
    def percent(self) -> float | None:
        """Return the share that is flagged in %; None without samples."""
        return 100 * self.flagged / self.samples if self.samples else None

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {"samples": self.samples, "flagged": self.flagged, "percent": self.percent, "unscored": self.unscored}


@dataclass(frozen=True)
class FlaggedRow:
    """The flagged samples of one modality, or of all.

    Attributes:
        learned: of classes that were learned: flagged by mistake.
        not_learned: of classes that were not learned: flagged rightly.
        auroc: the chance that a sample of a class that was not learned scores higher than another one, from 0 to 1.
            None where a side has no score.
    """

    learned: FlaggedCount
    not_learned: FlaggedCount
    auroc: float | None

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {**self.learned.values(), "not_learned": self.not_learned.values(), "auroc": self.auroc}


@dataclass(frozen=True)
class FlaggedSamples:
    """The samples that are flagged as unknown at a rate.

    Attributes:
        rate: the share of samples of learned classes that may be flagged by mistake, from 0 to 1.
        modalities: modality -> its samples.
        all: the samples of all modalities.
    """

    rate: float
    modalities: dict[str, FlaggedRow]
    all: FlaggedRow

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        rows = {modality: row.values() for modality, row in self.modalities.items()}
        return {"rate": self.rate, "all": self.all.values(), "modalities": rows}

    def table(self) -> str:
        """Return a plain text table: a line for each modality, and one for all."""
        rows = {**self.modalities, "all": self.all}
        width = max(map(len, rows))
        strange = self.all.not_learned.samples + self.all.not_learned.unscored > 0
        heads = ["learned", "flagged", "in %", *(["not learned", "flagged", "in %", "AUROC"] if strange else [])]
        lines = [" " * width + "".join(f"{head:>13}" for head in heads)]
        for name, row in rows.items():
            cells = _cells(row.learned)
            if strange:
                cells += [*_cells(row.not_learned), "-" if row.auroc is None else f"{row.auroc:.3f}"]
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
        unscored = self.all.learned.unscored + self.all.not_learned.unscored
        if unscored:
            lines.append(
                f"{unscored} samples have no score and are not counted: a modality needs two classes and ten held-out "
                "training samples."
            )
        return "\n".join(lines)


def _cells(count: FlaggedCount) -> list[str]:
    percent = "-" if count.percent is None else f"{count.percent:.1f}"
    return [str(count.samples), str(count.flagged), percent]


def count_flagged(
    rate: float, learned: Mapping[str, Sequence[np.ndarray]], not_learned: Mapping[str, Sequence[np.ndarray]]
) -> FlaggedSamples:
    """Return the flagged samples.

    Args:
        rate: the share of samples of learned classes that may be flagged by mistake, between 0 and 1.
        learned: modality -> unknown scores of samples of learned classes: float64 arrays; NaN: no score.
        not_learned: likewise, of samples of other classes.
    """
    names = list(dict.fromkeys([*learned, *not_learned]))
    parts = {
        m: tuple(np.concatenate([*some.get(m, []), np.empty(0)]) for some in (learned, not_learned)) for m in names
    }
    rows = {m: _row(rate, *both) for m, both in parts.items()}
    return FlaggedSamples(rate, rows, _row(rate, *(np.concatenate(side) for side in zip(*parts.values()))))


def _row(rate: float, learned: np.ndarray, not_learned: np.ndarray) -> FlaggedRow:
    return FlaggedRow(_count(rate, learned), _count(rate, not_learned), auroc(learned, not_learned))


def _count(rate: float, scores: np.ndarray) -> FlaggedCount:
    unscored = int(np.isnan(scores).sum())
    return FlaggedCount(len(scores) - unscored, int(is_flagged(scores, rate).sum()), unscored)
