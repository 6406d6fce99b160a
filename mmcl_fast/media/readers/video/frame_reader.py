"""Decoded frames of a film at given times, decoding as little as that takes."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.video.timeline import Timeline, container_kind
from mmcl_fast.media.readers.video.tracks import read_packets

SEEK_FRAMES = 8  # a seek pays when it skips at least so many frames
READ_AHEAD = 32  # packets read before one is decoded; codecs put frames out of order by at most 16
MIN_FRAMES_FOR_INDEX = 64  # frames; below it a container's index is not worth loading
SEEKABLE = ("mov", "matroska", "avi", "flv", "ogg", "ivf")  # where a seek lands at the key frame that it is told
NOTHING = "holds no frame that can be decoded"


class OutOfOrderError(Exception):
    """A frame came that is shown before the frame in front of it: the file's times are wrong."""


class FrameReader(Protocol):
    """A film's frames, forward only. ``first`` is the first one that the decoder gave."""

    first: Any

    def at(self, time: int) -> Any:
        """The frame shown at ``time``: the last one that begins at or before it."""

    def rest(self) -> None:
        """Decodes what is left. Raises MediaError if that is less than the header says."""


def open_frames(container: Any, stream: Any, clock: Timeline, times: list[int], whole: bool) -> FrameReader:
    """The frames of a film, to be asked for at ``times``. ``whole``: all are decoded."""
    if clock.times is None:
        return FrameReaderByTime(container, stream, clock, times, whole)
    return FrameReaderByNumber(container, stream, clock, whole)


class SelectiveDecoder:
    """Decodes a stream's packets in turn, except frames that no moment wanted shows and no other frame needs.

    A frame is shown until the next one begins. Packets are read ahead of the decoder by more than frames are out of
    order, so that the next beginning is known; one that is not could only shorten the time that a frame is shown.
    """

    def __init__(self, container: Any, stream: Any, times: list[int] | None):
        self.packets, self.times = read_packets(container, stream), times
        self.context = stream.codec_context
        self.alone = self.context.codec.intra_only
        self.ahead: deque[Any] = deque()
        self.begins: list[int] = []  # of all packets read, sorted

    def frames(self) -> Iterator[Any]:
        while True:
            while len(self.ahead) < READ_AHEAD and (packet := next(self.packets, None)) is not None:
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


class FrameReaderByTime:
    """Frames of a file whose times can be trusted, skipping by key frames where that saves decoding.

    Raises OutOfOrderError where they turn out to be wrong.
    """

    def __init__(self, container: Any, stream: Any, clock: Timeline, times: list[int], whole: bool):
        self.container, self.stream, self.clock = container, stream, clock
        self.times = None if whole else times
        self.keys: list[int] = []
        kind = container_kind(container)
        if not whole and clock.duration > MIN_FRAMES_FOR_INDEX * clock.frame and kind in SEEKABLE:
            if len(stream.index_entries) <= 1 and kind == "matroska":
                container.seek(clock.start, stream=stream)  # it reads its cues at the first seek
            self.keys = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
        self._begin()
        self.first = self.coming

    def _begin(self) -> None:
        self.packets = SelectiveDecoder(self.container, self.stream, self.times)
        self.decoded = self.packets.frames()
        self.shown: Any = None
        self.coming: Any = None
        self._advance()

    def _advance(self) -> None:
        self.shown = self.coming or self.shown
        self.coming = next(self.decoded, None)
        if self.coming is None:
            return
        if self.coming.pts is None or (self.shown is not None and self.coming.pts < self.shown.pts):
            raise OutOfOrderError

    def end(self) -> int:
        """Where the last frame decoded ends."""
        frame = self.coming or self.shown
        return frame.pts + self.clock.frame if frame is not None else self.clock.start

    def at(self, time: int) -> Any:
        self._skip(time)
        while self.coming is not None and (self.shown is None or self.coming.pts <= time):
            if self.shown is None and self.coming.pts > time:
                return self.coming  # nothing is shown before the first frame
            if self.packets.shows(self.coming.pts, time):
                return self.coming
            self._advance()
        if self.shown is None:
            raise MediaError(NOTHING)
        if self.coming is None:
            self.clock.check_end(time, self.end())
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
        self.clock.check_end(self.clock.end(), self.end())


def _decode_frames(container: Any, stream: Any) -> Iterator[Any]:
    for packet in read_packets(container, stream):
        yield from packet.decode()


class FrameReaderByNumber:
    """Frames of a file whose times cannot be trusted: they are shown in the order in which the decoder gives them."""

    def __init__(self, container: Any, stream: Any, clock: Timeline, whole: bool):
        assert clock.times is not None
        self.container, self.stream, self.clock = container, stream, clock
        self.times = clock.times
        # A decoder also tells by which packet's arrival it gave a frame: a count that a seek does not lose.
        self.places = {time: i for i, time in enumerate(clock.decoded)} if clock.decoded and not whole else {}
        self.keys = [
            self.places[entry.timestamp]
            for entry in stream.index_entries
            if entry.is_keyframe and entry.timestamp in self.places
        ]
        self.decoded = _decode_frames(container, stream)
        self.first = next(self.decoded, None)
        if self.first is None:
            raise MediaError(NOTHING)
        self.shown, self.number = self.first, 0
        self.delay = self.places.get(self.first.dts, 0)  # packets that the decoder holds back

    def _advance(self) -> bool:
        """Decodes the next frame, and says whether there was one."""
        frame = next(self.decoded, None)
        if frame is None:
            return False
        self.shown, self.number = frame, self.number + 1
        return True

    def at(self, time: int) -> Any:
        wanted = max(bisect.bisect_right(self.times, time) - 1, 0)
        self._skip(wanted)
        while self.number < wanted:
            if not self._advance():
                self.clock.check_end(time, self.end())
                break
        return self.shown

    def _skip(self, wanted: int) -> None:
        """Goes on at a key frame that is surely in front of the one wanted, if that one is far."""
        place = bisect.bisect_right(self.keys, wanted - READ_AHEAD) - 1
        if place < 0 or self.keys[place] - self.number < SEEK_FRAMES:
            return
        self._go_to(self.keys[place])
        self.number = self.places.get(self.shown.dts, -1) - self.delay
        if not 0 <= self.number <= wanted:  # the seek went astray: every frame is decoded instead
            self.keys, self.number = [], -1
            self._go_to(0)

    def _go_to(self, packet: int) -> None:
        assert self.clock.decoded is not None
        self.container.seek(self.clock.decoded[packet], stream=self.stream)
        self.decoded = _decode_frames(self.container, self.stream)
        self._advance()

    def rest(self) -> None:
        while self._advance():
            pass
        self.clock.check_end(self.clock.end(), self.end())

    def end(self) -> int:
        """Where the last frame decoded ends."""
        return self.times[min(self.number, len(self.times) - 1)] + self.clock.frame
