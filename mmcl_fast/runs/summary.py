"""summary.json: the results of a finished run, and the notes that belong to its numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mmcl_fast.learning import metrics
from mmcl_fast.learning.evaluation import settings_of
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.state_size import state_bytes
from mmcl_fast.runs.folder import SKIPPED
from mmcl_fast.streams.sample import Task
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config


def summarize(events: list[dict[str, Any]], stream: Stream, learner: Learner, config: Config) -> dict[str, Any]:
    """Return the values of summary.json from the events of a finished run."""
    T = len(stream)
    counts = [len(t.test) for t in stream.tasks]
    modalities = [t.modality for t in stream.tasks]
    settings = {}
    for name in settings_of(config.train.evaluate):
        rows = {e["after"]: e["row"] for e in events if e["event"] == "evaluation" and e["setting"] == name}
        R = [rows.get(t, [None] * T) for t in range(T + 1)]
        settings[name] = {"R": R, "metrics": metrics.summarize(R, counts, modalities)}
    seconds: dict[str, float] = {}
    for event in events:
        for phase, value in event.get("seconds", {}).items():
            seconds[phase] = seconds.get(phase, 0.0) + value
    matrices = [e for e in events if e["event"] == "contributions"]
    return {
        "tasks": [
            {
                "name": t.name,
                "modality": t.modality,
                "classes": list(t.classes),
                "train": len(t.train),
                "test": len(t.test),
                "test_by_class": _test_samples_by_class(t),
            }
            for t in stream.tasks
        ],
        "settings": settings,
        "formulas": metrics.FORMULAS,
        "contributions": {k: matrices[-1][k] for k in ("modalities", "matrix")} if matrices else None,
        "seconds": seconds,
        "state_bytes": state_bytes(learner.method, len(learner.classes)),
        "calibration": learner.calibration.values(),
        **learner.describe(),
        "notes": result_notes(config, stream),
    }


def _test_samples_by_class(task: Task) -> list[int]:
    """Return the number of test samples of each class of a task."""
    counts = Counter(sample.label for sample in task.test)
    return [counts[name] for name in task.classes]


def result_notes(config: Config, stream: Stream) -> list[str]:
    """Return the notes that must be shown wherever the numbers are shown, one sentence or two each."""
    out = [
        "R[t,i] is the accuracy in % on task i after task t; row 0 is the model before any task. "
        "Prediction is per instance.",
        "Agnostic: a file is decoded as its kind of media; prompts and gates come from the relevance function alone.",
    ]
    if config.stream.source == "demo":
        out.append(
            "Demo media: the depth maps are rendered from meshes and the videos are authored animation, "
            "not camera-shot."
        )
    out += [f"Samples are {held_out.line}." for held_out in stream.held_out if held_out.groups < held_out.samples]
    if stream.skipped:
        out.append(
            f"{len(stream.skipped)} samples do not decode and were left out; {SKIPPED} in the run folder names them."
        )
    return out
