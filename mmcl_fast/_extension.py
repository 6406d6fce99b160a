"""The compiled kernels, where they were built."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def load() -> tuple[ModuleType | None, str]:
    """(mmcl_fast._C, "") or (None, why not)"""
    try:
        from mmcl_fast import _C
    except ImportError as error:
        return None, f"mmcl_fast._C is not there ({error}): install with pip, which compiles it"
    return _C, ""


@cache
def compiled() -> ModuleType:
    """mmcl_fast._C, for callers who know that it is there; ImportError says why it is not."""
    module, why = load()
    if module is None:
        raise ImportError(why)
    return module
