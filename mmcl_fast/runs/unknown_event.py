"""The event of metrics.jsonl that says how unknown new classes are before they are learned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mmcl_fast.learning.evaluation import Evaluation
from mmcl_fast.learning.unknown_counts import auroc, flagged_by_percent
from mmcl_fast.streams.sample import ClassId


def unknown_event(
    after: int,
    modality: str,
    known: Sequence[np.ndarray],
    result: Evaluation,
    position: int,
    classes: Collection[ClassId],
) -> dict[str, Any] | None:
    """Return the event of the next task, whose samples were tested before they are learned.

    Args:
        after: number of tasks learned.
        modality: of the next task.
        known: unknown scores of test samples of the modality's learned tasks: float64 arrays; NaN: no score.
        result: an evaluation with the next task.
        position: of the next task in it.
        classes: the classes learned.

    Returns:
        ``auroc`` of known against new samples, the numbers of both, and ``flagged``: the new samples that are flagged
        at the rates of ``unknown_counts.PERCENTS``. None where no sample of a new class, or no known one, has a score.
    """
    is_new = np.array([label not in classes for label in result.labels[position]], bool)
    new = result.unknown[position][is_new]
    old = np.concatenate([*known, np.empty(0)])
    area = auroc(old, new)
    if area is None:
        return None
    numbers = {"known": int((~np.isnan(old)).sum()), "new": int((~np.isnan(new)).sum())}
    return {
        "event": "unknown",
        "after": after,
        "modality": modality,
        **numbers,
        "auroc": round(area, 4),
        "flagged": flagged_by_percent(new),
    }
