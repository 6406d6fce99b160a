"""Views: the part of an item that is shown. Random ones are drawn from (seed, view, key), never from the content."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast.media.dsp import cpp_kernels
from mmcl_fast.media.spec import VisualSpec

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class View:
    """The part of an item to show; the default is the plain item.

    Attributes:
        box: left, top, right and bottom of the part of an image, as fractions.
        flip: mirror left and right.
        shift: place of the window along a recording, 0 to 1; None: its centre.
    """

    box: Box = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    shift: float | None = None


def draw_view(view: int, seed: int, key: str) -> View:
    """Return view 0, the plain item, or a random view.

    A random view shows 60 to 100 % of the area with an aspect ratio of 3/4 to 4/3. Half of the views are flipped.
    """
    if view == 0:
        return View()
    rng = random.Random(hashlib.sha256(f"{seed}/{view}/{key}".encode()).digest())
    area, ratio = rng.uniform(0.6, 1.0), math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
    width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return View((left, top, left + width, top + height), rng.random() < 0.5, rng.random())


def view_region(width: int, height: int, spec: VisualSpec, view: View) -> Box:
    """Return the part of a ``width`` x ``height`` image that becomes the square, in its pixels.

    ``crop`` follows CLIPImageProcessor: the short side becomes ``size``, the long side ``int(size * long / short)``,
    and the offset is ``(long - size) // 2``. The box is this geometry in pixels of the source.
    """
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if spec.resize == "crop":
        short = min(width, height)
        out_w, out_h = int(spec.size * width / short), int(spec.size * height / short)
        scale_x, scale_y = width / out_w, height / out_h
        left, top = (out_w - spec.size) // 2 * scale_x, (out_h - spec.size) // 2 * scale_y
        right, bottom = left + spec.size * scale_x, top + spec.size * scale_y
    w, h = right - left, bottom - top
    x0, y0, x1, y1 = view.box
    return left + x0 * w, top + y0 * h, min(left + x1 * w, width), min(top + y1 * h, height)


def crop_and_resize(planes: Tensor, spec: VisualSpec, view: View) -> Tensor:
    """Crop float planes ``[C, H, W]`` to the view, resize them to ``[C, size, size]`` with antialiasing, and flip."""
    height, width = planes.shape[-2:]
    left, top, right, bottom = (round(v) for v in view_region(width, height, spec, view))
    part = planes[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    out = functional.interpolate(
        part[None], size=(spec.size, spec.size), mode=spec.interpolation, align_corners=False, antialias=True
    )[0]
    return out.flip(-1) if view.flip else out


def normalise(images: Tensor, spec: VisualSpec, out: Tensor) -> Tensor:
    """Write ``(x - mean) / std`` to ``out`` ``[F, 3, H, W]`` float32 on any device, and return it.

    Args:
        images: uint8 ``[F, 3, H, W]`` of any layout in 0..255, or float ``[F, C, H, W]`` in 0..1 with C = 3 or 1.
        spec: holds mean and std of each channel.
        out: receives the result.
    """
    unit = 255 if images.dtype == torch.uint8 else 1
    if cpp_kernels.can_normalise(images, out):
        return cpp_kernels.normalise(images, spec.mean, spec.std, unit, out)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        plane = images[:, channel % images.shape[1]]
        place = out[:, channel].copy_(plane)
        # One pass: scale and shift in place of a subtraction and a division.
        torch.add(out.new_full((), -mean / std), place, alpha=1 / (unit * std), out=place)
    return out
