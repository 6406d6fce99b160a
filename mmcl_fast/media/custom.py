"""Modalities of one's own: a function reads a file to planes of numbers, and the encoder sees them as a picture."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media.dsp.views import View, fit
from mmcl_fast.media.source import Source, open_binary
from mmcl_fast.media.spec import BUILT_IN, MODALITIES, VISUAL, VisualSpec

Reader = Callable[[BinaryIO], Any]
READERS: dict[str, Reader] = {}


def register(modality: str, read: Reader) -> None:
    """Add a modality to those of ``MODALITIES``, for this process.

    Args:
        modality: its name in folders, manifests and results: small letters, digits and ``_``.
        read: an open file -> an array or tensor of numbers in 0..1, ``[H, W]``, ``[1, H, W]`` or ``[3, H, W]`` of any
            size. Crop, resize, random views and normalisation follow, as the encoder's spec says. What it raises about
            broken bytes becomes a MediaError with the file's name.

    The content of a file does not tell such a modality: ``predict`` wants to be told. Trunk tokens are kept under the
    source code of ``read``'s module, so that a changed reader reads anew.

    Raises:
        ConfigError: a name that can't be one or is taken, or a function without source code.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", modality):
        raise ConfigError(f"modality {modality!r}: give a name of small letters, digits and _, a letter first")
    if modality in BUILT_IN:
        raise ConfigError(f"modality {modality!r}: has its own reader; give another name")
    code_of(read)
    if modality not in READERS:
        MODALITIES.append(modality)
        VISUAL.append(modality)
    READERS[modality] = read


def code_of(read: Reader) -> str:
    """sha256 over the source code that reads; ConfigError where there is none."""
    try:
        file = inspect.getsourcefile(read)
        code = Path(file).read_bytes() if file and Path(file).is_file() else inspect.getsource(read).encode()
    except (OSError, TypeError):
        raise ConfigError(f"{read!r}: its source code is not to be found; define the reader in a .py file") from None
    return hashlib.sha256(code).hexdigest()


def backend(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A file of a registered modality to ``[1, 1 or 3, size, size]`` in 0..1."""
    with open_binary(source) as file:
        planes = torch.as_tensor(READERS[spec.modality](file), dtype=torch.float32)
    if planes.dim() == 2:
        planes = planes[None]
    if planes.dim() != 3 or planes.shape[0] not in (1, 3) or not planes.numel():
        raise MediaError(
            f"the reader of {spec.modality} gave shape {list(planes.shape)}: let it give [H, W], [1, H, W] or [3, H, W]"
        )
    low, high = planes.aminmax()
    if not (low >= 0 and high <= 1):
        raise MediaError(f"the reader of {spec.modality} gave numbers from {low:g} to {high:g}: let it give 0 to 1")
    return fit(planes, spec, view).clamp(0, 1)[None]
