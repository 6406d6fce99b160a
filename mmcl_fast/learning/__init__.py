"""The loop: learner, evaluation, metrics, checkpoints, runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Learner", "Line", "Prediction"]

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner
    from mmcl_fast.learning.predict import Line, Prediction

_WHERE = {"Learner": "learner", "Line": "predict", "Prediction": "predict"}


def __getattr__(name: str) -> Any:  # a report is read and written without torch
    if name not in _WHERE:
        raise AttributeError(f"module 'mmcl_fast.learning' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.learning.{_WHERE[name]}"), name)
