"""What DALI does with an item and what torch does after it, one class for each modality.

``device`` is where the batch is wanted: what torch does runs there; what DALI does too where ``gpu`` is set.
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
from mmcl_fast.media.readers.depth import depth_to_image as depth_maps
from mmcl_fast.media.spec import VisualSpec


class Pictures:
    """Images and videos: DALI does all, region, antialiased resize, flip and normalisation too."""

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.gpu, self.moving = spec, device.type == "cuda", spec.modality == "video"
        self.inputs = ("uint8", "int32", "float", "float") if self.moving else ("uint8", "float", "float")

    def graph(self, encoded: Any, *rest: Any) -> Any:
        from nvidia.dali import fn, types

        where, spec = "mixed" if self.gpu else "cpu", self.spec
        *frames, start, end = rest
        if self.moving:
            pixels = fn.decoders.video(encoded, device=where, frames=frames[0])
        else:
            # Fancy upsampling of chroma: what libjpeg does.
            pixels = fn.decoders.image(encoded, device=where, output_type=types.RGB, jpeg_fancy_upsampling=True)
        method = types.INTERP_CUBIC if spec.interpolation == "bicubic" else types.INTERP_LINEAR
        pixels = fn.resize(
            pixels, size=[spec.size, spec.size], roi_start=start, roi_end=end, interp_type=method, antialias=True
        )
        return fn.crop_mirror_normalize(
            pixels,
            mean=[255 * m for m in spec.mean],
            std=[255 * s for s in spec.std],
            output_layout="FCHW" if self.moving else "CHW",
        )

    def place(self, output: Any, data: Tensor, slots: list[int]) -> None:
        """Writes a pipeline's output to these rows of ``data``."""
        rows = torch.from_dlpack(output.as_tensor())
        data[slots] = rows if self.moving else rows[:, None]


class Sounds:
    """DALI decodes to a mono wave on the CPU; resampling and the log-mel picture are this package's, on the device."""

    inputs, gpu = ("uint8",), False

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.device = spec, device

    def graph(self, encoded: Any) -> Any:
        from nvidia.dali import fn, types

        return fn.decoders.audio(encoded, downmix=True, dtype=types.FLOAT)[0]

    def prepare(self, wave: np.ndarray, feed: Feed) -> Tensor:
        """A decoded wave ``[T]``, of a longer recording its window, to the device. Raises MediaError."""
        if len(wave) != feed.samples or not np.abs(wave).max() <= LOUDEST:
            raise MediaError("is not what its header says, or holds samples that are none")
        want, shift = math.ceil(self.spec.seconds * feed.rate) + 1, feed.view.shift
        start = int((0.5 if shift is None else shift) * max(len(wave) - want, 0))
        return torch.from_numpy(wave[start : start + want]).to(self.device)

    def pictures(self, waves: list[Tensor], feeds: list[Feed]) -> Tensor:
        """``[B, 1, size, size]`` in 0..1; waves of one rate and length are resampled together."""
        spec, alike = self.spec, defaultdict(list)
        for i, (wave, feed) in enumerate(zip(waves, feeds)):
            alike[feed.rate, len(wave)].append(i)
        windows: dict[int, Tensor] = {}
        for (rate, _), places in alike.items():
            sounds = resample(torch.stack([waves[i] for i in places]), rate, spec.sample_rate)
            windows.update((i, mel.take_window(sound, spec, feeds[i].view.shift)) for i, sound in zip(places, sounds))
        return mel.log_mel_image(torch.stack([windows[i] for i in range(len(waves))]), spec)


class Depths:
    """DALI decodes 16-bit PNG on the CPU; the rest is this package's, on the device."""

    inputs, gpu = ("uint8",), False

    def __init__(self, spec: VisualSpec, device: torch.device):
        self.spec, self.device = spec, device

    def graph(self, encoded: Any) -> Any:
        from nvidia.dali import fn, types

        return fn.decoders.image(encoded, output_type=types.ANY_DATA, dtype=types.UINT16, adjust_orientation=False)

    def prepare(self, values: np.ndarray, feed: Feed) -> Tensor:
        """A decoded map ``[H, W, 1]`` to metres ``[H, W]`` on the device. Raises MediaError."""
        return depth_maps.to_metres(values[..., 0], self.spec).to(self.device)

    def pictures(self, maps: list[Tensor], feeds: list[Feed]) -> Tensor:
        """``[B, 1, size, size]`` in 0..1."""
        return torch.cat([depth_maps.to_image(metres, self.spec, feed.view) for metres, feed in zip(maps, feeds)])


Graph = Union[Pictures, Sounds, Depths]
GRAPHS: dict[str, Callable[[VisualSpec, torch.device], Graph]] = {
    "image": Pictures,
    "video": Pictures,
    "audio": Sounds,
    "depth": Depths,
}
