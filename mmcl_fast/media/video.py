"""Frames of a video, sampled uniformly over its duration."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.picture import square
from mmcl_fast.media.source import FORMATS, Source, head, is_cover, limit_seconds, open_av, open_binary
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View, region

SEEK_FRAMES = 8  # a seek pays when it skips at least so many frames
STILL = "a still picture, not a video: move it to the image modality"
AHEAD = 32  # packets read before one is decoded; codecs put frames out of order by at most 16
SHORT = 64  # frames; below it a container's index is not worth loading


def video(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """uint8 ``[F, 3, size, size]``: frame i is the one shown at ``(i + 1/2) / F`` of the duration."""
    start = head(source, 12)
    if start.startswith((b"GIF8", b"\x89PNG")) or start[8:12] == b"WEBP":
        return _animation(source, spec, view)
    if start.startswith((b"II*\0", b"MM\0*")) or start[4:12] == b"ftypavif":
        raise MediaError(STILL)
    with open_av(source) as container:
        clock = clock_of(container, _track(container, spec))
        if clock:
            return _sample(container, clock, spec, view, whole)
    with open_av(source) as container:  # nothing tells the duration: the packets' times do
        clock = _count(container, _track(container, spec))
    with open_av(source) as container:
        return _sample(container, clock, spec, view, whole)


def _track(container: Any, spec: VisualSpec) -> Any:
    stream = next((s for s in container.streams.video if not is_cover(s)), None)
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


class _Clock:
    """Ticks of a stream: its start, its duration and whether that is ``sure``, and the length of a frame."""

    def __init__(self, stream: Any, start: int, duration: int, sure: bool):
        self.base = float(stream.time_base)
        rate = stream.average_rate or stream.guessed_rate
        self.start, self.duration, self.sure = start, duration, sure
        self.frame = max(1, round(1 / (float(rate) * self.base))) if rate else 1


def clock_of(container: Any, stream: Any) -> _Clock | None:
    start, sure, duration = stream.start_time or 0, True, stream.duration
    if not duration and (text := stream.metadata.get("DURATION")):  # matroska: 00:00:04.000000000
        hours, minutes, seconds = (float(part) for part in text.split(":"))
        duration = round((hours * 3600 + minutes * 60 + seconds) / stream.time_base) - start
    if not duration and container.duration:  # of the longest track, perhaps the sound
        duration, sure = round(container.duration / 1e6 / stream.time_base), False
    return _Clock(stream, start, duration, sure) if duration and duration > 0 else None


def _count(container: Any, stream: Any) -> _Clock:
    packets = [packet for packet in container.demux(stream) if packet.size]
    times = [packet.pts for packet in packets if packet.pts is not None] or [0]
    clock = _Clock(stream, min(times), 0, False)
    # A raw stream has no times at all: its frames are taken to be equally long.
    clock.duration = max(max(times) - min(times) + clock.frame, len(packets) * clock.frame)
    return clock


class _Packets:
    """Decodes a stream's packets in turn, except frames that no moment wanted shows and no other frame needs.

    A frame is shown until the next one begins. Packets are read ahead of the decoder by more than frames are out of
    order, so that the next beginning is known; one that is not could only shorten the time that a frame is shown.
    """

    def __init__(self, container: Any, stream: Any, times: list[int] | None):
        self.packets, self.times = container.demux(stream), times
        self.context = stream.codec_context
        self.alone = self.context.codec.intra_only
        self.ahead: deque[Any] = deque()
        self.begins: list[int] = []  # of all packets read, sorted

    def frames(self) -> Iterator[Any]:
        while True:
            while len(self.ahead) < AHEAD and (packet := next(self.packets, None)) is not None:
                self._read(packet)
            if not self.ahead:
                return
            packet = self.ahead.popleft()
            skip = self._needless(packet)
            if skip and self.alone:
                continue
            self.context.skip_frame = "NONREF" if skip else "DEFAULT"
            yield from packet.decode()

    def _read(self, packet: Any) -> None:
        self.ahead.append(packet)
        if packet.pts is not None:
            bisect.insort(self.begins, packet.pts)
        elif packet.size:  # the last one is empty, it makes the decoder give out what it holds
            self.times = None

    def _needless(self, packet: Any) -> bool:
        if not self.times or packet.pts is None:
            return False
        place = bisect.bisect_right(self.begins, packet.pts)
        if place in (0, 1, len(self.begins)):  # the first is shown before its time, too, the last to the end
            return False
        wanted = bisect.bisect_left(self.times, packet.pts)
        return wanted == len(self.times) or self.times[wanted] >= self.begins[place]

    def shows(self, begin: int, time: int) -> bool:
        """Whether it is known that nothing begins behind ``begin`` up to ``time``."""
        place = bisect.bisect_right(self.begins, begin)
        if not self.times or not self.ahead or place == len(self.begins) or self.begins[place] <= time:
            return False
        return self.ahead[-1].dts is not None and self.ahead[-1].dts > time  # later packets begin later still


class _Frames:
    """Decoded frames at ``times``, forward only, skipping by keyframes where that saves decoding."""

    def __init__(self, container: Any, stream: Any, clock: _Clock, times: list[int], whole: bool):
        self.container, self.stream, self.clock = container, stream, clock
        self.times = None if whole else times
        self.keys: list[int] = []
        if not whole and clock.duration > SHORT * clock.frame:
            if len(stream.index_entries) <= 1:
                container.seek(clock.start, stream=stream)  # matroska reads its cues at the first seek
            self.keys = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
        self._begin()

    def _begin(self) -> None:
        self.packets = _Packets(self.container, self.stream, self.times)
        self.decoded = self.packets.frames()
        self.shown: Any = None
        self.coming: Any = None
        self._advance()

    def _advance(self) -> None:
        self.shown = self.coming or self.shown
        last = self.end() if self.shown is not None else self.clock.start
        self.coming = next(self.decoded, None)
        if self.coming is not None and self.coming.pts is None:
            self.coming.pts = last

    def end(self) -> int:
        """Where the last frame decoded ends."""
        frame = self.coming or self.shown
        return frame.pts + self.clock.frame if frame is not None else self.clock.start

    def at(self, time: int) -> Any:
        """The frame shown at ``time``: the last one that begins at or before it."""
        self._skip(time)
        while self.coming is not None and (self.shown is None or self.coming.pts <= time):
            if self.shown is None and self.coming.pts > time:
                return self.coming  # nothing is shown before the first frame
            if self.packets.shows(self.coming.pts, time):
                return self.coming
            self._advance()
        if self.shown is None:
            raise MediaError("holds no frame that can be decoded")
        if self.coming is None:
            self.complete(time)
        return self.shown

    def _skip(self, time: int) -> None:
        key = self.keys[max(bisect.bisect_right(self.keys, time) - 1, 0)] if self.keys else self.clock.start
        if self.coming is None or key - self.coming.pts < SEEK_FRAMES * self.clock.frame:
            return
        back = 0  # an index may count decoding times: step back if the seek lands behind the frame wanted
        while True:
            target = max(time - back, self.clock.start)
            self.container.seek(target, stream=self.stream)
            self._begin()
            if (self.coming is not None and self.coming.pts <= time) or target == self.clock.start:
                return
            back = max(2 * back, SEEK_FRAMES * self.clock.frame)

    def rest(self) -> None:
        while self.coming is not None:
            self._advance()
        self.complete(self.clock.start + self.clock.duration)

    def complete(self, time: int) -> None:
        """Raises MediaError if the frames end long before ``time`` although the header promised more."""
        missing, base = time - self.end(), self.clock.base
        if self.clock.sure and missing * base > max(0.5, 0.1 * self.clock.duration * base):
            raise MediaError(
                f"ends after {(self.end() - self.clock.start) * base:.2f} of "
                f"{self.clock.duration * base:.2f} s: the file is cut short, replace it"
            )


def _sample(container: Any, clock: _Clock, spec: VisualSpec, view: View, whole: bool) -> Tensor:
    from av.video.reformatter import VideoReformatter

    limit_seconds(clock.duration * clock.base, spec)
    times = [clock.start + int((i + 0.5) * clock.duration / spec.frames) for i in range(spec.frames)]
    frames = _Frames(container, _track(container, spec), clock, times, whole)
    out = np.empty((spec.frames, 3, spec.size, spec.size), np.uint8)
    reformatter, last = VideoReformatter(), None
    for i, time in enumerate(times):
        frame = frames.at(time)
        if frame is last:
            out[i] = out[i - 1]
        else:
            _scale(reformatter, frame, spec, view, out[i])
        last = frame
    if whole:
        frames.rest()
    return torch.from_numpy(out)


def _scale(reformatter: Any, frame: Any, spec: VisualSpec, view: View, out: np.ndarray) -> None:
    """Scales the whole frame so that the region fills the square, then cuts it out: one pass of swscale."""
    from av.video.reformatter import Interpolation

    turns = round(frame.rotation / 90) % 4  # counterclockwise
    sideways = turns % 2
    width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
    left, top, right, bottom = region(width, height, spec, view)
    scale_x, scale_y = spec.size / (right - left), spec.size / (bottom - top)
    full_w, full_h = max(round(width * scale_x), spec.size), max(round(height * scale_y), spec.size)
    target = (full_h, full_w) if sideways else (full_w, full_h)
    # Without these two flags swscale darkens by up to 2 of 255. It writes planes faster than whole pixels.
    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    method = Interpolation[spec.interpolation.upper()] | exact
    planes = reformatter.reformat(frame, *target, "gbrp", interpolation=method, threads=1).planes
    x, y = min(round(left * scale_x), full_w - spec.size), min(round(top * scale_y), full_h - spec.size)
    for place, plane in zip(out, (planes[2], planes[0], planes[1]), strict=True):  # stored green, blue, red
        pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        part = np.rot90(pixels, turns)[y : y + spec.size, x : x + spec.size]
        place[...] = part[:, ::-1] if view.flip else part


def _animation(source: Source, spec: VisualSpec, view: View) -> Tensor:
    """An animated GIF, WebP or PNG, transparency on white; each frame counts for its own duration."""
    from PIL import Image

    with open_binary(source) as file, Image.open(file, formats=FORMATS) as im:
        count = getattr(im, "n_frames", 1)
        if count < 2:
            raise MediaError(STILL)
        if im.width * im.height * count > 16 * spec.max_pixels or im.width * im.height > spec.max_pixels:
            raise MediaError(
                f"{count} frames of {im.width} x {im.height}, the limit in pixels is "
                f"{spec.max_pixels} each, 16 times that in all: shrink it or raise max_pixels"
            )
        squares: list[Tensor] = []
        ends: list[float] = []
        for index in range(count):
            im.seek(index)
            im.load()
            squares.append(square(im, spec, view))
            ends.append((ends[-1] if ends else 0.0) + (im.info.get("duration") or 100))
            limit_seconds(ends[-1] / 1000, spec)
    times = ((i + 0.5) * ends[-1] / spec.frames for i in range(spec.frames))
    return torch.stack([squares[min(bisect.bisect_right(ends, time), count - 1)] for time in times])
