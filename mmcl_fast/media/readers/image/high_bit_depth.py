"""Colours from the samples of TIFF and netpbm images, of 8 bits and more: upright and on white.

Pillow reads neither 16-bit colours nor most layouts of TIFF; the samples come from ``tiff`` and ``netpbm``.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.image import netpbm, tiff

PREMULTIPLIED, ALPHA, COREL_ALPHA = 1, 2, 999  # ExtraSamples; the last is what Corel Draw writes
COLOURS = {tiff.WHITE_IS_ZERO: 1, tiff.BLACK_IS_ZERO: 1, tiff.RGB: 3, tiff.PALETTE: 1, tiff.CMYK: 4}
NO_WHITE = "has no fixed white: save it with 8 or 16 bits"


def read_rgb(file: BinaryIO, max_pixels: int) -> np.ndarray | None:
    """Read a TIFF or netpbm image, upright and on white.

    Args:
        file: an open file.
        max_pixels: limit of the image.

    Returns:
        ``[H, W, 3]``: uint8, or float32 in 0..1 from more than 8 bits. None: leave the file to Pillow.

    Raises:
        MediaError: neither this module nor Pillow can read the image rightly.
    """
    file.seek(0)
    start = file.read(4)
    if start in tiff.MARKS:
        return _read_tiff(file, max_pixels)
    header = netpbm.read_header(file, max_pixels) if start.startswith(b"P") else None
    return None if header is None else _read_netpbm(file, header)


def find_modality(file: BinaryIO) -> str | None:
    """Return ``depth`` for one grey channel of more than 8 bits, else ``image``; None for a format to leave to Pillow.

    Raises:
        MediaError: the header is broken.
    """
    file.seek(0)
    start = file.read(4)
    if start in tiff.MARKS:
        page = tiff.read_page(file, sys.maxsize)
        grey = page.samples == 1 and page.photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO)
        return "depth" if grey and page.bits > 8 else "image"
    header = netpbm.read_header(file, sys.maxsize) if start.startswith(b"P") else None
    if header is None:
        return None
    return "depth" if header.channels == 1 and not 0 < header.max_value < 256 else "image"


def apply_orientation(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn ``[H, W, ...]`` upright by the EXIF orientation (tag 0x0112) 1 to 8; other values change nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    down, right = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return values[::down, ::right]


def blend_on_white(values: np.ndarray, white: int, alpha: int | None) -> np.ndarray:
    """Convert integers ``[H, W, C]``, grey or RGB, to float32 ``[H, W, 3]`` in 0..1 on white.

    Args:
        values: the samples; channels behind the colours are ignored.
        white: the value of white.
        alpha: number of the alpha channel; None: there is none.
    """
    channels = values.shape[2] - (alpha is not None)
    return _blend(_to_unit_range(values[..., : 3 if channels >= 3 else 1], white), _alpha_channel(values, white, alpha))


def _read_tiff(file: BinaryIO, max_pixels: int) -> np.ndarray | None:
    page = tiff.read_page(file, max_pixels)
    if not page.readable:
        page.require_pillow_support()
        return None
    if page.form != tiff.UNSIGNED or page.bits > 16:
        kind = {tiff.FLOAT: "floats", tiff.SIGNED: "signed numbers"}.get(page.form, "whole numbers")
        raise MediaError(f"an image of {kind} of {page.bits} bits {NO_WHITE}")
    count = COLOURS[page.photometric]
    # Some writers leave ExtraSamples out; a fourth channel of RGB then is alpha.
    extra = page.extra or ((ALPHA,) if page.photometric == tiff.RGB and page.samples == 4 else ())
    if page.samples < count or (count == 1 and page.samples > 2):
        raise MediaError(f"a TIFF of {page.samples} channels and colours {page.photometric}: save it as RGB")
    alpha = next((count + i for i, what in enumerate(extra) if what in (PREMULTIPLIED, ALPHA, COREL_ALPHA)), None)
    if alpha is not None and alpha >= page.samples:
        raise MediaError(f"a TIFF of {page.samples} channels that states more: save it anew")
    values, white = tiff.read_samples(page, file), (1 << page.bits) - 1
    if page.photometric == tiff.RGB and alpha is None and page.bits == 8:
        result = values[..., :3]
    else:
        opacity = _alpha_channel(values, white, alpha)
        if page.photometric == tiff.PALETTE:
            colours = _apply_palette(page, values)
        else:
            colours = _to_unit_range(values[..., :count], white)
        if alpha is not None and opacity is not None and extra[alpha - count] == PREMULTIPLIED:
            colours = np.divide(colours, opacity, out=np.zeros_like(colours), where=opacity > 0).clip(0, 1)
        if page.photometric == tiff.WHITE_IS_ZERO:
            colours = 1 - colours
        elif page.photometric == tiff.CMYK:
            colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
        result = _blend(colours, opacity)
        if page.bits <= 8:
            result = _to_bytes(result)
    return np.ascontiguousarray(apply_orientation(result, page.orientation))


def _apply_palette(page: tiff.TiffPage, values: np.ndarray) -> np.ndarray:
    if len(page.palette) != 3 << page.bits:
        raise MediaError(f"a TIFF with a palette of {len(page.palette)} numbers, not {3 << page.bits}: save it anew")
    table: np.ndarray = np.array(page.palette, np.uint16).reshape(3, -1).T
    if page.bits > 8 or table.max() > 255:  # old writers wrote 8 bits
        table = table >> 8
    return _to_unit_range(table, 255)[values[..., 0]]


def _read_netpbm(file: BinaryIO, header: netpbm.Header) -> np.ndarray:
    if not header.max_value:
        raise MediaError(f"an image of floats {NO_WHITE}")
    values = netpbm.read_samples(file, header)
    if header.channels == 3 and header.max_value == 255:
        return values
    colours = blend_on_white(values, header.max_value, header.channels - 1 if header.alpha else None)
    if header.one_is_black:
        colours = 1 - colours
    return colours if header.max_value > 255 else _to_bytes(colours)


def _to_unit_range(values: np.ndarray, white: int) -> np.ndarray:
    return values.astype(np.float32) / np.float32(white)


def _alpha_channel(values: np.ndarray, white: int, alpha: int | None) -> np.ndarray | None:
    return None if alpha is None else _to_unit_range(values[..., alpha : alpha + 1], white)


def _blend(colours: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is not None:
        colours = colours * alpha + (1 - alpha)
    return colours if colours.shape[2] == 3 else colours.repeat(3, 2)


def _to_bytes(colours: np.ndarray) -> np.ndarray:
    return (colours * 255 + 0.5).astype(np.uint8)
