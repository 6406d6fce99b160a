"""Animated pictures as films: GIF, PNG, WebP and AVIF, decoded by Pillow."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.readers.image.pillow_image import to_square, turn_upright
from mmcl_fast.media.readers.video import gif_frames
from mmcl_fast.media.source import Source, limit_seconds, open_binary, read_bytes
from mmcl_fast.media.spec import VisualSpec

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
STILL = "a still picture, not a video: move it to the image modality"
MIN_MILLISECONDS = 10.0  # milliseconds; browsers show a frame that states no more for INSTEAD
DEFAULT_MILLISECONDS = 100.0
MOST_FRAMES = 16  # times ``max_pixels``: the limit of all frames together


def is_animation(start: bytes) -> bool:
    """Whether a file that begins with these 64 bytes is of a format that Pillow animates."""
    if start.startswith((b"GIF8", b"\x89PNG")) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return True
    brands = start[8:12] + start[16 : int.from_bytes(start[:4], "big")]  # ISO/IEC 14496-12, 4.3
    return start[4:8] == b"ftyp" and bool({b"avif", b"avis"} & {brands[i : i + 4] for i in range(0, len(brands), 4)})


def frame_numbers(im: Picture) -> range:
    """The frames of an open picture that belong to its animation; fewer than two: it is a still picture."""
    # The default image of a PNG may stand outside of the animation (PNG, third edition, 4.9).
    return range(1 if im.info.get("default_image") else 0, getattr(im, "n_frames", 1))


def read_animation(source: Source, spec: VisualSpec, view: View) -> Tensor:
    """uint8 ``[F, 3, size, size]``: transparency on white; each frame counts for its own duration."""
    from PIL import Image

    with open_binary(source) as file, Image.open(file, formats=ANIMATED_FORMATS) as im:
        try:
            numbers = frame_numbers(im)
        except (IndexError, struct.error):  # Pillow looks through a GIF to count its frames
            raise MediaError("the file is cut short or damaged: replace it") from None
        if len(numbers) < 2:
            raise MediaError(STILL)
        pixels = im.width * im.height
        if pixels > spec.max_pixels or pixels * len(numbers) > MOST_FRAMES * spec.max_pixels:
            raise MediaError(
                f"{len(numbers)} frames of {im.width} x {im.height}, the limit in pixels is {spec.max_pixels} "
                f"each, {MOST_FRAMES} times that in all: shrink it or raise max_pixels"
            )
        if im.format == "GIF":
            found = list(gif_frames.split_frames(read_bytes(source)))
            ends = _frame_ends((frame.milliseconds for frame in found), spec)
            wanted = _choose_frames(ends, spec)
            pictures = enumerate(gif_frames.compose_frames(found, im.size))
            squares = {number: to_square(picture, spec, view) for number, picture in pictures if number in wanted}
        else:  # only decoding tells how long frames are shown
            squares = {}
            ends = _frame_ends(_decode_all(im, numbers, spec, view, squares), spec)
            wanted = _choose_frames(ends, spec)
    return torch.stack([squares[number] for number in wanted])


def _frame_ends(stated: Iterable[float], spec: VisualSpec) -> list[float]:
    """When each frame ends, in milliseconds, by the milliseconds that the file states for each."""
    ends: list[float] = []
    for lasts in stated:
        ends.append((ends[-1] if ends else 0.0) + (lasts if lasts > MIN_MILLISECONDS else DEFAULT_MILLISECONDS))
        limit_seconds(ends[-1] / 1000, spec)
    return ends


def _choose_frames(ends: list[float], spec: VisualSpec) -> list[int]:
    """The frames shown at the middles of equal parts of the animation."""
    times = ((i + 0.5) * ends[-1] / spec.frames for i in range(spec.frames))
    return [min(bisect.bisect_right(ends, time), len(ends) - 1) for time in times]


def _decode_all(
    im: Picture, numbers: range, spec: VisualSpec, view: View, squares: dict[int, Tensor]
) -> Iterator[float]:
    """Decodes the frames of these numbers to ``squares`` and gives the milliseconds that the file states for each."""
    for place, number in enumerate(numbers):
        im.seek(number)
        im.load()
        squares[place] = to_square(turn_upright(im), spec, view)
        yield float(im.info.get("duration") or 0)
