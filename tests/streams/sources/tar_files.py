"""Tars and their members."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media.files import tone


def png(seed: int, dtype: type = np.uint8) -> bytes:
    data = io.BytesIO()
    shape = (8, 8, 3) if dtype == np.uint8 else (8, 8)
    Image.fromarray(np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)).save(data, "PNG")
    return data.getvalue()


def wav(seed: int) -> bytes:
    import soundfile

    data = io.BytesIO()
    soundfile.write(data, tone(200 + seed, 8000), 8000, format="WAV")
    return data.getvalue()


def pack(path: Path, members: list, kind: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar. ``members``: pairs of a name, or a TarInfo, and the content: bytes, str, or a dict for JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = json.dumps(content) if isinstance(content, dict) else content
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special_member(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    """Return a link, device or pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info
