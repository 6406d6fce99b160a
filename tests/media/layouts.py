"""The colours that the numbers of an image mean, computed independently for the tests of layouts.

Images are decoded at their own size, so that no resize hides an error.
"""

from __future__ import annotations

import itertools

import numpy as np

from mmcl_fast.media import decode
from tests.media.files import plain
from tests.media.tiff_files import (
    BLACK_IS_ZERO,
    CMYK,
    DEFLATE,
    LZMA,
    LZW,
    NONE,
    OLD_DEFLATE,
    PACKBITS,
    RGB,
    WHITE_IS_ZERO,
    ZSTD,
)

SIDE = 24  # no multiple of a tile's 16: the tiles at the edges are padded
STRIPS, TILES = {"rows": 7}, {"tile": (16, 32)}
COMPRESSIONS = (NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
KINDS = {  # photometric, channels, ExtraSamples
    "grey": (BLACK_IS_ZERO, 1, ()),
    "white is zero": (WHITE_IS_ZERO, 1, ()),
    "grey, alpha": (BLACK_IS_ZERO, 2, (2,)),
    "grey, premultiplied": (BLACK_IS_ZERO, 2, (1,)),
    "white is zero, alpha": (WHITE_IS_ZERO, 2, (2,)),
    "grey, unknown": (BLACK_IS_ZERO, 2, (0,)),
    "rgb": (RGB, 3, ()),
    "rgb, alpha": (RGB, 4, (2,)),
    "rgb, premultiplied": (RGB, 4, (1,)),
    "rgb, unknown": (RGB, 4, (0,)),
    "rgb, unknown, alpha": (RGB, 5, (0, 2)),
    "cmyk": (CMYK, 4, ()),
    "cmyk, alpha": (CMYK, 5, (2,)),
}


def decode_at_own_size(data: bytes) -> np.ndarray:
    """``[SIDE, SIDE, 3]`` in 0..1."""
    return decode(data, "image", plain(size=SIDE))[0].permute(1, 2, 0).numpy()


def numbers(bits: int, samples: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 1 << bits, (SIDE, SIDE, samples))
    return drawn.astype(np.uint8 if bits <= 8 else np.uint16)


def premultiplied(values: np.ndarray, bits: int) -> np.ndarray:
    colours, alpha = values[..., :-1].astype(np.uint64), values[..., -1:].astype(np.uint64)
    return np.concatenate([colours * alpha // ((1 << bits) - 1), alpha], -1).astype(values.dtype)


def expected_colours(values: np.ndarray, bits: int, kind: str) -> np.ndarray:
    """Return the colours of a TIFF's numbers, by TIFF 6.0, sections 8 (colours), 16 (CMYK) and 18 (alpha)."""
    photometric, _, extra = KINDS[kind]
    unit = values / ((1 << bits) - 1)
    count = {RGB: 3, CMYK: 4}.get(photometric, 1)
    colours, rest = unit[..., :count], unit[..., count:]
    alpha = next((rest[..., i : i + 1] for i, what in enumerate(extra) if what in (1, 2)), None)
    if photometric == WHITE_IS_ZERO:
        colours = 1 - colours
    if photometric == CMYK:
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    if 1 in extra:
        colours = colours + 1 - alpha
    elif alpha is not None:
        colours = colours * alpha + 1 - alpha
    return colours if colours.shape[-1] == 3 else colours.repeat(3, -1)


def orient(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image by TIFF 6.0's orientation: for 1 the first row is the visual top, for 5 the left side."""
    height, width = picture.shape[:2]
    result = np.empty((width, height, *picture.shape[2:]) if orientation > 4 else picture.shape, picture.dtype)
    for y, x in itertools.product(range(height), range(width)):
        up, down, left, right = y, height - 1 - y, x, width - 1 - x
        place = {
            1: (up, left),
            2: (up, right),
            3: (down, right),
            4: (down, left),
            5: (left, up),
            6: (left, down),
            7: (right, down),
            8: (right, up),
        }[orientation]
        result[place] = picture[y, x]
    return result


def assert_close(data: bytes, want: np.ndarray, bits: int) -> None:
    """Check equality within 1.5 of the last bit, of 8 bits or of 16 in images of more than 8 bits."""
    gap = np.abs(decode_at_own_size(data) - want).max()
    assert gap <= (1.51 / 255 if bits <= 8 else 2 / 65535), f"{gap * 255:.2f} of 255"
