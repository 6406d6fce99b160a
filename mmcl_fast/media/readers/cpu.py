"""The CPU backend: one function for each built-in modality that becomes an image.

Pillow reads images, soundfile and PyAV read audio, and PyAV reads video.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmcl_fast.media.readers.audio.audio import read_audio
from mmcl_fast.media.readers.depth.depth_files import read_depth
from mmcl_fast.media.readers.image.pillow_image import read_image
from mmcl_fast.media.readers.video.video import read_video

# Each takes (source, spec, view, to_end=False). It returns uint8 [F, 3, size, size] in 0..255, or float
# [F, 3 or 1, size, size] in 0..1. With to_end=True it reads to the end of the file, so that a check sees all of it.
READERS: dict[str, Callable[..., Tensor]] = {
    "image": read_image,
    "video": read_video,
    "audio": read_audio,
    "depth": read_depth,
}
