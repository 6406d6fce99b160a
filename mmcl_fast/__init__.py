"""Continual learning of image, video, audio, depth and text tasks in one model, fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Learner", "Stream", "UserError", "alignment_loss", "realign"]

if TYPE_CHECKING:
    from mmcl_fast.errors import UserError
    from mmcl_fast.learning import Learner
    from mmcl_fast.ops import alignment_loss, realign
    from mmcl_fast.streams import Stream

_WHERE = {"Learner": "learning", "Stream": "streams", "UserError": "errors", "alignment_loss": "ops", "realign": "ops"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mmcl_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.{_WHERE[name]}"), name)
