"""A file or its bytes, named for messages."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, Union

from mmcl_fast.errors import MediaError
from mmcl_fast.media.spec import VisualSpec

Source = Union[str, Path, bytes]

# Demuxers that may open: no playlists, no concatenation, nothing that reaches for other files or the network.
DEMUXERS = ("mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,asf,"
            "ogg,mp3,aac,flac,wav,w64,aiff,caf,amr,ac3,eac3,png_pipe,tiff_pipe")


# Picture formats that may open: no EPS, which runs another program.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")


def name_of(source: Source) -> str:
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def open_binary(source: Source) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def head(source: Source, size: int) -> bytes:
    """The first ``size`` bytes, fewer where there are fewer."""
    with open_binary(source) as file:
        return file.read(size)


def open_av(source: Source):
    """An av container; a name with a colon is a file's name, not a protocol."""
    import av

    target = io.BytesIO(source) if isinstance(source, bytes) else "file:" + os.path.abspath(source)
    return av.open(target, options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS},
                   metadata_errors="replace")


def is_cover(stream) -> bool:
    """Whether a video stream is a picture attached to a recording."""
    return "attached_pic" in str(stream.disposition)


def limit_seconds(seconds: float, spec: VisualSpec) -> None:
    if seconds > spec.max_seconds:
        raise MediaError(f"lasts {seconds:.0f} s, the limit is {spec.max_seconds:g} s: "
                         "cut it or raise max_seconds")
