"""Frames of a video, sampled uniformly over its duration."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View, view_region
from mmcl_fast.media.readers.video.animation import STILL, is_animation, read_animation
from mmcl_fast.media.readers.video.display_matrix import UPRIGHT, Orientation, pixel_aspect_ratio, read_display_matrix
from mmcl_fast.media.readers.video.frame_reader import OutOfOrderError, open_frames
from mmcl_fast.media.readers.video.timeline import Timeline, timeline_from_header, timeline_from_packets
from mmcl_fast.media.readers.video.tracks import find_video_track
from mmcl_fast.media.source import Source, head, limit_seconds, open_av
from mmcl_fast.media.spec import VisualSpec


def read_video(source: Source, spec: VisualSpec, view: View, to_end: bool = False) -> Tensor:
    """Read a video to uint8 ``[F, 3, size, size]``: frame i is the one shown at ``(i + 1/2) / F`` of the duration.

    The header's times are used where they can be trusted. Else the packets are read for the times first. If frames then
    come out of order, they are counted instead.

    Args:
        source: the file.
        spec: the preparation.
        view: the part to show.
        to_end: decode all frames, and refuse a video that is cut short.
    """
    start = head(source, 64)
    if is_animation(start):
        return read_animation(source, spec, view)
    if start.startswith((b"II*\0", b"MM\0*")):
        raise MediaError(STILL)
    try:
        with open_av(source) as container:
            stream = _open_track(container, spec)
            if timeline := timeline_from_header(container, stream):
                return _read_frames(container, stream, timeline, spec, view, to_end)
        with open_av(source) as container:
            timeline = timeline_from_packets(container, _open_track(container, spec))
        with open_av(source) as container:
            return _read_frames(container, _open_track(container, spec), timeline, spec, view, to_end)
    except OutOfOrderError:
        with open_av(source) as container:
            timeline = timeline_from_packets(container, _open_track(container, spec), numbered=True)
        with open_av(source) as container:
            return _read_frames(container, _open_track(container, spec), timeline, spec, view, to_end)


def _open_track(container: Any, spec: VisualSpec) -> Any:
    """Return the video track, ready to decode. Raises MediaError for no track, an unknown codec or too many pixels."""
    stream = find_video_track(container)
    if stream is None:
        raise MediaError("holds no video track")
    context = stream.codec_context
    if context is None:
        raise MediaError("its video codec is unknown: convert it to h264 in mp4")
    if context.width * context.height > spec.max_pixels:
        raise MediaError(
            f"{context.width} x {context.height} pixels a frame, the limit is "
            f"{spec.max_pixels}: make it smaller or raise max_pixels"
        )
    context.options = {"max_pixels": str(spec.max_pixels)}  # a later frame may be larger than the header says
    context.thread_count = 1  # the loader's threads decode one file each
    return stream


def _read_frames(container: Any, stream: Any, timeline: Timeline, spec: VisualSpec, view: View, to_end: bool) -> Tensor:
    from av.video.reformatter import VideoReformatter

    limit_seconds(timeline.seconds, spec)
    times = [timeline.start + int((i + 0.5) * timeline.duration / spec.frames) for i in range(spec.frames)]
    frames = open_frames(container, stream, timeline, times, to_end)
    # A matrix in the stream comes with its first frame and is valid for the frames behind it.
    orientation = (read_display_matrix(frames.first) if frames.first is not None else None) or UPRIGHT
    aspect = pixel_aspect_ratio(stream)
    out = np.empty((spec.frames, 3, spec.size, spec.size), np.uint8)
    reformatter, last = VideoReformatter(), None
    for i, time in enumerate(times):
        frame = frames.frame_at(time)
        if frame is last:
            out[i] = out[i - 1]
        else:
            _scale_frame(reformatter, frame, read_display_matrix(frame) or orientation, aspect, spec, view, out[i])
        last = frame
    if to_end:
        frames.decode_rest()
    return torch.from_numpy(out)


def _scale_frame(
    reformatter: Any, frame: Any, orientation: Orientation, aspect: float, spec: VisualSpec, view: View, out: np.ndarray
) -> None:
    """Scale the whole frame so that the view's region fills the square, then cut the square out: one pass of swscale.

    ``aspect``: the width of a pixel over its height.
    """
    from av.video.reformatter import Interpolation

    wide, high = max(1, round(frame.width * max(1.0, aspect))), max(1, round(frame.height / min(1.0, aspect)))
    width, height = (high, wide) if orientation.transposes else (wide, high)
    left, top, right, bottom = view_region(width, height, spec, view)
    scale_x, scale_y = spec.size / (right - left), spec.size / (bottom - top)
    full_w, full_h = max(round(width * scale_x), spec.size), max(round(height * scale_y), spec.size)
    target = (full_h, full_w) if orientation.transposes else (full_w, full_h)
    # Without these two flags swscale darkens by up to 2 of 255. It writes planes faster than whole pixels.
    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    method = Interpolation[spec.interpolation.upper()] | exact
    planes = reformatter.reformat(frame, *target, "gbrp", interpolation=method, threads=1).planes
    x, y = min(round(left * scale_x), full_w - spec.size), min(round(top * scale_y), full_h - spec.size)
    for place, plane in zip(out, (planes[2], planes[0], planes[1]), strict=True):  # stored green, blue, red
        pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        part = orientation(pixels)[y : y + spec.size, x : x + spec.size]
        place[...] = part[:, ::-1] if view.flip else part
