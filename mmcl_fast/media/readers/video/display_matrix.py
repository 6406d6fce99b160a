"""The display of decoded frames: turned, mirrored, or with pixels that are not square."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MATRIX = "DISPLAYMATRIX"  # PyAV's name for the side data of a frame, from the container or the stream


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of an image: first rows and columns are exchanged, then it is mirrored."""

    transposes: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return a view of ``[H, W]`` in this orientation: ``[W, H]`` if it transposes."""
        if self.transposes:
            pixels = pixels.T
        return pixels[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1]


UPRIGHT = Orientation()


def read_display_matrix(frame: Any) -> Orientation | None:
    """Return the orientation by the display matrix of a decoded frame, to the nearest quarter turn. None: no matrix.

    The matrix ``a b u c d v x y w`` shows the pixel (p, q) at (a p + c q + x, b p + d q + y), counted from the upper
    left corner (ISO/IEC 14496-12, 6.2.2). A container's matrix comes with every frame, a stream's matrix with some.
    """
    data = frame.side_data.get(MATRIX)
    if data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def pixel_aspect_ratio(stream: Any) -> float:
    """Return the width of a pixel over its height by the container or the codec; 1 where neither is plausible."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and 1 / 16 <= ratio <= 16 else 1.0
