"""Modalities that a user adds: a function reads a file to planes of numbers, and the encoder sees them as an image."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import View, crop_and_resize
from mmcl_fast.media.registry import REGISTRY, Reader
from mmcl_fast.media.source import Source, open_binary
from mmcl_fast.media.spec import VisualSpec


def register(modality: str, read: Reader) -> None:
    """Add a modality to ``MODALITIES`` in this process, or replace its reader.

    Args:
        modality: its name in folders, manifests and results: small letters, digits and ``_``.
        read: takes an open binary file and returns an array or tensor of numbers in 0..1, ``[H, W]``, ``[1, H, W]`` or
            ``[3, H, W]`` of any size. The encoder's spec then says how it is cropped, resized, augmented and
            normalised. An exception that it raises about broken bytes becomes a MediaError with the file's name.

    The content of a file does not tell such a modality, so ``predict`` needs its name. The key of cached
    trunk tokens contains the source code of the module that defines ``read``. So a changed reader reads all files
    again.

    Raises:
        ConfigError: the name is malformed or built in, or the function has no source code.
    """
    REGISTRY.register(modality, read)


def read_custom(source: Source, spec: VisualSpec, view: View, to_end: bool = False) -> Tensor:
    """Read a file of a registered modality to ``[1, 1 or 3, size, size]`` in 0..1.

    Args:
        source: the file.
        spec: the preparation; its ``modality`` selects the reader.
        view: the part to show.
        to_end: ignored, because the reader always sees the whole file.

    Raises:
        MediaError: the reader returns another shape, or numbers outside 0..1.
    """
    read = REGISTRY.reader(spec.modality)
    assert read is not None
    with open_binary(source) as file:
        planes = torch.as_tensor(read(file), dtype=torch.float32)
    if planes.dim() == 2:
        planes = planes[None]
    if planes.dim() != 3 or planes.shape[0] not in (1, 3) or not planes.numel():
        raise MediaError(
            f"the reader of {spec.modality} gave shape {list(planes.shape)}: let it give [H, W], [1, H, W] or [3, H, W]"
        )
    low, high = planes.aminmax()
    if not (low >= 0 and high <= 1):  # written so that NaN is refused
        raise MediaError(f"the reader of {spec.modality} gave numbers from {low:g} to {high:g}: let it give 0 to 1")
    return crop_and_resize(planes, spec, view).clamp(0, 1)[None]
