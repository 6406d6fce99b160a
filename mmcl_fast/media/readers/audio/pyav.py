"""Audio that PyAV decodes: formats that libsndfile cannot read, and files whose length only a decoder knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.audio.sample_checks import check_format, check_range
from mmcl_fast.media.readers.video.tracks import find_audio_track
from mmcl_fast.media.source import Source, limit_seconds, open_av
from mmcl_fast.media.spec import VisualSpec

# kbit/s of AC-3 by its header's code for the frame's size (ETSI TS 102 366, table 4.13).
AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
MAX_SAMPLES_IN_MEMORY = 1 << 24  # samples in memory (64 MB)


class AvRecording:
    """The audio track of a source, counted sample by sample.

    Args:
        source: the file.
        spec: its ``max_seconds`` is the limit.
        to_end: refuse invalid samples anywhere in the file, not only in the window.
        max_samples: number of samples that may stay in memory. A longer file is decoded twice: to count, and to read.

    Attributes:
        runs: rate and number of samples of each stretch of one rate.
        seconds: the length.
        stated_seconds: the length that the header states; 0: none.
        states_exactly: whether the header states exactly the length of the audio.
        ends_in_packet: whether the file ends within a packet.

    Raises:
        MediaError: no audio track, damage before the end, or more seconds than the limit.
    """

    def __init__(self, source: Source, spec: VisualSpec, to_end: bool, max_samples: int = MAX_SAMPLES_IN_MEMORY):
        self.source = source
        self.runs: list[tuple[int, int]] = []
        self.stated_seconds, self.states_exactly, self.ends_in_packet = 0.0, False, False
        self._blocks_in_memory: list[np.ndarray] | None = []
        seconds, total = 0.0, 0
        for rate, block in self._blocks():
            before = self.runs.pop() if self.runs and self.runs[-1][0] == rate else (rate, 0)
            self.runs.append((rate, before[1] + len(block)))
            total += len(block)
            seconds += len(block) / rate
            limit_seconds(seconds, spec)
            if to_end:
                check_range(block.min(initial=0), block.max(initial=0))
            if self._blocks_in_memory is not None:
                self._blocks_in_memory.append(block)
                if total > max_samples:
                    self._blocks_in_memory = None
        self.seconds = seconds

    def segments(self) -> list[AvSegment]:
        """Return the stretches of one rate, in their order."""
        starts = itertools.accumulate((samples for _, samples in self.runs), initial=0)
        return [
            AvSegment(self, start, rate, samples) for start, (rate, samples) in zip(starts, self.runs, strict=False)
        ]

    def find_truncation(self) -> str | None:
        """Return the sign that the file ends before its audio does, for a message; None: there is none."""
        # Headers that are not exact also count samples that are not played.
        slack = 0.001 if self.states_exactly else max(0.5, 0.1 * self.stated_seconds)
        if self.seconds < self.stated_seconds - slack:
            return f"ends after {self.seconds:.2f} of {self.stated_seconds:.2f} s"
        return "ends inside its last packet" if self.ends_in_packet else None

    def read(self, start: int, count: int) -> np.ndarray:
        """Return mono float32 ``[count]`` from sample ``start`` on, counted over all segments."""
        wanted, place = [], 0
        blocks = (block for _, block in self._blocks()) if self._blocks_in_memory is None else self._blocks_in_memory
        for block in blocks:
            if place + len(block) > start:
                wanted.append(block[max(0, start - place) : start + count - place])
            place += len(block)
            if place >= start + count:
                break
        return np.concatenate(wanted)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate and the mono float32 samples of one frame after the other."""
        import av

        with open_av(self.source) as container:
            track = find_audio_track(container)
            if track is None:
                raise MediaError("holds no audio track")
            if track.codec_context is None:
                raise MediaError("its audio codec is unknown: convert it to wav or flac")
            check_format(track.rate, track.channels)
            self.stated_seconds, self.states_exactly = _stated_seconds(container, track)
            failed: Exception | None = None
            last = None
            for packet in container.demux(track):
                last = packet if packet.size else last
                if failed is not None and packet.size:
                    raise failed  # more follows, so this is damage and not a missing end
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    failed = error
                    continue
                for frame in frames:
                    yield frame.sample_rate, _mono(frame)
            self.ends_in_packet = failed is not None or (last is not None and _is_short(last, track.codec_context.name))


class AvSegment:
    """A stretch of one rate of an ``AvRecording``.

    Attributes:
        rate: in Hz.
        samples: per channel.
    """

    def __init__(self, recording: AvRecording, start: int, rate: int, samples: int):
        self.recording, self.start, self.rate, self.samples = recording, start, rate, samples

    def read(self, start: int, count: int) -> Tensor:
        """Return mono float32 ``[count]`` from sample ``start`` on."""
        wave = torch.from_numpy(self.recording.read(self.start + start, count))
        check_range(*wave.aminmax())
        return wave


def _stated_seconds(container: Any, track: Any) -> tuple[float, bool]:
    """Return the length that the header states, and whether it is exact; 0 where FFmpeg only estimates it."""
    kind = container.format.name.split(",")[0]
    if kind in ("mov", "flac", "tta") and track.duration:
        return float(track.duration * track.time_base), kind != "mov"
    if kind in ("flv", "asf", "matroska") and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6, False
    return 0.0, False


def _is_short(packet: Any, codec: str) -> bool:
    """Return whether a packet of AC-3 ends inside a frame, which its decoders do not report."""
    data = bytes(packet) if codec in ("ac3", "eac3") else b""
    while data.startswith(b"\x0bw"):
        size = _ac3_size(data)
        if size is None or size > len(data):
            return size is not None
        data = data[size:]
    return False


def _ac3_size(data: bytes) -> int | None:
    """Return the size in bytes of the AC-3 frame that begins here; None for an invalid header.

    A header that is cut short counts as a frame that is longer than the data. Source: ETSI TS 102 366, 4.4.1 and
    E.1.3.1.
    """
    if len(data) < 6:
        return len(data) + 1
    if data[5] >> 3 > 10:  # E-AC-3 states words of 16 bits
        return 2 * ((data[2] & 7) << 8 | data[3]) + 2
    rate, code = (48000, 44100, 32000, 0)[data[4] >> 6], data[4] & 63
    if not rate or code >> 1 >= len(AC3_KBITS):
        return None
    return 2 * (AC3_KBITS[code >> 1] * 96000 // rate + (code & 1 if rate == 44100 else 0))


SCALES = {"u8": 1 / 128, "s16": 1 / (1 << 15), "s32": 1 / (1 << 31), "s64": 1 / (1 << 63), "flt": 1.0, "dbl": 1.0}


def _mono(frame: Any) -> np.ndarray:
    """Return the mean of a frame's channels, float32 ``[samples]``; integers are scaled to -1..1."""
    samples, name = frame.to_ndarray(), frame.format.name
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if name.startswith("u8"):
        samples = samples.astype(np.float32) - 128
    scale = SCALES[name.removesuffix("p")]
    mixed = samples[0] if len(samples) == 1 else samples.mean(0, dtype=np.float32)
    return np.multiply(mixed, scale, dtype=np.float32)
