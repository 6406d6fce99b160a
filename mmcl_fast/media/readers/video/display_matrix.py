"""How a decoded frame is to be shown: turned, mirrored, with pixels that are not square."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MATRIX = "DISPLAYMATRIX"  # side data of a frame: 3 x 3 numbers, of the container or of the stream itself


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture down: rows and columns exchanged first, then mirrored."""

    transposes: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """A view of ``[H, W]`` or, if it transposes, its ``[W, H]``."""
        if self.transposes:
            pixels = pixels.T
        return pixels[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1]


UPRIGHT = Orientation()


def read_display_matrix(frame: Any) -> Orientation | None:
    """What the display matrix of a decoded frame asks for, to the nearest quarter turn. None: it has no matrix.

    The matrix ``a b u c d v x y w`` shows the pixel (p, q) at (a p + c q + x, b p + d q + y), counted from the upper
    left corner (ISO/IEC 14496-12, 6.2.2). A container's matrix comes with every frame, one in the stream with some.
    """
    data = frame.side_data.get(MATRIX)
    if data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def pixel_aspect_ratio(stream: Any) -> float:
    """Width of a pixel over its height, by the container or the codec; 1 where neither says anything sensible."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and 1 / 16 <= ratio <= 16 else 1.0
