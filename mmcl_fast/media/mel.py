"""Sound to a picture: a window of the recording, its log-mel spectrogram, 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast.media.spec import VisualSpec

SILENCE = 1e-10  # mel power below which a clip counts as silent


@lru_cache(maxsize=16)
def filterbank(mels: int, n_fft: int, rate: int, f_min: float, f_max: float) -> Tensor:
    """Triangular HTK filters ``[mels, n_fft // 2 + 1]``, peak 1, no area normalisation.

    HTK mel: ``mel(f) = 2595 log10(1 + f / 700)`` (O'Shaughnessy 1987). The ``mels + 2`` corners are equally
    spaced on it; filter m rises linearly in Hz from corner m to m + 1 and falls to m + 2.
    """
    low, high = (2595 * math.log10(1 + f / 700) for f in (f_min, f_max))
    corners = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    slopes = (bins[None] - corners[:, None])
    widths = corners.diff()[:, None]
    rise, fall = slopes[:-2] / widths[:-1], -slopes[2:] / widths[1:]
    return torch.minimum(rise, fall).clamp_min(0).float()


@lru_cache(maxsize=16)
def _hann(n_fft: int) -> Tensor:
    return torch.hann_window(n_fft)


def mel_power(wave: Tensor, spec: VisualSpec) -> Tensor:
    """``wave`` ``[T]`` at ``spec.sample_rate`` to mel power ``[mels, 1 + T // hop]``.

    Periodic Hann window, frames centred with zero padding, squared magnitude, ``filterbank``.
    """
    spectrum = torch.stft(wave, spec.n_fft, spec.hop, window=_hann(spec.n_fft), center=True,
                          pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    bank = filterbank(spec.mels, spec.n_fft, spec.sample_rate, spec.f_min, spec.f_max or spec.sample_rate / 2)
    return bank @ power


def picture(wave: Tensor, spec: VisualSpec) -> Tensor:
    """``wave`` ``[T]`` to ``[1, 1, size, size]`` in 0..1, high bands on top, time to the right.

    ``1 + max(10 log10(power / max power), -db_range) / db_range``, then an antialiased bilinear resize.
    A silent clip is all 0.
    """
    power = mel_power(wave, spec)
    peak = power.max()
    if peak <= SILENCE:
        return torch.zeros(1, 1, spec.size, spec.size)
    level = (power / peak).clamp_min(10 ** (-spec.db_range / 10)).log10_().mul_(10 / spec.db_range).add_(1)
    return functional.interpolate(level.flip(0)[None, None], size=(spec.size, spec.size), mode="bilinear",
                                  align_corners=False, antialias=True)


def window(wave: Tensor, spec: VisualSpec, shift: float | None) -> Tensor:
    """``wave`` ``[T]`` to exactly ``seconds * sample_rate`` samples.

    Longer: the centre, or the part at ``shift`` (0..1) of the free room. Shorter: repeated, rolled by
    ``shift`` of its length, or padded with silence behind it, ``shift`` of the silence before it.
    """
    want, have = round(spec.seconds * spec.sample_rate), wave.shape[0]
    if have >= want:
        start = int((0.5 if shift is None else shift) * (have - want))
        return wave[start:start + want]
    if spec.window_policy == "pad":
        before = int((shift or 0.0) * (want - have))
        return functional.pad(wave, (before, want - have - before))
    start = int((shift or 0.0) * have)
    return wave.roll(-start).repeat(-(-want // have))[:want]
