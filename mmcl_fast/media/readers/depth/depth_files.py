"""Depth maps from files: image formats with one grey channel of more than 8 bits, OpenEXR and NumPy arrays."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.formats import PILLOW_FORMATS
from mmcl_fast.media.readers.depth.depth_to_image import to_image, to_metres
from mmcl_fast.media.readers.depth.exr import read_exr
from mmcl_fast.media.readers.image import high_bit_depth, netpbm, tiff
from mmcl_fast.media.readers.image.pillow_image import exif_orientation, limit_pixels
from mmcl_fast.media.sniff import EXR
from mmcl_fast.media.source import Source, head, open_binary, read_bytes, size_of
from mmcl_fast.media.spec import VisualSpec

SAVE = "use 16-bit grey PNG"


def read_depth(source: Source, spec: VisualSpec, view: View, to_end: bool = False) -> Tensor:
    """Read a depth map to ``[1, 1, size, size]``, see ``depth_to_image.to_image``.

    Args:
        source: the file.
        spec: the preparation; its ``depth_*`` fields say what the numbers of the file mean.
        view: the part to show.
        to_end: ignored, because the whole file is read in any case.
    """
    return to_image(to_metres(read_plane(source, spec), spec), spec, view)


def read_plane(source: Source, spec: VisualSpec) -> np.ndarray:
    """Read the numbers of a depth file as they are stored, ``[H, W]``, turned upright where the file says so.

    Formats: PNG, PGM, PAM and JPEG 2000 with one grey channel of more than 8 bits, TIFF of integers or floats, PFM,
    OpenEXR and .npy. A disparity map may also be a grey image of 8 bits.

    Raises:
        MediaError: the file holds anything else, or is damaged or too large.
    """
    from PIL import Image

    start = head(source, 6)
    if start == b"\x93NUMPY":
        return _read_npy(source, spec)
    if start.startswith(EXR):
        return read_exr(read_bytes(source), spec)
    with open_binary(source) as file:
        if start[:4] in tiff.MARKS:
            page = tiff.read_page(file, spec.max_pixels)
            if page.readable:
                _require_one_plane(page.samples, page.bits, spec)
                if page.photometric == tiff.PALETTE:
                    raise MediaError(f"an image of a palette, not a depth map: {SAVE}")
                return high_bit_depth.apply_orientation(tiff.read_samples(page, file)[..., 0], page.orientation)
            page.require_pillow_support()
        elif start.startswith(b"P") and (header := netpbm.read_header(file, spec.max_pixels)):
            _require_one_plane(header.channels, header.max_value.bit_length() or 32, spec)
            return netpbm.read_samples(file, header)[..., 0]
        file.seek(0)
        with Image.open(file, formats=PILLOW_FORMATS) as im:
            limit_pixels(im, spec)
            if im.mode[0] not in "IF" and not (im.mode == "L" and spec.depth_kind == "disparity"):
                raise MediaError(f"an image of mode {im.mode}, not a depth map: {SAVE}")
            im.load()
            values = np.asarray(im)
            if im.format == "JPEG2000":
                return _undo_jpeg2000_scaling(values, read_bytes(source))
            # Pillow turns a TIFF upright itself.
            return high_bit_depth.apply_orientation(values, 1 if im.format == "TIFF" else exif_orientation(im))


def _require_one_plane(channels: int, bits: int, spec: VisualSpec) -> None:
    """Raise MediaError for several channels, and for 8 bits that are no disparity."""
    if channels != 1:
        raise MediaError(f"an image of {channels} channels, not a depth map: {SAVE}")
    if bits <= 8 and spec.depth_kind != "disparity":
        raise MediaError(f"an image of {bits} bits, not a depth map: {SAVE}")


def _undo_jpeg2000_scaling(values: np.ndarray, data: bytes) -> np.ndarray:
    """Undo Pillow's scaling of JPEG 2000 samples to 8 or 16 bits (ITU-T T.800, A.5.1: the marker SIZ)."""
    place = data.find(b"\xff\x4f\xff\x51")
    depth = data[place + 42] if 0 <= place < len(data) - 42 else 0x80  # bits - 1, and 0x80 for signed samples
    if depth & 0x80 or depth >= 16:
        raise MediaError(f"a JPEG 2000 file of signed numbers or more than 16 bits: {SAVE}")
    return values >> (8 * values.dtype.itemsize - 1 - depth)


def _read_npy(source: Source, spec: VisualSpec) -> np.ndarray:
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
