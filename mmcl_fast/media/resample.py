"""Resampling of sound by windowed sinc, as a polyphase convolution."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

ZEROS = 16        # zero crossings of the sinc on each side
ROLLOFF = 0.95    # cut-off as a share of the lower Nyquist frequency
BETA = 9.0        # of the Kaiser window; stop band near -90 dB
MAX_PHASES = 640  # 44.1 kHz to 16 kHz needs 160; rates without a small ratio are approximated


@lru_cache(maxsize=32)
def _kernels(up: int, down: int) -> tuple[Tensor, int]:
    """``[up, 1, 2 * half + down]`` filters, one per output phase, and ``half`` in input samples."""
    cutoff = ROLLOFF * min(1.0, up / down)  # in units of the input's Nyquist frequency
    half = int(ZEROS / cutoff) + 1
    offset = torch.arange(-half, half + down, dtype=torch.float64)
    phase = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    time = (offset[None] - phase) * cutoff
    window = torch.special.i0(BETA * (1 - (time / ZEROS).square()).clamp_min(0).sqrt())
    window = torch.where(time.abs() <= ZEROS, window / torch.special.i0(torch.tensor(BETA)), 0.0)
    kernels = torch.sinc(time) * window * cutoff
    return (kernels / kernels.sum(1, keepdim=True)).float()[:, None], half  # gain 1 at 0 Hz in each phase


def resample(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """``wave`` ``[..., T]`` float32 from ``rate`` to ``new_rate`` Hz, ``[..., ceil(T * new_rate / rate)]``.

    Output sample n is ``sum_k wave[k] h(k - n * rate / new_rate)`` with ``h(t) = c sinc(c t) kaiser(c t)``
    and c = 0.95 of the lower Nyquist frequency (J. O. Smith, "Digital Audio Resampling"), so
    nothing above it folds back.
    A ratio whose denominators are above 640 is replaced by the nearest one below (an error under 1e-5).
    """
    if rate == new_rate:
        return wave
    ratio = Fraction(new_rate, rate)
    if ratio.numerator > MAX_PHASES or ratio.denominator > 8 * MAX_PHASES:
        ratio = (ratio.limit_denominator(MAX_PHASES) if ratio < 1
                 else 1 / (1 / ratio).limit_denominator(MAX_PHASES))
    kernels, half = _kernels(ratio.numerator, ratio.denominator)
    length = wave.shape[-1]
    want = -(-length * new_rate // rate)
    blocks = -(-want // ratio.numerator)
    flat = wave.reshape(-1, 1, length)
    right = half + blocks * ratio.denominator + ratio.denominator - length
    padded = torch.nn.functional.pad(flat, (half, max(right, 0)))
    out = torch.nn.functional.conv1d(padded, kernels, stride=ratio.denominator)
    return out.transpose(1, 2).reshape(flat.shape[0], -1)[:, :want].reshape(*wave.shape[:-1], want)
