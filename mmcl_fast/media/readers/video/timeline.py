"""Times at which a video's frames are shown: by the header where it can be trusted, by the packets otherwise."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from typing import Any

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.video.tracks import read_packets

# Containers whose header states the length of the video, and whose packets state when their frames are shown.
STATED = ("mov", "matroska")
# Containers that count frames. That is enough where the codec stores frames in the order in which they are shown.
COUNTED = ("avi", "ogg", "ivf")
# Containers whose packets state when their frames are shown, but whose header states no length or a wrong one.
# The others have no such times: libavformat guesses them, and guesses wrong where frames are reordered.
TIMED = (*STATED, "flv", "mpegts", "ivf", "obu")
BROADCAST = ("mpegts", "mpeg")  # files of these may be joined from parts, so that times jump
# As in FFmpeg, a step back by more than MAX_BACK seconds, or ahead by more than MAX_AHEAD, is such a jump.
MAX_BACK, MAX_AHEAD = 0.1, 10.0
TAIL = 18  # packets; frames are reordered by at most 16
# Seconds. Writers of Matroska disagree whether the length includes the start, so after a later start it is not trusted.
MAX_TRUSTED_START = 1.0


@dataclass(frozen=True)
class Timeline:
    """The times of a video's frames, in ticks.

    Attributes:
        tick: length of a tick in seconds.
        start: time at which the first frame is shown.
        duration: from the start to the end of the last frame.
        frame_duration: of one frame.
        stated_end: the end of the video by its header; None: the header states none that can be trusted.
        times: when each frame is shown, in order. They are set where the decoder's times cannot be trusted, so that
            frames must be counted. None: the decoder's times are right.
        packet_times: when each packet is decoded, in the order of the file. None: unknown, or the file is not seekable.
    """

    tick: float
    start: int
    duration: int
    frame_duration: int
    stated_end: int | None = None
    times: list[int] | None = field(default=None, repr=False)
    packet_times: list[int] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.duration * self.tick

    def end(self) -> int:
        """Return the end of the video in ticks, by its header where that states one."""
        return self.start + self.duration if self.stated_end is None else self.stated_end

    def check_end(self, needed: int, end: int) -> None:
        """Check that the video does not end long before a time that is needed. Both times are in ticks.

        Raises:
            MediaError: the header states an end, and ``end`` lies before ``needed`` by more than 0.5 s and more than a
                tenth of the stated length.
        """
        if self.stated_end is None:
            return
        stated = (self.stated_end - self.start) * self.tick
        if (needed - end) * self.tick > max(0.5, 0.1 * stated):
            raise MediaError(
                f"ends after {(end - self.start) * self.tick:.2f} of {stated:.2f} s: the file is cut short, replace it"
            )


def container_kind(container: Any) -> str:
    """Return the demuxer's first name, such as mov, matroska or mpegts."""
    return str(container.format.name.split(",")[0])


def timeline_from_header(container: Any, stream: Any) -> Timeline | None:
    """Return the times by the header. None: they are missing or cannot be trusted; use ``timeline_from_packets``."""
    kind, context = container_kind(container), stream.codec_context
    if kind not in STATED + COUNTED or (kind in COUNTED and _may_reorder(context)):
        return None
    if kind == "mov" and not stream.frames:  # in fragments, which count times from the start of the broadcast
        return None
    if kind in STATED and not _has_presentation_times(kind, context):
        return None
    if kind == "mov" and context.has_b_frames and _ends_unevenly(stream):
        return None  # the header adds up decoding times, not presentation times
    base, start, duration, sure = stream.time_base, stream.start_time or 0, stream.duration, True
    if not duration and (text := stream.metadata.get("DURATION")):  # a tag of Matroska, such as 00:00:04.000000000
        hours, minutes, seconds = (float(part) for part in text.split(":"))
        duration = round((hours * 3600 + minutes * 60 + seconds) / base) - start
        if start * base > MAX_TRUSTED_START:
            return None
    if not duration and container.duration:  # of the longest track, perhaps the audio
        duration, sure = round(container.duration / 1e6 / base), False
    if not duration or duration <= 0:
        return None
    return Timeline(float(base), start, duration, _average_frame_duration(stream), start + duration if sure else None)


def timeline_from_packets(container: Any, stream: Any, numbered: bool = False) -> Timeline:
    """Return the times by all packets. Reads the file once, unless its index is sufficient.

    Args:
        container: the open file.
        stream: its video track.
        numbered: frames came out of the order of their times, so that only their numbers can be trusted.

    Raises:
        MediaError: there is no packet, or the header states much more than the packets hold.
    """
    kind, base = container_kind(container), float(stream.time_base)
    found = _read_packet_times(container, stream, kind)
    if not found.lengths:
        raise MediaError("holds no frame that can be decoded")
    length = found.typical or _average_frame_duration(stream)
    times = (
        _presentation_times(found, kind)
        or _output_times(found, stream.codec_context.reorder_depth, length)
        or [i * length for i in range(len(found.lengths))]  # a raw stream has no times
    )
    frame = (kind in TIMED and found.last) or length
    # In a program stream some packets have times. libavformat fills in the others, and then no two are equal.
    has_times = _has_presentation_times(kind, stream.codec_context) or (
        kind in BROADCAST and times == sorted(set(found.presentation_times))
    )
    by_time = found.presentation_times and has_times and not found.jumps and not numbered
    index = found.decoding_times if kind == "avi" and len(set(found.decoding_times)) == len(times) else None
    duration = times[-1] - times[0] + frame
    start = min(found.decoding_times[:1] + times[:1])
    timeline = Timeline(
        tick=base,
        start=times[0],
        duration=duration,
        frame_duration=frame,
        stated_end=_stated_end(stream, kind, start),
        times=None if by_time else times,
        packet_times=index,
    )
    timeline.check_end(timeline.end(), times[0] + duration)
    return timeline


def _may_reorder(context: Any) -> bool:
    """Return whether frames may be stored in another order than they are shown in."""
    # For H.264 and HEVC the decoder finds this out, the headers of other codecs state it.
    return bool(context.has_b_frames) or (context.codec.reorder and context.name in ("h264", "hevc", "vvc"))


def _has_presentation_times(kind: str, context: Any) -> bool:
    """Return whether packets state when their frames are shown: in containers of ``TIMED``, with one exception.

    The exception is Matroska with a codec copied from AVI that may reorder frames: the packets have AVI's times then.
    """
    # A codec copied from AVI has a tag in Matroska.
    foreign = kind == "matroska" and context.codec_tag.strip("\0") and _may_reorder(context)
    return kind in TIMED and not foreign


def _average_frame_duration(stream: Any) -> int:
    """Return the average duration of a frame in ticks; 1 where the container states no frame rate."""
    rate = stream.average_rate or stream.guessed_rate
    return max(1, round(1 / (rate * stream.time_base))) if rate else 1


def _ends_unevenly(stream: Any) -> bool:
    """Return whether the index has much longer frames at the end than on average."""
    times, much = [entry.timestamp for entry in stream.index_entries[-TAIL:]], 1.5 * _average_frame_duration(stream)
    return any(after - before > much for before, after in itertools.pairwise(times))


def _stated_end(stream: Any, kind: str, start: int) -> int | None:
    """Return the end of the video by its header, in ticks; None in ``BROADCAST``, and where it states no duration.

    ``start`` is the earliest time of a packet or frame.
    """
    if kind in BROADCAST or not stream.duration:  # libavformat reads a broadcast's length off the end of the file
        return None
    if kind == "mov" and stream.duration > start:  # fragments count from zero
        return int(stream.duration)
    # libavformat shortens an AVI that is cut short, but leaves the number of frames.
    return start + max(int(stream.duration), stream.frames if kind == "avi" else 0)


@dataclass
class _PacketTimes:
    """The times that the packets of a video state, from its first key frame on.

    Attributes:
        presentation_times: when their frames are shown; empty where some packets do not state it.
        decoding_times: when their frames are decoded; empty where some packets do not state it.
        lengths: duration of each frame; 0: not stated.
        jumps: whether the times jump where parts were joined. The times here are made continuous.
    """

    presentation_times: list[int]
    decoding_times: list[int]
    lengths: list[int]
    jumps: bool = False

    @property
    def last(self) -> int:
        """The duration of the frame that is shown last; 0: unknown."""
        return self.lengths[
            self.presentation_times.index(max(self.presentation_times)) if self.presentation_times else -1
        ]

    @property
    def typical(self) -> int:
        """The median duration of a frame, by the times where there are any; 0: unknown."""
        times = sorted(self.presentation_times or self.decoding_times)
        steps = [after - before for before, after in itertools.pairwise(times) if after > before]
        return statistics.median_low(steps or self.lengths)


def _read_packet_times(container: Any, stream: Any, kind: str) -> _PacketTimes:
    entries = [entry for entry in stream.index_entries if entry.size] if kind == "avi" else []
    if len(entries) > 1 and len(entries) == stream.frames:  # the index is complete
        return _PacketTimes(
            [], [entry.timestamp for entry in entries], [_average_frame_duration(stream)] * len(entries)
        )
    shown: list[int | None] = []
    decoded: list[int | None] = []
    lengths: list[int] = []
    back, ahead = (round(seconds / stream.time_base) for seconds in (MAX_BACK, MAX_AHEAD))
    offset, jumps, last, key, first = 0, False, None, None, None
    for packet in read_packets(container, stream):
        if not packet.size:
            continue
        if packet.is_keyframe and key is None:
            key, first = len(lengths), packet.pts
        if packet.is_discard:  # an edit list hides frames that other frames are built on
            continue
        if packet.dts is not None:
            step = 0 if last is None else packet.dts + offset - last
            if step < -back or (step > ahead and kind in BROADCAST):
                offset, jumps = offset + (lengths[-1] or 1) - step, True
            last = packet.dts + offset
        shown.append(None if packet.pts is None else packet.pts + offset)
        decoded.append(None if packet.dts is None else packet.dts + offset)
        lengths.append(packet.duration or 0)
    # No decoder returns frames of packets before the first key frame, nor frames that are shown before it.
    kept = [i for i in range(key or 0, len(lengths)) if first is None or (time := shown[i]) is None or time >= first]
    return _PacketTimes(_all_or_none(shown, kept), _all_or_none(decoded, kept), [lengths[i] for i in kept], jumps)


def _all_or_none(times: list[int | None], kept: list[int]) -> list[int]:
    """Return the times with the indices ``kept``; empty where one of them is missing."""
    found = [time for i in kept if (time := times[i]) is not None]
    return found if len(found) == len(kept) else []


def _presentation_times(found: _PacketTimes, kind: str) -> list[int]:
    """Return the times at which the frames are shown, in order.

    Empty where the packets do not state them, and where times jump.
    """
    times = sorted(found.presentation_times)
    stated = kind in TIMED or (kind in BROADCAST and len(set(times)) == len(times))
    return times if stated and not found.jumps else []


def _output_times(found: _PacketTimes, delay: int, length: int) -> list[int]:
    """Return the times at which the decoder returns the frames, ``delay`` packets late; empty where unknown."""
    times = sorted(found.decoding_times)
    if not times or len(set(times)) < len(times):
        return []
    return [*times[delay:], *(times[-1] + length * (i + 1) for i in range(min(delay, len(times))))]
