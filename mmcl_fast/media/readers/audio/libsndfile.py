"""Audio that libsndfile decodes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp import cpp_kernels
from mmcl_fast.media.readers.audio.file_part import FilePart
from mmcl_fast.media.readers.audio.sample_checks import LOUDEST, check_format, check_range
from mmcl_fast.media.source import Source, is_file, open_binary

BLOCK = 1 << 16  # samples read at once where a whole file is read


@contextmanager
def open_soundfile(source: Source) -> Iterator[Any]:
    """Open a SoundFile and check its rate and channels.

    Raises:
        soundfile.LibsndfileError: libsndfile cannot read the file.
        MediaError: no recording has such a rate or so many channels.
    """
    import soundfile

    # A descriptor is read without a Python call per block. It has no name, so .raw and .vox are not taken as
    # headerless.
    with open_binary(source) as opened:
        by_descriptor = is_file(source) and os.name == "posix"
        with soundfile.SoundFile(opened.fileno() if by_descriptor else opened, closefd=False) as file:
            check_format(file.samplerate, file.channels)
            yield file


class FileSegment:
    """The audio of an open SoundFile.

    Args:
        file: the SoundFile at its start; it can be read once.
        samples: number of samples. None: as many as the SoundFile states.

    Attributes:
        rate: in Hz.
        samples: per channel.
    """

    def __init__(self, file: Any, samples: int | None = None):
        self.file, self.rate, self.samples = file, file.samplerate, file.frames if samples is None else samples

    def read(self, start: int, count: int) -> Tensor:
        """Return mono float32 ``[count]`` from sample ``start`` on; to be called once."""
        file = self.file
        if start and file.subtype != "VORBIS" and file.seekable():
            file.seek(start)
        else:
            _read_past(file, start)
        # libsndfile converts 16 bits to floats one by one, so ``_mono`` does it; both divide by 32768.
        samples = file.read(count, dtype="int16" if file.subtype == "PCM_16" else "float32", always_2d=True)
        if len(samples) < count:
            raise MediaError(f"ends after {start + len(samples)} of {self.samples} samples: cut short, replace it")
        return _mono(samples)

    def check(self) -> None:
        """Read all samples, a block at a time. Raises MediaError for missing samples or samples that are no audio."""
        count = 0
        while count < self.samples:
            block = self.file.read(min(BLOCK, self.samples - count), dtype="float32", always_2d=True)
            if not len(block):
                raise MediaError(f"ends after {count} of {self.samples} samples: cut short, replace it")
            check_range(float(block.min()), float(block.max()))
            count += len(block)


class ReopenedSegment:
    """The audio of a file or a part of one. Each call opens it, so that a chain of hundreds keeps no file open."""

    def __init__(self, part: Source):
        self.part = part
        with open_soundfile(part) as file:
            segment = self._segment(file)
            self.rate, self.samples = segment.rate, segment.samples

    def read(self, start: int, count: int) -> Tensor:
        """Return mono float32 ``[count]`` from sample ``start`` on."""
        with open_soundfile(self.part) as file:
            return self._segment(file).read(start, count)

    def check(self) -> None:
        """Read all samples, a block at a time. Raises MediaError for missing samples or samples that are no audio."""
        with open_soundfile(self.part) as file:
            self._segment(file).check()

    def _segment(self, file: Any) -> FileSegment:
        return FileSegment(file, self.part.samples if isinstance(self.part, FilePart) else None)


def _mono(samples: np.ndarray) -> Tensor:
    """Return the mean of the channels ``[T]`` of int16 or float32 ``[T, C]``."""
    kernels = cpp_kernels.kernels()
    if kernels is not None and samples.flags.c_contiguous:
        wave = torch.empty(len(samples))
        if kernels.mono(samples.ctypes.data, int(samples.dtype == np.int16), *samples.shape, LOUDEST, wave.data_ptr()):
            check_range(-math.inf, math.inf)
        return wave
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    wave = torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(1, dtype=np.float32))
    wave = wave.float().mul_(scale)
    check_range(*wave.aminmax())
    return wave


def _read_past(file: Any, count: int) -> None:
    """Read ``count`` samples in place of a seek: in Vorbis libsndfile 1.2.2 may seek to a wrong place or crash."""
    while count and (block := len(file.read(min(count, BLOCK), dtype="float32"))):
        count -= block
