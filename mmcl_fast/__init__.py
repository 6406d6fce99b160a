"""Continual learning of image, video, audio, depth and text tasks in one model, fast.

Example::

    import mmcl_fast as mf

    stream = mf.Stream.from_folder("data/")
    learner = mf.Learner(encoder="embedded", method="comm")
    for task in stream:
        learner.learn(task)
        print(learner.evaluate(stream.seen).table())
    learner.save("model/")
    mf.Learner.load("model/").predict(["bark.wav", "street.mp4"])  # each file's modality is found from its content
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Learner", "Stream", "UserError", "alignment_loss", "realign"]

if TYPE_CHECKING:
    from mmcl_fast.errors import UserError
    from mmcl_fast.learning import Learner
    from mmcl_fast.ops import alignment_loss, realign
    from mmcl_fast.streams import Stream

_MODULES = {
    "Learner": "learning",
    "Stream": "streams",
    "UserError": "errors",
    "alignment_loss": "ops",
    "realign": "ops",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mmcl_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmcl_fast.{_MODULES[name]}"), name)


class _RenamedModules:
    """The last finder that an import asks, so that imports that succeed cost nothing more."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("mmcl_fast."):
            from mmcl_fast._renamed import raise_if_renamed

            raise_if_renamed(name)


sys.meta_path.append(_RenamedModules)
