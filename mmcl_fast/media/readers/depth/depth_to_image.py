"""Depth maps to pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View, crop_and_resize
from mmcl_fast.media.spec import VisualSpec


def to_metres(values: np.ndarray, spec: VisualSpec) -> Tensor:
    """``[H, W]`` float32, 0 = invalid: integer maps are divided by ``depth_scale``, float maps hold metres.

    Disparity is proportional to inverse depth, in whatever unit: its values stay as they are. Values that are not
    finite, not within 1e-20..1e20 or equal to ``depth_invalid`` (as in the file) are invalid. Raises MediaError if
    nothing is left.
    """
    if values.ndim != 2 or values.dtype.kind not in "uif" or 0 in values.shape:
        raise MediaError(f"a depth map is one plane of numbers, this is {values.dtype} {list(values.shape)}")
    with np.errstate(over="ignore"):
        depth = torch.from_numpy((_rotate_bits(values) if spec.depth_kind == "sun_rgbd" else values).astype(np.float32))
    if spec.depth_invalid is not None:
        depth[torch.from_numpy(values == spec.depth_invalid)] = 0
    if values.dtype.kind != "f" and spec.depth_kind != "disparity":
        depth /= spec.depth_scale
    depth = torch.where((depth > 1e-20) & (depth < 1e20), depth, 0.0)
    if not depth.any():
        raise MediaError("no valid pixel (every depth is 0, negative or not finite)")
    return depth


def _rotate_bits(values: np.ndarray) -> np.ndarray:
    """16 bits rotated right by three (read3dPoints.m of SUNRGBDtoolbox)."""
    if values.dtype != np.uint16:
        raise MediaError(f"depth_kind sun_rgbd is of 16 bits, this is {values.dtype}: set depth_kind to depth")
    return values >> 3 | values << 13


def to_image(depth: Tensor, spec: VisualSpec, view: View) -> Tensor:
    """``metres``'s ``[H, W]`` with 0 = invalid to ``[1, 1, size, size]`` in 0..1: near is bright, invalid is 0.

    With valid mask v and inverse depth ``i = v / depth`` (of a disparity map: ``i = v * disparity``), resized by
    antialiased interpolation A: ``i' = A(i) / A(v)`` where ``A(v) >= 1/2`` (valid neighbours only, so edges do not
    bleed into holes), else invalid. Then ``clamp((i' - lo) / (hi - lo), 0, 1)`` with ``lo = 1 / far, hi = 1 / near``
    from ``depth_range``, or, without one and for disparity, whose scale is not known, the 1 % and 99 % quantiles of
    i' over the map's valid pixels; 1/2 where these are equal. Inverse depth normalised per map is what MiDaS (Ranftl
    et al. 2020) predicts.
    """
    valid = (depth > 0).float()
    disparity = spec.depth_kind == "disparity"
    inverse = depth if disparity else torch.where(depth > 0, 1 / depth, 0.0)
    inverse, share = crop_and_resize(torch.stack((inverse, valid)), spec, view)
    known = share >= 0.5
    inverse = torch.where(known, inverse / share.clamp_min(0.5), 0.0)
    if not known.any():  # a view or a resize that left only scattered pixels
        return torch.zeros(1, 1, spec.size, spec.size, device=depth.device)
    low: float | Tensor
    high: float | Tensor
    if spec.depth_range and not disparity:
        low, high = 1 / spec.depth_range[1], 1 / spec.depth_range[0]
    else:
        ordered = inverse[known].sort().values
        low, high = ordered[int(0.01 * (len(ordered) - 1))], ordered[int(0.99 * (len(ordered) - 1))]
    level = ((inverse - low) / (high - low)).clamp(0, 1) if high > low else torch.full_like(inverse, 0.5)
    return torch.where(known, level, 0.0)[None, None]
