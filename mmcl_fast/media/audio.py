"""Recordings by soundfile, and by PyAV what libsndfile does not read."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media import mel, native
from mmcl_fast.media.resample import resample
from mmcl_fast.media.source import Source, is_file, limit_seconds, open_av, open_binary
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View

LOUDEST = 1e10  # float files mean 1 by full scale, some 2 ** 31; far above, the powers overflow
SHORT = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)")  # libsndfile's log: bytes stated, bytes there


def audio(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A recording to its log-mel picture ``[1, 1, size, size]``."""
    wave, rate = read_wave(source, spec, view.shift, whole)
    wave = mel.window(resample(wave, rate, spec.sample_rate), spec, view.shift)
    return mel.picture(wave, spec)


def read_wave(source: Source, spec: VisualSpec, shift: float | None = None, whole: bool = False) -> tuple[Tensor, int]:
    """Mono float32 ``[T]`` and its rate in Hz: the channels' mean; of a long one only the window."""
    import soundfile

    try:
        # A descriptor is read without a callback per block, and has no name: .raw or .vox would be headerless.
        with open_binary(source) as opened:
            target = opened.fileno() if is_file(source) and os.name == "posix" else opened
            with soundfile.SoundFile(target, closefd=False) as file:
                rate, frames = file.samplerate, file.frames
                plausible(rate, file.channels)
                limit_seconds(frames / rate, spec)
                if whole:
                    _to_the_end(file)
                want = math.ceil(spec.seconds * rate) + 1
                start = int((0.5 if shift is None else shift) * max(frames - want, 0))
                if whole or (start and file.subtype != "VORBIS"):
                    file.seek(start)
                else:
                    _skip(file, start)
                # libsndfile makes floats of 16 bits a sample at a time; it divides them by 32768, too.
                kind = "int16" if file.subtype == "PCM_16" else "float32"
                samples = file.read(min(frames, want), dtype=kind, always_2d=True)
                if len(samples) < min(frames, want):
                    raise MediaError(f"ends after {len(samples)} of {frames} samples: cut short, replace it")
    except soundfile.LibsndfileError:
        samples, rate = _av_wave(source, spec)
    if not len(samples):
        raise MediaError("holds no samples")
    return _mono(samples), rate


def _mono(samples: np.ndarray) -> Tensor:
    """``[T, C]`` of 16 bits or float32 to the channels' mean ``[T]``."""
    kernels = native.kernels()
    if kernels is not None and samples.flags.c_contiguous:
        wave = torch.empty(len(samples))
        if kernels.mono(samples.ctypes.data, int(samples.dtype == np.int16), *samples.shape, LOUDEST, wave.data_ptr()):
            _sane(-math.inf, math.inf)
        return wave
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    wave = torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(1, dtype=np.float32))
    wave = wave.float().mul_(scale)
    _sane(*wave.aminmax())
    return wave


def _skip(file: Any, count: int) -> None:
    """Reads so far: in Vorbis libsndfile 1.2.2 may seek elsewhere, or crash where it cannot decode."""
    while count and (block := len(file.read(min(count, 1 << 16), dtype="float32"))):
        count -= block


def _sane(low: Any, high: Any) -> None:
    """Refuses samples from ``low`` to ``high`` that are not sound."""
    if not (low >= -LOUDEST and high <= LOUDEST):  # not a number is neither
        raise MediaError(f"holds samples that are not finite or above {LOUDEST:g}: replace it")


def plausible(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 1_000_000:
        raise MediaError(f"a rate of {rate} Hz: 1 kHz to 1 MHz is read, convert it")
    if channels > 64:
        raise MediaError(f"{channels} channels: at most 64 are read, convert it")


def _to_the_end(file: Any) -> None:
    """Reads all of an open sound file, a block at a time."""
    count = 0
    while count < file.frames:
        block = file.read(1 << 16, dtype="float32", always_2d=True)
        if not len(block):
            raise MediaError(f"ends after {count} of {file.frames} samples: cut short, replace it")
        _sane(float(block.min()), float(block.max()))
        count += len(block)
    short = SHORT.search(file.extra_info)
    if short and int(short[2]) < int(short[1]):
        raise MediaError(f"ends after {short[2]} of {short[1]} bytes of sound: cut short, replace it")


def _av_wave(source: Source, spec: VisualSpec) -> tuple[np.ndarray, int]:
    """``[T, 1]`` and the rate, for what libsndfile does not read: m4a, the sound of a video."""
    import av

    with open_av(source) as container:
        if not container.streams.audio:
            raise MediaError("holds no sound track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError("its sound codec is unknown: convert it to wav or flac")
        resampler = av.AudioResampler(format="fltp")
        blocks, count, rate = [], 0, stream.rate
        plausible(rate, stream.channels)
        for frame in container.decode(stream):
            for block in resampler.resample(frame):
                blocks.append(block.to_ndarray().mean(0))
                count += block.samples
            limit_seconds(count / rate, spec)
    if not blocks:
        raise MediaError("holds no samples")
    return np.concatenate(blocks)[:, None], rate
