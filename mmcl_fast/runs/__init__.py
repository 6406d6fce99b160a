"""Runs: a stream learned into a folder that holds its config, metrics, checkpoints and summary.

``train``, ``resume``, ``learn``, ``evaluate``, ``rollback`` and ``prune`` are the commands of the same names.
``list_versions`` is the command history, ``compare_versions`` is diff, and ``learn_stream`` is ``train`` without the
check of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "ClassSummary",
    "Comparison",
    "RunEvaluation",
    "RunResult",
    "RunStopped",
    "Version",
    "VersionResult",
    "compare_versions",
    "evaluate",
    "learn",
    "learn_stream",
    "list_classes",
    "list_versions",
    "prune",
    "remove",
    "rename",
    "resume",
    "rollback",
    "train",
]

if TYPE_CHECKING:
    from mmcl_fast.learning.comparison import Comparison
    from mmcl_fast.learning.versions import Version, list_versions
    from mmcl_fast.runs.class_edits import remove, rename
    from mmcl_fast.runs.class_list import ClassSummary, list_classes
    from mmcl_fast.runs.evaluation import RunEvaluation, evaluate
    from mmcl_fast.runs.learn_more import compare_versions, learn
    from mmcl_fast.runs.new_version import VersionResult
    from mmcl_fast.runs.task_checkpoints import RunStopped
    from mmcl_fast.runs.task_loop import RunResult, learn_stream
    from mmcl_fast.runs.training import resume, train
    from mmcl_fast.runs.versions import prune, rollback

_MODULES = {
    "ClassSummary": "runs.class_list",
    "Comparison": "learning.comparison",
    "RunEvaluation": "runs.evaluation",
    "RunResult": "runs.task_loop",
    "RunStopped": "runs.task_checkpoints",
    "Version": "learning.versions",
    "VersionResult": "runs.new_version",
    "compare_versions": "runs.learn_more",
    "evaluate": "runs.evaluation",
    "learn": "runs.learn_more",
    "learn_stream": "runs.task_loop",
    "list_classes": "runs.class_list",
    "list_versions": "learning.versions",
    "prune": "runs.versions",
    "remove": "runs.class_edits",
    "rename": "runs.class_edits",
    "resume": "runs.training",
    "rollback": "runs.versions",
    "train": "runs.training",
}


def __getattr__(name: str) -> Any:  # late, because a report reads a run's samples without torch
    if name not in _MODULES:
        raise AttributeError(f"module 'mmcl_fast.runs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.{_MODULES[name]}"), name)
