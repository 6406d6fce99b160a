"""Register four modalities whose files are all plain pictures: ``mmcl-fast --use demo/picture_modalities.py ...``.

The stream ``masked`` has them. Nothing but the content of a picture says which modality it belongs to.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from mmcl_fast.media import register

NAMES = ("photograph", "frame", "depth_map", "spectrogram")


def read_picture(file: BinaryIO) -> np.ndarray:
    """Read any picture as grey values in 0..1, float32 ``[H, W]``."""
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


for _name in NAMES:
    register(_name, read_picture)
