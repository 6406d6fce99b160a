"""The loop: learner, evaluation, metrics, checkpoints, runs."""

from mmcl_fast.learning.learner import Learner, Prediction

__all__ = ["Learner", "Prediction"]
