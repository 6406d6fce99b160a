"""Random views: which part of an item is looked at. Drawn from (seed, view, key), never from the content."""

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
    """``box``: the part of the picture, as fractions. ``shift``: 0..1 along a recording, None: its centre."""

    box: Box = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    shift: float | None = None


def draw_view(view: int, seed: int, key: str) -> View:
    """View 0 shows all; the others 60 to 100 % of the area, aspect 3/4 to 4/3, every other one flipped."""
    if view == 0:
        return View()
    rng = random.Random(hashlib.sha256(f"{seed}/{view}/{key}".encode()).digest())
    area, ratio = rng.uniform(0.6, 1.0), math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
    width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return View((left, top, left + width, top + height), rng.random() < 0.5, rng.random())


def view_region(width: int, height: int, spec: VisualSpec, view: View) -> Box:
    """The part of a ``width`` x ``height`` picture that becomes the square, in its pixels.

    ``crop`` follows CLIPImageProcessor: short side to ``size``, long side ``int(size * long / short)``,
    offset ``(long - size) // 2``; the same geometry taken back to source pixels.
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
    """Float planes ``[C, H, W]`` to ``[C, size, size]``: region, antialiased resize, flip."""
    height, width = planes.shape[-2:]
    left, top, right, bottom = (round(v) for v in view_region(width, height, spec, view))
    part = planes[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    out = functional.interpolate(
        part[None], size=(spec.size, spec.size), mode=spec.interpolation, align_corners=False, antialias=True
    )[0]
    return out.flip(-1) if view.flip else out


def normalise(picture: Tensor, spec: VisualSpec, out: Tensor) -> Tensor:
    """Writes ``(x - mean) / std`` to ``out`` ``[F, 3, H, W]`` float32, on any device.

    picture: uint8 ``[F, 3, H, W]`` of any layout, read as 0..255, or float ``[F, C, H, W]`` in 0..1 with C = 3 or 1.
    """
    unit = 255 if picture.dtype == torch.uint8 else 1
    if cpp_kernels.can_normalise(picture, out):
        return cpp_kernels.normalise(picture, spec.mean, spec.std, unit, out)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        plane = picture[:, channel % picture.shape[1]]
        place = out[:, channel].copy_(plane)
        torch.add(out.new_full((), -mean / std), place, alpha=1 / (unit * std), out=place)
    return out
