"""Animated images as videos: GIF, PNG, WebP and AVIF, decoded by Pillow."""

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
STILL = "a still image, not a video: move it to the image modality"
# Browsers show a frame that states at most MIN_MILLISECONDS for DEFAULT_MILLISECONDS.
MIN_MILLISECONDS, DEFAULT_MILLISECONDS = 10.0, 100.0
MOST_FRAMES = 16  # all frames together may have this many times ``max_pixels``


def is_animation(start: bytes) -> bool:
    """Return whether a file that begins with these 64 bytes is of a format whose animations Pillow reads."""
    if start.startswith((b"GIF8", b"\x89PNG")) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return True
    brands = start[8:12] + start[16 : int.from_bytes(start[:4], "big")]  # ISO/IEC 14496-12, 4.3
    return start[4:8] == b"ftyp" and bool({b"avif", b"avis"} & {brands[i : i + 4] for i in range(0, len(brands), 4)})


def frame_numbers(im: Picture) -> range:
    """Return the numbers of the frames that belong to the animation; fewer than two in a still image."""
    # The default image of a PNG need not belong to the animation (PNG, third edition, 4.9).
    return range(1 if im.info.get("default_image") else 0, getattr(im, "n_frames", 1))


def read_animation(source: Source, spec: VisualSpec, view: View) -> Tensor:
    """Read an animation to uint8 ``[F, 3, size, size]``: F frames at equal intervals of time, on white."""
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
            images = enumerate(gif_frames.compose_frames(found, im.size))
            squares = {number: to_square(image, spec, view) for number, image in images if number in wanted}
        else:  # only decoding tells how long each frame is shown
            squares = {}
            ends = _frame_ends(_decode_all(im, numbers, spec, view, squares), spec)
            wanted = _choose_frames(ends, spec)
    return torch.stack([squares[number] for number in wanted])


def _frame_ends(stated: Iterable[float], spec: VisualSpec) -> list[float]:
    """Return the end of each frame in milliseconds, from the milliseconds that the file states for each."""
    ends: list[float] = []
    for milliseconds in stated:
        shown = milliseconds if milliseconds > MIN_MILLISECONDS else DEFAULT_MILLISECONDS
        ends.append((ends[-1] if ends else 0.0) + shown)
        limit_seconds(ends[-1] / 1000, spec)
    return ends


def _choose_frames(ends: list[float], spec: VisualSpec) -> list[int]:
    """Return the numbers of the frames that are shown at the middles of ``spec.frames`` equal parts of the time."""
    times = ((i + 0.5) * ends[-1] / spec.frames for i in range(spec.frames))
    return [min(bisect.bisect_right(ends, time), len(ends) - 1) for time in times]


def _decode_all(
    im: Picture, numbers: range, spec: VisualSpec, view: View, squares: dict[int, Tensor]
) -> Iterator[float]:
    """Decode all frames into ``squares``, and yield the milliseconds that the file states for each."""
    for place, number in enumerate(numbers):
        im.seek(number)
        im.load()
        squares[place] = to_square(turn_upright(im), spec, view)
        yield float(im.info.get("duration") or 0)
