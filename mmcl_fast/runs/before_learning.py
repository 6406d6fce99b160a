"""A version's rows of R from before it learns: its parent's, and what forward transfer needs of the new tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmcl_fast.config import Config
from mmcl_fast.learning import Evaluation, Learner
from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.runs.unknown_event import unknown_event
from mmcl_fast.streams.stream import Stream


class RowsBefore:
    """Turns the events of a parent's rows of R into the ones of a version that learns more.

    The new tasks are tested before they are learned, as a run over all tasks does (``train.evaluate_unseen``). Row 0
    gets the accuracy of a model that has learned nothing, on all new tasks. The parent's last row gets the accuracy of
    the parent, on the first new task.

    Args:
        learner: the parent's learner.
        learned: number of tasks that it has learned.
        stream: the version's stream: these tasks, then the new ones.
        config: the version's config.
        before: the parent's predictions for the test samples of its tasks.

    Raises:
        MediaError: a new test file is broken.
    """

    def __init__(self, learner: Learner, learned: int, stream: Stream, config: Config, before: Predictions):
        self.learned, self.total = learned, len(stream)
        self.found: dict[int, Evaluation] = {}  # number of tasks learned -> evaluation of new tasks
        self.unknown: dict[str, Any] | None = None
        if not config.train.evaluate_unseen:
            return
        nothing = _learner_of_nothing(learner)
        setting, new = config.train.evaluate, stream.tasks[learned:]
        self.found[0] = nothing.evaluate(new, setting=setting, upcoming=stream.tasks)
        self.found[learned] = learner.evaluate(new[:1], setting=setting, upcoming=stream.tasks)
        if before.unknown is not None:
            modality = new[0].modality
            same = np.array([stream.tasks[number - 1].modality == modality for number in before.tasks], bool)
            known = [before.unknown[same]]
            self.unknown = unknown_event(learned, modality, known, self.found[learned], 0, learner.classes.ids)

    def change(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the events of the version that stand in place of an event of the parent.

        Columns of tasks that the parent did not learn belong to other tasks, so they are replaced.
        """
        if event["event"] == "unknown" and event["after"] >= self.learned:
            return []
        if event["event"] == "evaluation":
            found = self.found.get(event["after"])
            for key in ("row", "correct", "count", "by_class"):
                if key in event:
                    new = [] if found is None else _column(found, event["setting"], key)
                    padding = [None] * (self.total - self.learned - len(new))
                    event[key] = [*event[key][: self.learned], *new, *padding]
        is_last = event["event"] == "task" and event["task"] == self.learned
        return [self.unknown, event] if is_last and self.unknown is not None else [event]


def _column(found: Evaluation, setting: str, key: str) -> list[Any]:
    """Return what an "evaluation" event says of each task under a key."""
    if key == "count":
        return list(found.counts)
    if key == "correct":
        return list(found.correct[setting])
    return list(found.accuracy(setting) if key == "row" else found.by_class(setting))


def _learner_of_nothing(learner: Learner) -> Learner:
    """Return a learner as ``learner`` was before its first task, with the same encoder and cache."""
    settings = learner.settings
    out = Learner(
        learner.encoder,
        settings["method"],
        options=settings["options"],
        seed=settings["seed"],
        device=str(learner.encoder.device),
        media=settings["media"],
        progress=learner.progress,
    )
    out.cache = learner.cache
    out.classes = learner.classes  # so classes have the order, and the texts, that they have in the stream
    return out
