"""Depth maps from files."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media import depth as depth_maps
from mmcl_fast.media.exr import read_exr
from mmcl_fast.media.picture import limit_pixels
from mmcl_fast.media.sniff import EXR
from mmcl_fast.media.source import FORMATS, Source, head, open_binary, read_bytes, size_of
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View


def depth(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A map of a file to ``[1, 1, size, size]``; see ``read_plane`` and ``mmcl_fast.media.depth``."""
    return depth_maps.picture(depth_maps.metres(read_plane(source, spec), spec), spec, view)


def read_plane(source: Source, spec: VisualSpec) -> np.ndarray:
    """The numbers of a file as they are: a 16-bit grey picture, a TIFF of integers or floats, OpenEXR, or .npy.

    A disparity map may also be a grey picture of 8 bits. Raises MediaError for anything else.
    """
    from PIL import Image

    start = head(source, 6)
    if start == b"\x93NUMPY":
        return _npy(source, spec)
    if start.startswith(EXR):
        return read_exr(read_bytes(source), spec)
    with open_binary(source) as file, Image.open(file, formats=FORMATS) as im:
        limit_pixels(im, spec)
        if im.mode[0] not in "IF" and not (im.mode == "L" and spec.depth_kind == "disparity"):
            raise MediaError(f"a picture of mode {im.mode}, not a depth map: use 16-bit grey PNG")
        return np.asarray(im)


def _npy(source: Source, spec: VisualSpec) -> np.ndarray:
    from numpy.lib import format as npy

    with open_binary(source) as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if math.prod(shape) > spec.max_pixels:
            raise MediaError(
                f"an array of shape {list(shape)}, the limit is {spec.max_pixels} numbers: "
                "make it smaller or raise max_pixels"
            )
        if dtype.kind not in "uif" or len(shape) != 2 or min(shape) < 1:
            raise MediaError(f"a depth map is one plane of numbers, this is {dtype} {list(shape)}")
        if size_of(source) - file.tell() < math.prod(shape) * dtype.itemsize:
            raise MediaError(f"ends before its {shape[0]} x {shape[1]} numbers do: cut short, replace it")
        file.seek(0)
        return np.load(file, allow_pickle=False)
