"""The memory of a Pillow image as a tensor without a copy, through the Arrow C data interface."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _ArrowArray(ctypes.Structure):
    """The struct ArrowArray of the Arrow C data interface, an ABI that does not change."""


_ArrowArray._fields_ = [
    (name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")
] + [
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private", ctypes.c_void_p),
]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def view_pixels(im: Any) -> Tensor:
    """Return an RGB image as uint8 ``[C, H, W]`` with interleaved pixels, for reading only.

    C is 4, with one plane unused, where Pillow lends its pixels uncopied. That needs Pillow 11.3 and an image in one
    block of memory. Otherwise the pixels are copied and C is 3.
    """
    try:
        capsule = im.__arrow_c_array__()[1]
    except (AttributeError, ValueError):
        return torch.from_numpy(np.array(im)).permute(2, 0, 1)
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    memory = (ctypes.c_ubyte * (4 * im.width * im.height)).from_address(array.children[0].contents.buffers[1])
    memory.owner = capsule  # the pixels are freed with the capsule
    return torch.from_numpy(np.frombuffer(memory, np.uint8).reshape(im.height, im.width, 4)).permute(2, 0, 1)
