"""The window of a sound that consists of pieces, which may have different rates."""

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

MARGIN = 64  # samples; the filter of ``resample`` reaches less far where it raises a rate


class Segment(Protocol):
    """Sound of one rate whose length is known.

    Attributes:
        rate: in Hz.
        samples: per channel.
    """

    rate: int
    samples: int

    def read(self, start: int, count: int) -> Tensor:
        """Mono float32 ``[count]`` from sample ``start`` on."""
        ...


def locate_window(samples: int, rate: int, spec: VisualSpec, shift: float | None) -> tuple[int, int]:
    """First sample and number of samples of the window of a sound: its centre, or ``shift`` (0..1) of the free room."""
    want = math.ceil(spec.seconds * rate) + 1
    start = int((0.5 if shift is None else shift) * max(samples - want, 0))
    return start, min(samples, want)


def read_window(pieces: Sequence[Segment], spec: VisualSpec, shift: float | None) -> tuple[Tensor, int]:
    """The window as mono float32 ``[T]`` and its rate, the highest one of the pieces."""
    pieces = [piece for piece in pieces if piece.samples]
    if not pieces:
        raise MediaError("holds no samples")
    rate = max(piece.rate for piece in pieces)
    limit_seconds(sum(piece.samples / piece.rate for piece in pieces), spec)
    lengths = [-(-piece.samples * rate // piece.rate) for piece in pieces]
    start, count = locate_window(sum(lengths), rate, spec, shift)
    waves = []
    for piece, length in zip(pieces, lengths, strict=True):
        first, last = max(start, 0), min(start + count, length)
        if first < last:
            waves.append(_read_at_rate(piece, rate, first, last))
        start -= length
    return torch.cat(waves), rate


def _read_at_rate(piece: Segment, rate: int, first: int, last: int) -> Tensor:
    """Samples ``first`` to ``last`` of a piece as it is at ``rate``."""
    if piece.rate == rate:
        return piece.read(first, last - first)
    # Both rates have a sample at each whole step. What lies around the part is heard at its ends.
    step = piece.rate // math.gcd(piece.rate, rate)
    begin = max(0, first * piece.rate // rate - MARGIN) // step * step
    end = min(piece.samples, -(-last * piece.rate // rate) + MARGIN)
    skip = first - begin * rate // piece.rate
    return resample(piece.read(begin, end - begin), piece.rate, rate)[skip : skip + last - first]
