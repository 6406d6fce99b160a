"""The loop: learner, evaluation, metrics, checkpoints, runs."""

from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.predict import Line, Prediction

__all__ = ["Learner", "Line", "Prediction"]
