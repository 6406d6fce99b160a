"""The CPU backend: Pillow for pictures, soundfile and PyAV for sound, PyAV for video.

A backend is a module with ``image``, ``video``, ``audio`` and ``depth``, each
``(source, spec, view, whole=False) -> Tensor``: uint8 ``[F, 3, size, size]`` in 0..255 or float
``[F, 3 or 1, size, size]`` in 0..1. ``whole`` reads to the end of the file, so that a check sees all of it.
"""

from mmcl_fast.media.readers.audio.audio import audio
from mmcl_fast.media.readers.depth.depth_files import depth
from mmcl_fast.media.readers.image.pillow_image import image
from mmcl_fast.media.readers.video.video import video

__all__ = ["audio", "depth", "image", "video"]
