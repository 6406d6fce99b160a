"""Depth maps from files."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media import depth as depth_maps
from mmcl_fast.media.picture import limit_pixels
from mmcl_fast.media.source import FORMATS, Source, head, open_binary
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View


def depth(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A 16-bit grey picture, a TIFF of integers or floats, or a .npy plane; see ``mmcl_fast.media.depth``."""
    from PIL import Image

    if head(source, 6) == b"\x93NUMPY":
        values = _npy(source, spec)
    else:
        with open_binary(source) as file, Image.open(file, formats=FORMATS) as im:
            limit_pixels(im, spec)
            if im.mode[0] not in "IF":
                raise MediaError(f"a picture of mode {im.mode}, not a depth map: use 16-bit grey PNG")
            values = np.asarray(im)
    return depth_maps.picture(depth_maps.metres(values, spec), spec, view)


def _npy(source: Source, spec: VisualSpec) -> np.ndarray:
    from numpy.lib import format as npy

    with open_binary(source) as file:
        version = npy.read_magic(file)
        shape = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)[0]
        if math.prod(shape) > spec.max_pixels:
            raise MediaError(f"an array of shape {list(shape)}, the limit is {spec.max_pixels} numbers: "
                             "make it smaller or raise max_pixels")
        file.seek(0)
        return np.load(file, allow_pickle=False)
