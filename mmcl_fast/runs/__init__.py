"""Runs: a stream learned into a folder that holds its config, metrics, checkpoints and summary.

``train``, ``resume`` and ``evaluate`` are the commands of the same names. ``learn_stream`` is ``train`` without the
check of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["RunEvaluation", "RunResult", "RunStopped", "evaluate", "learn_stream", "resume", "train"]

if TYPE_CHECKING:
    from mmcl_fast.runs.evaluation import RunEvaluation, evaluate
    from mmcl_fast.runs.task_checkpoints import RunStopped
    from mmcl_fast.runs.task_loop import RunResult, learn_stream
    from mmcl_fast.runs.training import resume, train

_MODULES = {
    "RunEvaluation": "evaluation",
    "RunResult": "task_loop",
    "RunStopped": "task_checkpoints",
    "evaluate": "evaluation",
    "learn_stream": "task_loop",
    "resume": "training",
    "train": "training",
}


def __getattr__(name: str) -> Any:  # late, because a report reads a run's samples without torch
    if name not in _MODULES:
        raise AttributeError(f"module 'mmcl_fast.runs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.runs.{_MODULES[name]}"), name)
