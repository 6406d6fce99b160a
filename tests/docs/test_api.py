"""Every public name has a docstring."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

ROOMS = (
    "ops",
    "media",
    "streams",
    "encoders",
    "methods",
    "learning",
    "runs",
    "compare",
    "config",
    "report",
    "export",
    "serve",
)
MODULES = ("mmcl_fast", *(f"mmcl_fast.{room}" for room in ROOMS), "mmcl_fast.errors")


def names(module: ModuleType) -> list[str]:
    """Return the public names of a module: its ``__all__``, or its classes where it has none."""
    found = getattr(module, "__all__", None)
    if found is not None:
        return list(found)
    return [name for name, kind in vars(module).items() if inspect.isclass(kind) and kind.__module__ == module.__name__]


def public_names() -> dict[str, list[str]]:
    """The public names of every public module."""
    return {name: names(importlib.import_module(name)) for name in MODULES}


def test_every_public_name_has_a_docstring() -> None:
    for module, found in public_names().items():
        assert found
        for name in found:
            value = inspect.unwrap(getattr(importlib.import_module(module), name))
            if inspect.isclass(value) or inspect.isfunction(value):
                assert (value.__doc__ or "").strip(), f"{module}.{name}"
