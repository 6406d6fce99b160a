"""Recordings by soundfile, and by PyAV what libsndfile does not read."""

from __future__ import annotations

import io
import math
import os
import re
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media import mel
from mmcl_fast.media.resample import resample
from mmcl_fast.media.source import Source, is_file, limit_seconds, open_av, read_bytes
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View

LOUDEST = 1e10  # float files mean 1 by full scale, some 2 ** 31; far above, the powers overflow
SHORT = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)")  # libsndfile's log: bytes stated, bytes there


def audio(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A recording to its log-mel picture ``[1, 1, size, size]``."""
    wave, rate = read_wave(source, spec, view.shift, whole)
    wave = mel.window(resample(wave, rate, spec.sample_rate), spec, view.shift)
    return mel.picture(wave, spec)


def read_wave(source: Source, spec: VisualSpec, shift: float | None = None,
              whole: bool = False) -> tuple[Tensor, int]:
    """Mono float32 ``[T]`` and its rate in Hz: the channels' mean; of a long one only the window."""
    import soundfile

    virtual = not is_file(source) or str(source).lower().endswith(".raw")
    try:
        # libsndfile reads a path itself, without a callback per block; but .raw it would take for headerless.
        with io.BytesIO(read_bytes(source)) if virtual else nullcontext(os.fspath(source)) as target:
            with soundfile.SoundFile(target) as file:
                rate, frames = file.samplerate, file.frames
                limit_seconds(frames / rate, spec)
                want = math.ceil(spec.seconds * rate) + 1
                if frames > want and not whole:
                    file.seek(int((0.5 if shift is None else shift) * (frames - want)))
                    frames = want
                samples = file.read(frames, dtype="float32", always_2d=True)
                if len(samples) < frames:
                    raise MediaError(f"ends after {len(samples)} of {frames} samples: cut short, replace it")
                short = whole and SHORT.search(file.extra_info)
                if short and int(short[2]) < int(short[1]):
                    raise MediaError(f"ends after {short[2]} of {short[1]} bytes of sound: cut short, replace it")
    except soundfile.LibsndfileError:
        samples, rate = _av_wave(source, spec)
    wave = torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(1))
    if not 1000 <= rate <= 1_000_000:
        raise MediaError(f"a rate of {rate} Hz: 1 kHz to 1 MHz is read, convert it")
    if not len(wave):
        raise MediaError("holds no samples")
    if not wave.abs().max() <= LOUDEST:
        raise MediaError(f"holds samples that are not finite or above {LOUDEST:g}: replace it")
    return wave, rate


def _av_wave(source: Source, spec: VisualSpec) -> tuple[np.ndarray, int]:
    """``[T, channels]`` and the rate, for what libsndfile does not read: m4a, the sound of a video."""
    import av

    with open_av(source) as container:
        if not container.streams.audio:
            raise MediaError("holds no sound track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError("its sound codec is unknown: convert it to wav or flac")
        resampler = av.AudioResampler(format="fltp")
        blocks, count, rate = [], 0, stream.rate
        for frame in container.decode(stream):
            for block in resampler.resample(frame):
                blocks.append(block.to_ndarray())
                count += block.samples
            limit_seconds(count / rate, spec)
    if not blocks:
        raise MediaError("holds no samples")
    return np.concatenate(blocks, 1).T, rate
