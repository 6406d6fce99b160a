"""Loads mmcl_fast._C, the compiled kernels of csrc/."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def load() -> tuple[ModuleType | None, str]:
    """Return (mmcl_fast._C, ""), or (None, the reason) if it cannot be imported."""
    try:
        from mmcl_fast import _C
    except ImportError as error:
        return None, f"mmcl_fast._C cannot be imported ({error}): install mmcl-fast with pip, which compiles it"
    return _C, ""


@cache
def compiled() -> ModuleType:
    """Return mmcl_fast._C.

    Raises:
        ImportError: it was not compiled; the message says how to get it.
    """
    module, why = load()
    if module is None:
        raise ImportError(why)
    return module
