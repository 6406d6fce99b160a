"""When the frames of a film are shown: by its header where that can be trusted, by its packets otherwise."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from typing import Any

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.video.tracks import read_packets

# Containers whose header states a film's length and whose packets state when their frames are shown.
STATED = ("mov", "matroska")
# Containers that count frames. That is enough where the codec keeps frames in the order in which they are shown.
COUNTED = ("avi", "ogg", "ivf")
# Containers whose packets state when their frames are shown, but whose header states no length or a wrong one.
# The others keep no such times: libavformat guesses them, and guesses wrong where frames are put out of order.
TIMED = (*STATED, "flv", "mpegts", "ivf", "obu")
BROADCAST = ("mpegts", "mpeg")  # may be joined from parts, so that times leap
# ffmpeg takes a step back by more than BACK seconds, and one ahead by more than AHEAD, for such a leap.
BACK, AHEAD = 0.1, 10.0
TAIL = 18  # packets; frames are put out of order by at most 16
LATE = 1.0  # seconds; writers of Matroska disagree whether a later start counts into the length


@dataclass(frozen=True)
class Timeline:
    """Times of a film's frames, in ticks.

    Attributes:
        base: seconds a tick.
        start: when the first frame is shown.
        duration: from the start to the end of the last frame.
        frame: how long one frame is shown.
        promised: where the header says that the film ends; None: it says nothing that counts.
        times: when each frame is shown, in order; the frames are then told apart by their number, as the times that
            the decoder gives them cannot be trusted. None: they can.
        decoded: when each packet is decoded, in the file's order, where that is known and the file can be searched.
    """

    base: float
    start: int
    duration: int
    frame: int
    promised: int | None = None
    times: list[int] | None = field(default=None, repr=False)
    decoded: list[int] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        return self.duration * self.base

    def end(self) -> int:
        """Where the film ends, by its header if that says so."""
        return self.start + self.duration if self.promised is None else self.promised

    def check_end(self, needed: int, end: int) -> None:
        """Raises MediaError if a frame is ``needed`` that the header promised, long behind the film's ``end``."""
        if self.promised is None:
            return
        whole = (self.promised - self.start) * self.base
        if (needed - end) * self.base > max(0.5, 0.1 * whole):
            raise MediaError(
                f"ends after {(end - self.start) * self.base:.2f} of {whole:.2f} s: the file is cut short, replace it"
            )


def container_kind(container: Any) -> str:
    """The demuxer's first name, such as mov, matroska or mpegts."""
    return str(container.format.name.split(",")[0])


def timeline_from_header(container: Any, stream: Any) -> Timeline | None:
    """The clock that the header gives. None: it is missing or cannot be trusted; use ``packet_clock``."""
    kind, context = container_kind(container), stream.codec_context
    if kind not in STATED + COUNTED or (kind in COUNTED and _may_reorder(context)):
        return None
    if kind == "mov" and not stream.frames:  # in fragments: each counts its times from the start of the broadcast
        return None
    if kind in STATED and not _has_presentation_times(kind, context):
        return None
    if kind == "mov" and context.has_b_frames and _ends_unevenly(stream):
        return None  # the header adds up when frames are decoded, which is not when they are shown
    base, start, duration, sure = stream.time_base, stream.start_time or 0, stream.duration, True
    if not duration and (text := stream.metadata.get("DURATION")):  # of Matroska, such as 00:00:04.000000000
        hours, minutes, seconds = (float(part) for part in text.split(":"))
        duration = round((hours * 3600 + minutes * 60 + seconds) / base) - start
        if start * base > LATE:
            return None
    if not duration and container.duration:  # of the longest track, perhaps the sound
        duration, sure = round(container.duration / 1e6 / base), False
    if not duration or duration <= 0:
        return None
    return Timeline(float(base), start, duration, _average_frame_duration(stream), start + duration if sure else None)


def timeline_from_packets(container: Any, stream: Any, numbered: bool = False) -> Timeline:
    """The clock that all packets give together. Reads the file once, unless its index tells as much.

    Args:
        container, stream: the open file and its film.
        numbered: frames were seen out of the order of their times, so that only their number can be trusted.

    Raises MediaError if the header promises much more, and if there is no packet.
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
    # In a program stream some packets have times; libavformat fills the others in, and then not two alike.
    kept = _has_presentation_times(kind, stream.codec_context) or (
        kind in BROADCAST and times == sorted(set(found.shown))
    )
    by_time = found.shown and kept and not found.leaps and not numbered
    index = found.decoded if kind == "avi" and len(set(found.decoded)) == len(times) else None
    duration = times[-1] - times[0] + frame
    start = min(found.decoded[:1] + times[:1])
    clock = Timeline(
        base, times[0], duration, frame, _stated_end(stream, kind, start), None if by_time else times, index
    )
    clock.check_end(clock.end(), times[0] + duration)
    return clock


def _may_reorder(context: Any) -> bool:
    """Whether frames may be stored in another order than they are shown in."""
    # What H.264 and HEVC need is found out while decoding, the other codecs' headers state it.
    return bool(context.has_b_frames) or (context.codec.reorder and context.name in ("h264", "hevc", "vvc"))


def _has_presentation_times(kind: str, context: Any) -> bool:
    """Whether packets state when their frames are shown."""
    # Matroska may take over a codec of AVI, which has a tag there, and with it AVI's times.
    foreign = kind == "matroska" and context.codec_tag.strip("\0") and _may_reorder(context)
    return kind in TIMED and not foreign


def _average_frame_duration(stream: Any) -> int:
    rate = stream.average_rate or stream.guessed_rate
    return max(1, round(1 / (rate * stream.time_base))) if rate else 1


def _ends_unevenly(stream: Any) -> bool:
    """Whether the last frames by the index are much longer than the average frame."""
    times, much = [entry.timestamp for entry in stream.index_entries[-TAIL:]], 1.5 * _average_frame_duration(stream)
    return any(after - before > much for before, after in itertools.pairwise(times))


def _stated_end(stream: Any, kind: str, start: int) -> int | None:
    """Where the header says that the film ends."""
    if kind in BROADCAST or not stream.duration:  # libavformat finds a broadcast's length at the end of the file
        return None
    if kind == "mov" and stream.duration > start:  # fragments count from zero
        return int(stream.duration)
    # libavformat shortens an AVI that is cut short, but leaves the number of frames.
    return start + max(int(stream.duration), stream.frames if kind == "avi" else 0)


@dataclass
class _PacketTimes:
    """What the packets of a film state, from its first key frame on.

    Attributes:
        shown, decoded: when their frames are shown and decoded; empty where some do not say.
        lengths: how long each frame is shown; 0: it does not say.
        leaps: the times leap where parts were joined; the times here go on.
    """

    shown: list[int]
    decoded: list[int]
    lengths: list[int]
    leaps: bool = False

    @property
    def last(self) -> int:
        """The length of the frame shown last; 0: unknown."""
        return self.lengths[self.shown.index(max(self.shown)) if self.shown else -1]

    @property
    def typical(self) -> int:
        """The median of the lengths, by the times where there are any; 0: unknown."""
        times = sorted(self.shown or self.decoded)
        steps = [after - before for before, after in itertools.pairwise(times) if after > before]
        return statistics.median_low(steps or self.lengths)


def _read_packet_times(container: Any, stream: Any, kind: str) -> _PacketTimes:
    entries = [entry for entry in stream.index_entries if entry.size] if kind == "avi" else []
    if len(entries) > 1 and len(entries) == stream.frames:  # the index is whole
        return _PacketTimes(
            [], [entry.timestamp for entry in entries], [_average_frame_duration(stream)] * len(entries)
        )
    shown: list[int | None] = []
    decoded: list[int | None] = []
    lengths: list[int] = []
    back, ahead = (round(seconds / stream.time_base) for seconds in (BACK, AHEAD))
    offset, leaps, last, key, first = 0, False, None, None, None
    for packet in read_packets(container, stream):
        if not packet.size:
            continue
        if packet.is_keyframe and key is None:
            key, first = len(lengths), packet.pts
        if packet.is_discard:  # an edit list leaves frames out that others are built on
            continue
        if packet.dts is not None:
            step = 0 if last is None else packet.dts + offset - last
            if step < -back or (step > ahead and kind in BROADCAST):
                offset, leaps = offset + (lengths[-1] or 1) - step, True
            last = packet.dts + offset
        shown.append(None if packet.pts is None else packet.pts + offset)
        decoded.append(None if packet.dts is None else packet.dts + offset)
        lengths.append(packet.duration or 0)
    # No decoder shows packets in front of the first key frame, nor frames that are shown in front of it.
    kept = [i for i in range(key or 0, len(lengths)) if first is None or (time := shown[i]) is None or time >= first]
    return _PacketTimes(_all_or_none(shown, kept), _all_or_none(decoded, kept), [lengths[i] for i in kept], leaps)


def _all_or_none(times: list[int | None], kept: list[int]) -> list[int]:
    """The times kept; empty where one of them is missing."""
    found = [time for i in kept if (time := times[i]) is not None]
    return found if len(found) == len(kept) else []


def _presentation_times(found: _PacketTimes, kind: str) -> list[int]:
    """When the frames are shown, in order; empty where the packets do not tell."""
    times = sorted(found.shown)
    stated = kind in TIMED or (kind in BROADCAST and len(set(times)) == len(times))
    return times if stated and not found.leaps else []


def _output_times(found: _PacketTimes, delay: int, length: int) -> list[int]:
    """When the decoder gives out the frames, ``delay`` packets late; empty where the packets do not tell."""
    times = sorted(found.decoded)
    if not times or len(set(times)) < len(times):
        return []
    return [*times[delay:], *(times[-1] + length * (i + 1) for i in range(min(delay, len(times))))]
