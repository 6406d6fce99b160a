"""Audio to an image: a window of the recording, and its log-mel spectrogram in 0..1.

Not by torchaudio: with the same filters its resampling and spectrogram give the same numbers (within 1e-4) in more than
twice the time. The script tests/media/dsp/test_audio_peers.py compares both.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast._extension import compiled
from mmcl_fast.media.dsp import cpp_kernels
from mmcl_fast.media.spec import VisualSpec

SILENCE = 1e-10  # mel power below which a clip counts as silent
CHUNK = 1 << 17  # numbers in a temporary on the CPU; larger ones spend most of their time on fresh pages
BAND = 32  # filters in one matrix product; neighbours share bins, while all filters together are mostly zeros


@lru_cache(maxsize=1)
def _torchaudio() -> ModuleType | None:
    try:
        import torchaudio.functional
    except Exception:  # missing, or built for another torch; the doctor reports that
        return None
    return torchaudio.functional


@lru_cache(maxsize=16)
def filterbank(mels: int, n_fft: int, rate: int, f_min: float, f_max: float) -> Tensor:
    """Return triangular HTK filters ``[mels, n_fft // 2 + 1]`` with peak 1 and without area normalisation.

    HTK mel: ``mel(f) = 2595 log10(1 + f / 700)`` (O'Shaughnessy 1987). The ``mels + 2`` corners are equally
    spaced on it; filter m rises linearly in Hz from corner m to m + 1 and falls to m + 2.

    The filters are torchaudio's where it can be imported, else ``htk_triangles``. Tests hold both within 1e-4.
    """
    functional = _torchaudio()
    if functional is None:
        return htk_triangles(mels, n_fft, rate, f_min, f_max)
    bank = functional.melscale_fbanks(n_fft // 2 + 1, f_min, f_max, mels, rate, norm=None, mel_scale="htk")
    return bank.T.contiguous()


def htk_triangles(mels: int, n_fft: int, rate: int, f_min: float, f_max: float) -> Tensor:
    """Return the filters of ``filterbank``, computed by torch in float64."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (f_min, f_max))
    corners = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    slopes = bins[None] - corners[:, None]
    widths = corners.diff()[:, None]
    rise, fall = slopes[:-2] / widths[:-1], -slopes[2:] / widths[1:]
    return torch.minimum(rise, fall).clamp_min(0).float()


@lru_cache(maxsize=16)
def _tables(spec: VisualSpec, device: torch.device) -> tuple[Tensor, list[tuple[int, int, Tensor]]]:
    """Return the Hann window, and the filters in bands: ``(first filter, first bin, [2 * bins, filters])``.

    Each weight is there twice, for the square of a bin's real part and for the square of its imaginary part.
    """
    bank = filterbank(spec.mels, spec.n_fft, spec.sample_rate, spec.f_min, spec.f_max or spec.sample_rate / 2)
    bands = []
    for first in range(0, spec.mels, BAND):
        part = bank[first : first + BAND]
        bins = part.any(0).nonzero()[:, 0].tolist() or [0]
        weights = part[:, bins[0] : bins[-1] + 1].T.repeat_interleave(2, 0)
        bands.append((first, bins[0], weights.contiguous().to(device)))
    return torch.hann_window(spec.n_fft, device=device), bands


@lru_cache(maxsize=16)
def _kernel_tables(spec: VisualSpec) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """Return the kernel's tables: window, roots of unity, radices, filters ``[mels, 3]`` and their weights.

    A filter is (first bin, number of bins, index of its first weight). None for an ``n_fft`` that the kernel lacks.
    """
    radices = cpp_kernels.fft_radices(spec.n_fft // 2) if spec.n_fft % 2 == 0 else None
    if radices is None:
        return None
    bank = filterbank(spec.mels, spec.n_fft, spec.sample_rate, spec.f_min, spec.f_max or spec.sample_rate / 2)
    filters: list[tuple[int, int, int]] = []
    weights: list[Tensor] = []
    for row in bank:
        bins = row.nonzero()[:, 0].tolist() or [0]
        filters.append((bins[0], bins[-1] + 1 - bins[0], sum(map(len, weights))))
        weights.append(row[bins[0] : bins[-1] + 1])
    return (
        torch.hann_window(spec.n_fft),
        cpp_kernels.roots_of_unity(spec.n_fft),
        torch.tensor(radices, dtype=torch.int32),
        torch.tensor(filters, dtype=torch.int32),
        torch.cat(weights),
    )


def _kernel_power(rows: Tensor, spec: VisualSpec) -> Tensor | None:
    """Compute mel power ``[B, mels, frames]`` of ``[B, T]`` by the kernel; None where the kernel cannot do it."""
    if not cpp_kernels.can_take(rows) or (tables := _kernel_tables(spec)) is None:
        return None
    window, roots, radices, filters, weights = tables
    count, length = rows.shape
    frames = 1 + length // spec.hop
    power = torch.empty(count, spec.mels, cpp_kernels.round_up_to_vectors(frames))
    for row, result in zip(rows, power):
        compiled().mel_power(
            row.data_ptr(),
            length,
            spec.hop,
            spec.n_fft,
            window.data_ptr(),
            roots.data_ptr(),
            radices.data_ptr(),
            len(radices),
            filters.data_ptr(),
            weights.data_ptr(),
            spec.mels,
            result.data_ptr(),
            power.shape[2],
        )
    return power[:, :, :frames]


def mel_power(wave: Tensor, spec: VisualSpec) -> Tensor:
    """Compute mel power ``[..., mels, 1 + T // hop]`` of ``wave`` ``[..., T]`` at ``spec.sample_rate``, on its device.

    The window is a periodic Hann window. Frames are centred with zero padding. The squared magnitude of each frame is
    multiplied with ``filterbank``.
    """
    power = _kernel_power(wave.reshape(-1, wave.shape[-1]), spec)
    return _torch_power(wave, spec) if power is None else power.view(*wave.shape[:-1], *power.shape[1:])


def _torch_power(wave: Tensor, spec: VisualSpec) -> Tensor:
    window, bands = _tables(spec, wave.device)
    half, rows = spec.n_fft // 2, wave.reshape(-1, wave.shape[-1])
    frames = functional.pad(rows, (half, half)).unfold(-1, spec.n_fft, spec.hop)
    power = frames.new_empty(*frames.shape[:2], spec.mels)
    step = frames.shape[1] if wave.is_cuda else max(16, CHUNK // (len(rows) * spec.n_fft))
    for part, result in zip(frames.split(step, 1), power.split(step, 1), strict=True):
        squares = torch.view_as_real(torch.fft.rfft(part * window)).square_().view(-1, spec.n_fft // 2 * 2 + 2)
        columns = squares.new_empty(len(squares), spec.mels)
        for first, start, weights in bands:
            width, count = weights.shape
            torch.mm(squares[:, 2 * start : 2 * start + width], weights, out=columns[:, first : first + count])
        result.copy_(columns.view_as(result))
    return power.view(*wave.shape[:-1], -1, spec.mels).mT


def log_mel_image(wave: Tensor, spec: VisualSpec) -> Tensor:
    """Convert ``wave`` ``[T]`` or ``[B, T]`` to ``[B, 1, size, size]`` in 0..1; B is 1 for a single wave.

    The value is ``1 + max(10 log10(power / max power), -db_range) / db_range``, resized by antialiased bilinear
    interpolation. High bands are on top, and time runs to the right. A silent clip is all 0.
    """
    rows = wave.reshape(-1, wave.shape[-1])
    power = _kernel_power(rows, spec)
    if power is not None:
        return _kernel_image(power, spec)
    return _torch_image(_torch_power(rows, spec), spec)


def _kernel_image(power: Tensor, spec: VisualSpec) -> Tensor:
    count, mels, frames = power.shape
    across_0, across = cpp_kernels.resize_weights(frames, spec.size)
    down_0, down = _upward_weights(mels, spec.size)
    out = torch.empty(count, 1, spec.size, spec.size)
    for row, result in zip(power, out):
        compiled().level_picture(
            row.data_ptr(),
            mels,
            frames,
            row.stride(0),
            10 / spec.db_range,
            10 ** (-spec.db_range / 10),
            SILENCE,
            across_0.data_ptr(),
            across.data_ptr(),
            across.shape[1],
            down_0.data_ptr(),
            down.data_ptr(),
            down.shape[1],
            spec.size,
            result.data_ptr(),
        )
    return out


@lru_cache(maxsize=16)
def _upward_weights(mels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return ``cpp_kernels.resize_weights`` for rows that begin with the highest band."""
    first, weights = cpp_kernels.resize_weights(mels, size)
    return (mels - weights.shape[1] - first).int(), weights.flip(1).contiguous()


def _torch_image(power: Tensor, spec: VisualSpec) -> Tensor:
    power = power[:, None]
    peak = power.amax((2, 3), keepdim=True)
    level = power.div(peak.clamp_min(SILENCE)).clamp_min_(10 ** (-spec.db_range / 10))
    level = level.log10_().mul_(10 / spec.db_range).add_(1).flip(2)
    small = functional.interpolate(
        level, size=(spec.size, spec.size), mode="bilinear", align_corners=False, antialias=True
    )
    return small.mul_(peak > SILENCE)


def take_window(wave: Tensor, spec: VisualSpec, shift: float | None) -> Tensor:
    """Crop or fill ``wave`` ``[..., T]`` to exactly ``seconds * sample_rate`` samples.

    A longer wave is cropped: at the centre, or with ``shift`` (0..1) of the surplus before the window. A shorter wave
    is repeated after a roll by ``shift`` of its length, or padded with silence. The share ``shift`` of the silence
    comes before it.
    """
    want, have = round(spec.seconds * spec.sample_rate), wave.shape[-1]
    if have >= want:
        start = int((0.5 if shift is None else shift) * (have - want))
        return wave[..., start : start + want]
    if spec.window_policy == "pad":
        before = int((shift or 0.0) * (want - have))
        return functional.pad(wave, (before, want - have - before))
    start = int((shift or 0.0) * have)
    return torch.cat([wave.roll(-start, -1)] * -(-want // have), -1)[..., :want]
