"""Videos that tests write: frame i is a plain grey of 6 i, or all frames show four colours."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Interpolation

from mmcl_fast.media import decode
from mmcl_fast.media.readers.video.tracks import find_video_track
from mmcl_fast.media.source import open_av
from tests.media.files import plain

STEP = 6  # grey levels from a frame to the next
X264 = {"preset": "fast", "crf": "10", "g": "12", "b_strategy": "0"}
CORNERS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 220, 40))  # upper left and right, lower left and right


def write_grey_video(
    path: Path,
    codec: str = "libx264",
    count: int = 40,
    rate: Any = 10,
    size: int = 64,
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    muxer: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Write ``count`` grey frames at ``times`` in milliseconds. ``muxer``, ``options``: of container and codec."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        names = {name.replace("_params", "-params"): str(value) for name, value in options.items()}
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=names))
        stream.width = stream.height = size
        stream.pix_fmt = pixels
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), STEP * i % 256, np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_video(source: Path, path: Path, muxer: dict[str, str] | None = None, **change: Any) -> Path:
    """Copy the first video track of ``source`` to another container. Its packets change only in their times.

    ``shift``: ticks added to all times. ``untimed``: drop presentation times, as some writers do.
    """
    with av.open(str(source)) as film, av.open(str(path), "w", options=muxer or {}) as container:
        stream = film.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for packet in film.demux(stream):
            if packet.dts is None:
                continue
            if change.get("untimed"):
                packet.pts = packet.dts
            if packet.pts is not None:
                packet.pts += change.get("shift", 0)
            packet.dts += change.get("shift", 0)
            packet.stream = copy
            container.mux(packet)
    return path


def write_colour_video(path: Path, codec: str = "libx264", width: int = 64, height: int = 48, **about: Any) -> Path:
    """Write four frames of four colours in the corners, or of ``picture``.

    ``turn``: degrees, and whether to mirror. ``aspect``: width of a pixel over its height.
    """
    picture = about.get("picture")
    if picture is None:
        picture = np.zeros((height, width, 3), np.uint8)
        for corner, colour in enumerate(CORNERS):
            y, x = divmod(corner, 2)
            picture[y * height // 2 : (y + 1) * height // 2, x * width // 2 : (x + 1) * width // 2] = colour
    options = {"crf": "4"} if codec.startswith("libx") else {}
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=10, options=options | about.get("options", {})))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        if "turn" in about:
            stream.set_display_rotation(*about["turn"])
        if "aspect" in about:
            stream.codec_context.sample_aspect_ratio = about["aspect"]
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def shown_numbers(path: Path | bytes, frames: int) -> list[float]:
    """Return the numbers of the sampled frames, read off their grey."""
    got = decode(path, "video", plain("video", 64, frames=frames)).mean((1, 2, 3)) * 255 / STEP
    return [round(float(number), 2) for number in got]


def all_numbers(path: Path) -> list[float]:
    """Return the number of every frame that a plain decoder shows, in its order."""
    with open_av(path) as container:
        film = find_video_track(container)
        assert film is not None
        exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        frames = (frame.reformat(format="rgb24", interpolation=exact) for frame in container.decode(film))
        return [float(frame.to_ndarray().mean()) / STEP for frame in frames]


def corner_colours(path: Path, **spec: Any) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quarters of the first frame."""
    picture = (decode(path, "video", plain("video", 64, frames=2, **spec))[0] * 255).round().int()
    return [tuple(picture[:, y, x].tolist()) for y in (16, 48) for x in (16, 48)]
