"""The graphs of DALI, one class for each modality: DALI's operators, and the steps that torch does afterwards.

Each class takes the spec and the device of the batch. torch's steps run on that device. DALI's operators run on the
GPU if the attribute ``gpu`` is set, else on the CPU.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp import mel
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.engines.dali.routes import Feed
from mmcl_fast.media.readers.audio.sample_checks import LOUDEST
from mmcl_fast.media.readers.depth.depth_to_image import to_image, to_metres
from mmcl_fast.media.spec import VisualSpec


class ImageGraph:
    """Images and videos: DALI decodes, crops, resizes with antialiasing, flips and normalises."""

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.gpu, self.is_video = spec, device.type == "cuda", spec.modality == "video"
        self.inputs = ("uint8", "int32", "float", "float") if self.is_video else ("uint8", "float", "float")

    def graph(self, encoded: Any, *rest: Any) -> Any:
        """Return the output node for the input nodes: the file, the frames of a video, and the region."""
        from nvidia.dali import fn, types

        device, spec = "mixed" if self.gpu else "cpu", self.spec
        *frames, start, end = rest
        if self.is_video:
            pixels = fn.decoders.video(encoded, device=device, frames=frames[0])
        else:
            # Fancy upsampling of chroma, as libjpeg does it.
            pixels = fn.decoders.image(encoded, device=device, output_type=types.RGB, jpeg_fancy_upsampling=True)
        method = types.INTERP_CUBIC if spec.interpolation == "bicubic" else types.INTERP_LINEAR
        pixels = fn.resize(
            pixels, size=[spec.size, spec.size], roi_start=start, roi_end=end, interp_type=method, antialias=True
        )
        return fn.crop_mirror_normalize(
            pixels,
            mean=[255 * m for m in spec.mean],
            std=[255 * s for s in spec.std],
            output_layout="FCHW" if self.is_video else "CHW",
        )

    def place(self, output: Any, data: Tensor, slots: list[int]) -> None:
        """Write a pipeline's output to the rows ``slots`` of ``data``."""
        rows = torch.from_dlpack(output.as_tensor())  # without a copy
        data[slots] = rows if self.is_video else rows[:, None]


class AudioGraph:
    """Audio: DALI decodes to a mono wave on the CPU. torch resamples and computes the log-mel image on the device."""

    inputs, gpu = ("uint8",), False

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.device = spec, device

    def graph(self, encoded: Any) -> Any:
        """Return the output node for the input node, the file."""
        from nvidia.dali import fn, types

        return fn.decoders.audio(encoded, downmix=True, dtype=types.FLOAT)[0]

    def prepare(self, wave: np.ndarray, feed: Feed) -> Tensor:
        """Move a decoded wave ``[T]``, or the window of a longer one, to the device. Raises MediaError."""
        if len(wave) != feed.samples or not np.abs(wave).max() <= LOUDEST:  # written so that NaN is refused
            raise MediaError("is not what its header says, or holds invalid samples")
        want, shift = math.ceil(self.spec.seconds * feed.rate) + 1, feed.view.shift
        start = int((0.5 if shift is None else shift) * max(len(wave) - want, 0))
        return torch.from_numpy(wave[start : start + want]).to(self.device)

    def images(self, waves: list[Tensor], feeds: list[Feed]) -> Tensor:
        """Return ``[B, 1, size, size]`` in 0..1. Waves of the same rate and length are resampled together."""
        spec, groups = self.spec, defaultdict(list)
        for i, (wave, feed) in enumerate(zip(waves, feeds)):
            groups[feed.rate, len(wave)].append(i)
        windows: dict[int, Tensor] = {}
        for (rate, _), places in groups.items():
            resampled = resample(torch.stack([waves[i] for i in places]), rate, spec.sample_rate)
            windows.update(
                (i, mel.take_window(audio, spec, feeds[i].view.shift)) for i, audio in zip(places, resampled)
            )
        return mel.log_mel_image(torch.stack([windows[i] for i in range(len(waves))]), spec)


class DepthGraph:
    """Depth maps: DALI decodes 16-bit PNG on the CPU. torch does the rest on the device."""

    inputs, gpu = ("uint8",), False

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.device = spec, device

    def graph(self, encoded: Any) -> Any:
        """Return the output node for the input node, the file."""
        from nvidia.dali import fn, types

        return fn.decoders.image(encoded, output_type=types.ANY_DATA, dtype=types.UINT16, adjust_orientation=False)

    def prepare(self, values: np.ndarray, feed: Feed) -> Tensor:
        """Convert a decoded map ``[H, W, 1]`` to metres ``[H, W]`` on the device. Raises MediaError."""
        return to_metres(values[..., 0], self.spec).to(self.device)

    def images(self, maps: list[Tensor], feeds: list[Feed]) -> Tensor:
        """Return ``[B, 1, size, size]`` in 0..1."""
        return torch.cat([to_image(metres, self.spec, feed.view) for metres, feed in zip(maps, feeds)])


Graph = Union[ImageGraph, AudioGraph, DepthGraph]
GRAPHS: dict[str, Callable[[VisualSpec, torch.device], Graph]] = {
    "image": ImageGraph,
    "video": ImageGraph,
    "audio": AudioGraph,
    "depth": DepthGraph,
}
