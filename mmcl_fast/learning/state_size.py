"""The number of bytes that a method keeps."""

from __future__ import annotations

from typing import Any

from mmcl_fast.methods import Method


def state_bytes(method: Method, classes: int) -> dict[str, Any]:
    """Return the bytes of the tensors in ``method.state()``: what a method remembers, without the frozen encoder.

    Args:
        method: the method with what it learned.
        classes: the number of classes learned.

    Returns:
        ``fixed``: bytes that all classes share. ``of_classes``: bytes of the tensors of ``Method.class_state``.
        ``classes``: the number of classes that these are for. ``all_data``: the method also needs the data of all
        tasks, which are not counted.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in method.state()[0].items()}
    of_classes = sum(size for name, size in sizes.items() if name.startswith(method.class_state))
    return {
        "fixed": sum(sizes.values()) - of_classes,
        "of_classes": of_classes,
        "classes": classes,
        "all_data": method.needs_all_tasks,
    }
