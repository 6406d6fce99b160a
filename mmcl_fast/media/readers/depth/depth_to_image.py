"""Depth maps to images: inverse depth, resized without mixing valid pixels and holes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View, crop_and_resize
from mmcl_fast.media.spec import VisualSpec


def to_metres(values: np.ndarray, spec: VisualSpec) -> Tensor:
    """Convert the numbers of a file to depth in metres, float32 ``[H, W]`` with 0 for invalid pixels.

    Integers are divided by ``depth_scale``; floats are metres already. Disparity has no known unit and keeps its
    values. A value is invalid if it is not finite, not within 1e-20..1e20, or equals ``depth_invalid`` as it stands in
    the file.

    Raises:
        MediaError: the array is no plane of numbers, or no pixel is valid.
    """
    if values.ndim != 2 or values.dtype.kind not in "uif" or 0 in values.shape:
        raise MediaError(f"a depth map is one plane of numbers, this is {values.dtype} {list(values.shape)}")
    with np.errstate(over="ignore"):  # float64 may exceed float32; the value becomes infinite, so invalid
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
    """Rotate 16 bits right by three (read3dPoints.m of SUNRGBDtoolbox)."""
    if values.dtype != np.uint16:
        raise MediaError(f"depth_kind sun_rgbd is of 16 bits, this is {values.dtype}: set depth_kind to depth")
    return values >> 3 | values << 13


def to_image(depth: Tensor, spec: VisualSpec, view: View) -> Tensor:
    """Convert the result of ``to_metres`` to ``[1, 1, size, size]`` in 0..1: near is bright, invalid is 0.

    With the valid mask v, the inverse depth is ``i = v / depth``, or ``i = v * disparity``. Both are resized by the
    antialiased interpolation A. Then ``i' = A(i) / A(v)`` where ``A(v) >= 1/2``, and invalid elsewhere. So an edge
    mixes valid neighbours only and does not bleed into a hole.

    The result is ``clamp((i' - low) / (high - low), 0, 1)``, with ``low = 1 / far`` and ``high = 1 / near`` from
    ``depth_range``. Without a range, and for disparity, low and high are the 1 % and 99 % quantiles of i' over the
    map's valid pixels. The result is 1/2 where both are equal. MiDaS (Ranftl et al. 2020) predicts inverse depth
    normalised per map, too.
    """
    valid = (depth > 0).float()
    disparity = spec.depth_kind == "disparity"
    inverse = depth if disparity else torch.where(depth > 0, 1 / depth, 0.0)
    inverse, share = crop_and_resize(torch.stack((inverse, valid)), spec, view)
    known = share >= 0.5
    inverse = torch.where(known, inverse / share.clamp_min(0.5), 0.0)
    if not known.any():  # the view or the resize left only scattered pixels
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
