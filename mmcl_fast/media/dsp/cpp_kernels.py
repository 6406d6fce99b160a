"""The C++ row kernels of sound and pictures: one call an item, without the interpreter's lock.

Worker threads that call many small torch operations wait for the lock at each of them; with these, two threads do
nearly twice the work of one. Every function says by None that the plain torch way must do it.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast._extension import compiled, load

VECTOR = 16  # columns that the kernels write at once


def kernels() -> ModuleType | None:
    """mmcl_fast._C, where it was compiled."""
    return load()[0]


def can_take(*tensors: Tensor) -> bool:
    """Whether these are contiguous float32 on the CPU and the kernels are there."""
    return kernels() is not None and all(
        t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors
    )


def round_up_to_vectors(count: int) -> int:
    """``count`` rounded up to whole vectors."""
    return -(-count // VECTOR) * VECTOR


def fft_radices(length: int) -> list[int] | None:
    """``length`` as a product of 8, 4, 2, 3 and 5, or None."""
    found = []
    for radix in (5, 3, 8, 4, 2):
        while length % radix == 0 and not (radix == 8 and length == 16):  # 4 x 4, not 8 x 2
            found.append(radix)
            length //= radix
    return found if length == 1 else None


@lru_cache(maxsize=16)
def roots_of_unity(length: int) -> Tensor:
    """``exp(-2 pi i j / length)``, float32 ``[length, 2]``."""
    angle = torch.arange(length, dtype=torch.float64) * (-2 * torch.pi / length)
    return torch.stack([angle.cos(), angle.sin()], 1).float()


@lru_cache(maxsize=64)
def resize_weights(length: int, size: int, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
    """torch's antialiased resize along one axis as sums over neighbours: first ``[size]`` int32, weights
    ``[size, taps]``; the taps stay within ``length``."""
    eye = torch.eye(length)[None, None]
    full = functional.interpolate(eye, size=(size, length), mode=mode, align_corners=False, antialias=True)[0, 0]
    there = full != 0
    first = there.int().argmax(1)
    taps = int((there * torch.arange(1, length + 1)).amax(1).sub(first).max())
    first = first.clamp(max=length - taps)
    weights = full.gather(1, first[:, None] + torch.arange(taps))
    return first.int().contiguous(), weights.contiguous()


@lru_cache(maxsize=64)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], unit: float) -> Tensor:
    """``[2, 3]``: factors and summands."""
    return torch.tensor([[1 / (unit * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]])


def can_normalise(picture: Tensor, out: Tensor) -> bool:
    """Whether ``normalise`` takes these."""
    return (
        kernels() is not None
        and picture.dtype in (torch.uint8, torch.float32)
        and picture.device.type == "cpu"
        and out.device.type == "cpu"
        and out.dtype == torch.float32
        and out.stride(3) == 1
        and out.stride(2) == out.shape[3]
        and picture.shape[2:] == out.shape[2:]
        and len(picture) == len(out)
    )


def normalise(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...], unit: float, out: Tensor) -> Tensor:
    """``(picture / unit - mean) / std`` to ``out``."""
    affine = _affine(tuple(mean), tuple(std), unit)
    frame, channel, row, pixel = picture.stride()
    compiled().normalise(
        picture.data_ptr(),
        picture.dtype == torch.uint8,
        len(picture),
        *picture.shape[2:],
        frame,
        channel if picture.shape[1] == 3 else 0,
        row,
        pixel,
        affine.data_ptr(),
        affine[1].data_ptr(),
        out.data_ptr(),
        out.stride(0),
        out.stride(1),
    )
    return out


def can_resize(pixels: Tensor) -> bool:
    """Whether ``square`` takes these."""
    return (
        kernels() is not None
        and pixels.dtype == torch.uint8
        and pixels.device.type == "cpu"
        and pixels.stride(0) == 1
        and pixels.stride(2) in (3, 4)
    )


def resize_to_square(
    pixels: Tensor, box: tuple[float, float, float, float], size: int, cubic: bool, flip: bool
) -> Tensor:
    """The ``box`` (left, top, right, bottom) of uint8 ``[3 or 4, H, W]``, pixels interleaved: ``[3, size, size]``."""
    _, height, width = pixels.shape
    left, top, right, bottom = box
    out = torch.empty(3, size, size, dtype=torch.uint8)
    compiled().square(
        pixels.data_ptr(),
        height,
        width,
        pixels.stride(1),
        pixels.stride(2),
        left,
        top,
        right,
        bottom,
        size,
        cubic,
        flip,
        out.data_ptr(),
    )
    return out
