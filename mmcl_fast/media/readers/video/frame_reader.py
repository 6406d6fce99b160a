"""Frames of a video at given times, with as little decoding as possible."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.video.timeline import Timeline, container_kind
from mmcl_fast.media.readers.video.tracks import read_packets

SEEK_FRAMES = 8  # a seek pays if it skips at least this many frames
READ_AHEAD = 32  # packets read before one is decoded; codecs reorder frames by at most 16
MIN_FRAMES_FOR_INDEX = 64  # the index of a shorter video is not worth loading
SEEKABLE = ("mov", "matroska", "avi", "flv", "ogg", "ivf")  # containers where a seek lands at the wanted key frame
NO_FRAME = "holds no frame that can be decoded"


class OutOfOrderError(Exception):
    """A frame was decoded that is shown before the previous one, so the file's times are wrong."""


class FrameReader(Protocol):
    """The frames of a video, read forward only. ``first`` is the first decoded frame."""

    first: Any

    def frame_at(self, time: int) -> Any:
        """Return the frame shown at ``time`` in ticks: the last one that begins at or before it, or else the first.

        Raises:
            MediaError: no frame can be decoded, or the video ends long before ``time``; see ``Timeline.check_end``.
        """

    def decode_rest(self) -> None:
        """Decode the remaining frames. Raises MediaError if the video ends long before its stated end."""


def open_frames(container: Any, stream: Any, timeline: Timeline, times: list[int], to_end: bool) -> FrameReader:
    """Return the reader that suits a timeline.

    Args:
        container: the open file.
        stream: its video track.
        timeline: of the track.
        times: the times in ticks at which frames will be asked for, in order.
        to_end: decode every frame.
    """
    if timeline.times is None:
        return FrameReaderByTime(container, stream, timeline, times, to_end)
    return FrameReaderByNumber(container, stream, timeline, to_end)


class SelectiveDecoder:
    """Decodes a stream's packets in turn, without frames that are not wanted and that no other frame needs.

    A frame is shown until the next one begins. Packets are read so far ahead of the decoder that the next beginning is
    known in spite of reordering. A beginning that is missed could only shorten the time that a frame is shown.

    Args:
        container: the open file.
        stream: its video track.
        times: the wanted times in ticks, sorted. None: all frames are wanted.
    """

    def __init__(self, container: Any, stream: Any, times: list[int] | None):
        self.packets, self.times = read_packets(container, stream), times
        self.context = stream.codec_context
        self.intra_only = self.context.codec.intra_only
        self.ahead: deque[Any] = deque()
        self.begins: list[int] = []  # when the frames of all packets read begin, sorted

    def frames(self) -> Iterator[Any]:
        """Yield the decoded frames."""
        while True:
            while len(self.ahead) < READ_AHEAD and (packet := next(self.packets, None)) is not None:
                self._read(packet)
            if not self.ahead:
                return
            packet = self.ahead.popleft()
            skip = self._can_skip(packet)
            if skip and self.intra_only:
                continue
            self.context.skip_frame = "NONREF" if skip else "DEFAULT"
            yield from packet.decode()

    def _read(self, packet: Any) -> None:
        self.ahead.append(packet)
        if packet.pts is not None:
            bisect.insort(self.begins, packet.pts)
        elif packet.size:  # without a time nothing can be skipped; the last packet is empty and has none
            self.times = None

    def _can_skip(self, packet: Any) -> bool:
        """Return whether it is certain that no wanted time lies within the frame of a packet."""
        if not self.times or packet.pts is None:
            return False
        place = bisect.bisect_right(self.begins, packet.pts)
        if place in (
            0,
            1,
            len(self.begins),
        ):  # the first frame is shown before its time, too, and the last one to the end
            return False
        wanted = bisect.bisect_left(self.times, packet.pts)
        return wanted == len(self.times) or self.times[wanted] >= self.begins[place]

    def shows(self, begin: int, time: int) -> bool:
        """Return whether the frame that begins at ``begin`` is known to be still shown at ``time``."""
        place = bisect.bisect_right(self.begins, begin)
        if not self.times or not self.ahead or place == len(self.begins) or self.begins[place] <= time:
            return False
        return self.ahead[-1].dts is not None and self.ahead[-1].dts > time  # later packets begin later still


class FrameReaderByTime:
    """Frames of a file whose times can be trusted. It seeks to key frames where that saves decoding.

    Raises:
        OutOfOrderError: the times turn out to be wrong.
    """

    def __init__(self, container: Any, stream: Any, timeline: Timeline, times: list[int], to_end: bool):
        self.container, self.stream, self.timeline = container, stream, timeline
        self.times = None if to_end else times
        self.keys: list[int] = []
        kind = container_kind(container)
        if not to_end and timeline.duration > MIN_FRAMES_FOR_INDEX * timeline.frame_duration and kind in SEEKABLE:
            if len(stream.index_entries) <= 1 and kind == "matroska":
                container.seek(timeline.start, stream=stream)  # FFmpeg reads the index of Matroska at the first seek
            self.keys = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
        self._begin()
        self.first = self.next_frame

    def _begin(self) -> None:
        self.packets = SelectiveDecoder(self.container, self.stream, self.times)
        self.decoded = self.packets.frames()
        self.current_frame: Any = None
        self.next_frame: Any = None
        self._advance()

    def _advance(self) -> None:
        self.current_frame = self.next_frame or self.current_frame
        self.next_frame = next(self.decoded, None)
        if self.next_frame is None:
            return
        if self.next_frame.pts is None or (
            self.current_frame is not None and self.next_frame.pts < self.current_frame.pts
        ):
            raise OutOfOrderError

    def end(self) -> int:
        """Return the end of the last decoded frame in ticks."""
        frame = self.next_frame or self.current_frame
        return frame.pts + self.timeline.frame_duration if frame is not None else self.timeline.start

    def frame_at(self, time: int) -> Any:
        self._skip(time)
        while self.next_frame is not None and (self.current_frame is None or self.next_frame.pts <= time):
            if self.current_frame is None and self.next_frame.pts > time:
                return self.next_frame  # no frame is shown before the first one
            if self.packets.shows(self.next_frame.pts, time):
                return self.next_frame
            self._advance()
        if self.current_frame is None:
            raise MediaError(NO_FRAME)
        if self.next_frame is None:
            self.timeline.check_end(time, self.end())
        return self.current_frame

    def _skip(self, time: int) -> None:
        key = self.keys[max(bisect.bisect_right(self.keys, time) - 1, 0)] if self.keys else self.timeline.start
        if self.next_frame is None or key - self.next_frame.pts < SEEK_FRAMES * self.timeline.frame_duration:
            return
        back = 0  # an index may hold decoding times: step back if the seek lands behind the wanted frame
        while True:
            target = max(time - back, self.timeline.start)
            self.container.seek(target, stream=self.stream)
            self._begin()
            if (self.next_frame is not None and self.next_frame.pts <= time) or target == self.timeline.start:
                return
            back = max(2 * back, SEEK_FRAMES * self.timeline.frame_duration)

    def decode_rest(self) -> None:
        while self.next_frame is not None:
            self._advance()
        self.timeline.check_end(self.timeline.end(), self.end())


def _decode_frames(container: Any, stream: Any) -> Iterator[Any]:
    for packet in read_packets(container, stream):
        yield from packet.decode()


class FrameReaderByNumber:
    """Frames of a file whose times cannot be trusted. They are shown in the order in which the decoder returns them."""

    def __init__(self, container: Any, stream: Any, timeline: Timeline, to_end: bool):
        assert timeline.times is not None
        self.container, self.stream, self.timeline = container, stream, timeline
        self.times = timeline.times
        # A decoder also states which packet made it return a frame. A seek does not lose this count.
        self.places = (
            {time: i for i, time in enumerate(timeline.packet_times)} if timeline.packet_times and not to_end else {}
        )
        self.keys = [
            self.places[entry.timestamp]
            for entry in stream.index_entries
            if entry.is_keyframe and entry.timestamp in self.places
        ]
        self.decoded = _decode_frames(container, stream)
        self.first = next(self.decoded, None)
        if self.first is None:
            raise MediaError(NO_FRAME)
        self.current_frame, self.number = self.first, 0
        self.delay = self.places.get(self.first.dts, 0)  # number of packets that the decoder holds back

    def _advance(self) -> bool:
        """Decode the next frame. Return whether there was one."""
        frame = next(self.decoded, None)
        if frame is None:
            return False
        self.current_frame, self.number = frame, self.number + 1
        return True

    def frame_at(self, time: int) -> Any:
        wanted = max(bisect.bisect_right(self.times, time) - 1, 0)
        self._skip(wanted)
        while self.number < wanted:
            if not self._advance():
                self.timeline.check_end(time, self.end())
                break
        return self.current_frame

    def _skip(self, wanted: int) -> None:
        """Seek to a key frame that is certainly before the wanted frame, if that frame is far away."""
        place = bisect.bisect_right(self.keys, wanted - READ_AHEAD) - 1
        if place < 0 or self.keys[place] - self.number < SEEK_FRAMES:
            return
        self._go_to(self.keys[place])
        self.number = self.places.get(self.current_frame.dts, -1) - self.delay
        if not 0 <= self.number <= wanted:  # the seek landed at a wrong place: decode every frame instead
            self.keys, self.number = [], -1
            self._go_to(0)

    def _go_to(self, packet: int) -> None:
        assert self.timeline.packet_times is not None
        self.container.seek(self.timeline.packet_times[packet], stream=self.stream)
        self.decoded = _decode_frames(self.container, self.stream)
        self._advance()

    def decode_rest(self) -> None:
        while self._advance():
            pass
        self.timeline.check_end(self.timeline.end(), self.end())

    def end(self) -> int:
        """Return the end of the last decoded frame in ticks."""
        return self.times[min(self.number, len(self.times) - 1)] + self.timeline.frame_duration
