"""The window of a recording that consists of segments, which may have different rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.source import limit_seconds
from mmcl_fast.media.spec import VisualSpec

MARGIN = 64  # samples around a part; the filter of ``resample`` reaches less far where it raises a rate


class Segment(Protocol):
    """Audio of one rate and a known length.

    Attributes:
        rate: in Hz.
        samples: per channel.
    """

    rate: int
    samples: int

    def read(self, start: int, count: int) -> Tensor:
        """Return mono float32 ``[count]`` from sample ``start`` on."""
        ...


def locate_window(samples: int, rate: int, spec: VisualSpec, shift: float | None) -> tuple[int, int]:
    """Return the first sample and the number of samples of the window of a recording.

    The window is the centre, or has the share ``shift`` (0..1) of the surplus before it.
    """
    want = math.ceil(spec.seconds * rate) + 1
    start = int((0.5 if shift is None else shift) * max(samples - want, 0))
    return start, min(samples, want)


def read_window(segments: Sequence[Segment], spec: VisualSpec, shift: float | None) -> tuple[Tensor, int]:
    """Return the window as mono float32 ``[T]``, and its rate in Hz, which is the highest rate of the segments.

    Raises:
        MediaError: the segments hold no samples, or more than ``spec.max_seconds``.
    """
    segments = [segment for segment in segments if segment.samples]
    if not segments:
        raise MediaError("holds no samples")
    rate = max(segment.rate for segment in segments)
    limit_seconds(sum(segment.samples / segment.rate for segment in segments), spec)
    lengths = [-(-segment.samples * rate // segment.rate) for segment in segments]
    start, count = locate_window(sum(lengths), rate, spec, shift)
    waves = []
    for segment, length in zip(segments, lengths, strict=True):
        first, last = max(start, 0), min(start + count, length)
        if first < last:
            waves.append(_read_at_rate(segment, rate, first, last))
        start -= length
    return torch.cat(waves), rate


def _read_at_rate(segment: Segment, rate: int, first: int, last: int) -> Tensor:
    """Return samples ``first`` to ``last`` of a segment after resampling to ``rate``."""
    if segment.rate == rate:
        return segment.read(first, last - first)
    # Both rates have a sample at each whole step. The samples around the part affect its ends, so they are read, too.
    step = segment.rate // math.gcd(segment.rate, rate)
    begin = max(0, first * segment.rate // rate - MARGIN) // step * step
    end = min(segment.samples, -(-last * segment.rate // rate) + MARGIN)
    skip = first - begin * rate // segment.rate
    return resample(segment.read(begin, end - begin), segment.rate, rate)[skip : skip + last - first]
