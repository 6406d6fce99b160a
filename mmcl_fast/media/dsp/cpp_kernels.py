"""The C++ kernels for audio and images: one call for each item, without the interpreter's lock.

Threads that call many small torch operations wait for the lock at each of them. With these kernels two threads do
nearly twice the work of one. The ``can_...`` functions say whether a kernel takes its arguments; else torch must do it.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast._extension import compiled, load

VECTOR = 16  # columns that the kernels write at once, on every processor


def kernels() -> ModuleType | None:
    """Return the compiled module ``mmcl_fast._C``; None where it was not compiled."""
    return load()[0]


def can_take(*tensors: Tensor) -> bool:
    """Return whether the kernels are there and the tensors are contiguous float32 on the CPU."""
    return kernels() is not None and all(
        t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors
    )


def round_up_to_vectors(count: int) -> int:
    """Return ``count`` rounded up to a multiple of ``VECTOR``."""
    return -(-count // VECTOR) * VECTOR


def fft_radices(length: int) -> list[int] | None:
    """Return factors 5, 3, 8, 4 and 2 whose product is ``length``, for the kernel's FFT; None: there are none."""
    factors = []
    for radix in (5, 3, 8, 4, 2):
        while length % radix == 0 and not (radix == 8 and length == 16):  # 16 is split into 4 x 4, not 8 x 2
            factors.append(radix)
            length //= radix
    return factors if length == 1 else None


@lru_cache(maxsize=16)
def roots_of_unity(length: int) -> Tensor:
    """Return ``exp(-2 pi i j / length)`` for each j, float32 ``[length, 2]``."""
    angle = torch.arange(length, dtype=torch.float64) * (-2 * torch.pi / length)
    return torch.stack([angle.cos(), angle.sin()], 1).float()


@lru_cache(maxsize=64)
def resize_weights(length: int, size: int, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
    """Return torch's antialiased resize along one axis, from ``length`` to ``size``, as weighted sums.

    Returns:
        The index of the first input of each sum, int32 ``[size]``, and the weights ``[size, taps]``. All inputs lie
        within ``length``.
    """
    eye = torch.eye(length)[None, None]
    full = functional.interpolate(eye, size=(size, length), mode=mode, align_corners=False, antialias=True)[0, 0]
    nonzero = full != 0
    first = nonzero.int().argmax(1)
    taps = int((nonzero * torch.arange(1, length + 1)).amax(1).sub(first).max())
    first = first.clamp(max=length - taps)  # each sum has equally many inputs, the last ones begin earlier
    weights = full.gather(1, first[:, None] + torch.arange(taps))
    return first.int().contiguous(), weights.contiguous()


@lru_cache(maxsize=64)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], unit: float) -> Tensor:
    """Return the factors and summands of three channels, ``[2, 3]``."""
    return torch.tensor([[1 / (unit * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]])


def can_normalise(images: Tensor, out: Tensor) -> bool:
    """Return whether ``normalise`` takes these tensors."""
    return (
        kernels() is not None
        and images.dtype in (torch.uint8, torch.float32)
        and images.device.type == "cpu"
        and out.device.type == "cpu"
        and out.dtype == torch.float32
        and out.stride(3) == 1
        and out.stride(2) == out.shape[3]
        and images.shape[2:] == out.shape[2:]
        and len(images) == len(out)
    )


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], unit: float, out: Tensor) -> Tensor:
    """Write ``(images / unit - mean) / std`` to ``out`` and return it."""
    affine = _affine(tuple(mean), tuple(std), unit)
    frame, channel, row, pixel = images.stride()
    compiled().normalise(
        images.data_ptr(),
        images.dtype == torch.uint8,
        len(images),
        *images.shape[2:],
        frame,
        channel if images.shape[1] == 3 else 0,  # a stride of 0 repeats a single plane
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
    """Return whether ``resize_to_square`` takes these pixels: uint8 on the CPU, interleaved."""
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
    """Resize a region of an image to uint8 ``[3, size, size]``.

    Args:
        pixels: uint8 ``[3 or 4, H, W]`` with interleaved pixels.
        box: left, top, right and bottom of the region; the corners may lie between pixels.
        size: height and width of the result.
        cubic: bicubic, not bilinear interpolation.
        flip: mirror left and right.
    """
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
