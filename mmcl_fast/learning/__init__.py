"""Learning, evaluation and prediction: the learner, its metrics and its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Evaluation", "Learner", "Line", "Prediction", "find_inputs"]

if TYPE_CHECKING:
    from mmcl_fast.learning.evaluation import Evaluation
    from mmcl_fast.learning.learner import Learner
    from mmcl_fast.learning.predict import Line, Prediction
    from mmcl_fast.learning.predict_inputs import find_inputs

_MODULES = {
    "Evaluation": "evaluation",
    "Learner": "learner",
    "Line": "predict",
    "Prediction": "predict",
    "find_inputs": "predict_inputs",
}


def __getattr__(name: str) -> Any:  # late, because a report is read and written without torch
    if name not in _MODULES:
        raise AttributeError(f"module 'mmcl_fast.learning' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.learning.{_MODULES[name]}"), name)
