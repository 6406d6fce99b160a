"""A Pillow picture's own memory as a tensor, through the Arrow C data interface."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _ArrowArray(ctypes.Structure):
    """struct ArrowArray of the Arrow C data interface, an ABI that does not change."""


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
    """An RGB picture to uint8 ``[C, H, W]``, pixels interleaved, for reading only; C is 3, or 4 with a plane unused.

    C is 4 where Pillow (11.3 or later, the picture in one block of memory) lends its pixels uncopied.
    """
    try:
        capsule = im.__arrow_c_array__()[1]
    except (AttributeError, ValueError):
        return torch.from_numpy(np.array(im)).permute(2, 0, 1)
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    memory = (ctypes.c_ubyte * (4 * im.width * im.height)).from_address(array.children[0].contents.buffers[1])
    memory.owner = capsule  # its end would free the pixels
    return torch.from_numpy(np.frombuffer(memory, np.uint8).reshape(im.height, im.width, 4)).permute(2, 0, 1)
