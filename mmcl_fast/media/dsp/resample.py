"""Resampling of audio by windowed sinc, as a polyphase filter in a few narrow matrix products.

Not by torchaudio: its resampling and spectrogram together take more than twice the time for the same numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast._extension import compiled
from mmcl_fast.media.dsp import cpp_kernels

ZEROS = 16  # zero crossings of the sinc on each side
ROLLOFF = 0.95  # cut-off as a share of the lower Nyquist frequency
BETA = 9.0  # of the Kaiser window; stop band near -90 dB
MAX_PHASES = 640  # 44.1 kHz to 16 kHz needs 160; rates without a small ratio are approximated
SPAN = 16  # samples of the lower rate that one matrix product covers; a wider one multiplies more zeros


@lru_cache(maxsize=32)
def _filters(up: int, down: int, device: torch.device) -> tuple[list[tuple[int, int, Tensor]], int, int, int]:
    """Return the filters for blocks of input samples, as matrix products.

    Returns:
        Each product as ``(first output, first input, [width, n])`` for n neighbouring outputs. Then the numbers of
        outputs and inputs of a block, and of samples that are needed before it.
    """
    cutoff = ROLLOFF * min(1.0, up / down)  # in units of the input's Nyquist frequency
    half = int(ZEROS / cutoff) + 1
    group = math.ceil(SPAN * max(1.0, up / down))
    # A block has so many whole periods that the inputs of neighbouring rows do not overlap. Then BLAS reads the rows of
    # a product without a copy.
    widest = 2 * half + 1 + math.ceil(group * down / up)
    periods = max(-(-group // up), -(-widest // down))
    outputs, inputs = periods * up, periods * down
    products = []
    for first in range(0, outputs, group):
        places = torch.arange(first, min(first + group, outputs), dtype=torch.float64) * down / up
        start, end = int(places[0]), int(places[-1]) + 2 * half + 1
        time = (torch.arange(start - half, end - half, dtype=torch.float64)[:, None] - places) * cutoff
        window = torch.special.i0(BETA * (1 - (time / ZEROS).square()).clamp_min(0).sqrt())
        window = torch.where(time.abs() <= ZEROS, window / torch.special.i0(torch.tensor(BETA)), 0.0)
        weights = torch.sinc(time) * window * cutoff
        weights /= weights.sum(0)  # gain 1 at 0 Hz for each output
        products.append((first, start, weights.float().to(device)))
    return products, outputs, inputs, half


def resample(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample ``wave`` ``[..., T]`` float32 from ``rate`` to ``new_rate`` Hz: ``[..., ceil(T * new_rate / rate)]``.

    Output sample n is ``sum_k wave[k] h(k - n * rate / new_rate)`` with ``h(t) = c sinc(c t) kaiser(c t)`` and c = 0.95
    of the lower Nyquist frequency (J. O. Smith, "Digital Audio Resampling"). So nothing above it folds back.

    A ratio with a numerator or denominator above 640 is replaced by the nearest smaller fraction, with an error under
    1e-5. The result is on the wave's device and is the same, except for rounding, for every shape of batch.
    """
    if rate == new_rate:
        return wave
    ratio = Fraction(new_rate, rate)
    if ratio.numerator > MAX_PHASES or ratio.denominator > 8 * MAX_PHASES:
        ratio = ratio.limit_denominator(MAX_PHASES) if ratio < 1 else 1 / (1 / ratio).limit_denominator(MAX_PHASES)
    want = -(-wave.shape[-1] * new_rate // rate)
    rows = wave.reshape(-1, wave.shape[-1])
    resample_rows = _resample_by_kernel if cpp_kernels.can_take(rows) else _resample_by_torch
    return resample_rows(rows, ratio, want).view(*wave.shape[:-1], want)


@lru_cache(maxsize=32)
def _kernel_filters(up: int, down: int) -> tuple[Tensor, Tensor, int, int, int]:
    """Return ``_filters`` as the kernel reads them.

    Returns:
        int32 rows of (first output, first input, width, outputs, index of the first weight). Then the weights, padded
        with columns of zeros to whole vectors, and the three numbers of ``_filters``.
    """
    products, outputs, inputs, half = _filters(up, down, torch.device("cpu"))
    table, weights, place = [], [], 0
    for first, start, part in products:
        width, count = part.shape
        weights.append(functional.pad(part, (0, cpp_kernels.round_up_to_vectors(count) - count)).flatten())
        table.append((first, start, width, count, place))
        place += len(weights[-1])
    return torch.tensor(table, dtype=torch.int32), torch.cat(weights), outputs, inputs, half


def _resample_by_kernel(rows: Tensor, ratio: Fraction, want: int) -> Tensor:
    table, weights, outputs, inputs, half = _kernel_filters(ratio.numerator, ratio.denominator)
    out = rows.new_empty(len(rows), want)
    for row, result in zip(rows, out):
        compiled().resample(
            row.data_ptr(),
            len(row),
            half,
            inputs,
            outputs,
            want,
            table.data_ptr(),
            len(table),
            weights.data_ptr(),
            result.data_ptr(),
        )
    return out


def _resample_by_torch(rows: Tensor, ratio: Fraction, want: int) -> Tensor:
    products, outputs, inputs, half = _filters(ratio.numerator, ratio.denominator, rows.device)
    length = rows.shape[1]
    # Each row and the silence around it fill whole blocks. The last blocks reach into the next row and are dropped.
    blocks = -(-(max(length, want * inputs // outputs) + 2 * half + inputs) // inputs)
    padded = rows.new_zeros((len(rows) * blocks + 2) * inputs)
    padded[: len(rows) * blocks * inputs].view(len(rows), -1)[:, half : half + length] = rows
    out = rows.new_empty(len(rows) * blocks, outputs)
    for first, start, weights in products:
        width, count = weights.shape
        torch.mm(padded.as_strided((len(out), width), (inputs, 1), start), weights, out=out[:, first : first + count])
    return out.view(len(rows), -1)[:, :want].reshape(len(rows), want)
