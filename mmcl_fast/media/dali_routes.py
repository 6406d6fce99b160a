"""Which files DALI decodes, found by a look at the header before anything is decoded.

A route is ``(source, spec, view, gpu) -> Feed | None``; None: the cpu backend reads the file, because DALI would
refuse it, would decode it otherwise, or because the header breaks a limit, which the cpu backend says properly.
A route may raise anything for broken bytes; the engine takes that for None.
"""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass

import numpy as np

from mmcl_fast.media import picture, video as clips
from mmcl_fast.media.source import FORMATS, Source, is_cover, open_av, read_bytes, size_of
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View, region

MAX_FILE = 1 << 28  # bytes; larger files are not read whole into memory
PICTURES = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "JPEG2000")
SOUNDS = ("WAV", "WAVEX", "FLAC", "OGG")
CONTAINERS = ("mov", "matroska", "avi")
CODECS = ("vp8", "vp9", "mjpeg")                      # that DALI decodes without a GPU
GPU_CODECS = ("h264", "hevc", "av1", "mpeg4", *CODECS)  # by NVDEC
LONG = 4  # windows; of a longer recording the cpu backend reads only the part that is wanted


@dataclass(frozen=True)
class Feed:
    """What an item gives to its pipeline.

    Attributes:
        arrays: one numpy array for each input of the pipeline.
        cost: bytes of the decoded item.
        kind: format and mode: what DALI either can decode or cannot.
        view: the random view.
        samples, rate: of a recording, as its header has them.
    """

    arrays: tuple[np.ndarray, ...]
    cost: int
    kind: tuple[str, ...]
    view: View
    samples: int = 0
    rate: int = 0


def image(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Pictures of 8 bits in grey or RGB, without transparency, not animated, not cut short."""
    from PIL import Image

    data = _bytes(source)
    with Image.open(io.BytesIO(data), formats=FORMATS) as im:
        if (im.format not in PICTURES or im.mode not in ("RGB", "L") or im.has_transparency_data
                or picture._deep(im) or im.width * im.height > spec.max_pixels or im.info.get("interlace")
                or (im.format not in ("MPO", "TIFF") and getattr(im, "is_animated", False))):
            return None
        if im.format in ("JPEG", "MPO"):
            # Cut short: a decoder may fill the rest with grey. Without Adobe's transform: RGB, not YCbCr.
            if not _ends(data, b"\xff\xd9") or im.info.get("adobe_transform") == 0:
                return None
        elif im.format == "PNG" and not _ends(data, b"IEND\xaeB`\x82"):
            return None
        elif im.format == "WEBP" and data[12:16] not in (b"VP8 ", b"VP8L"):
            return None
        orientation = im.getexif().get(0x0112, 1)
        if orientation != 1 and (im.format not in ("JPEG", "MPO") or "exif" not in im.info):
            return None
        width, height = im.size if orientation not in (5, 6, 7, 8) else im.size[::-1]
        kind = (im.format, im.mode)
    return Feed((_array(data), *_roi(width, height, spec, view)), width * height * 3, kind, view)


def depth(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """PNG of 16 bits in grey."""
    from PIL import Image

    data = _bytes(source)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
        if (not im.mode.startswith("I") or im.width * im.height > spec.max_pixels or im.info.get("interlace")
                or getattr(im, "is_animated", False) or not _ends(data, b"IEND\xaeB`\x82")):
            return None
        return Feed((_array(data),), im.width * im.height * 2, ("PNG", im.mode), view)


def audio(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """WAV, FLAC and OGG of a few windows at most."""
    import soundfile

    data = _bytes(source)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, samples = file.samplerate, file.frames
        seconds = samples / rate
        if (file.format not in SOUNDS or not 0 < seconds <= min(LONG * spec.seconds, spec.max_seconds)
                or not 1000 <= rate <= 1_000_000):
            return None
        return Feed((_array(data),), samples * 4, (file.format, file.subtype), view, samples, rate)


def video(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Upright videos of 8 bits in 4:2:0, whose packets last as long as the header says."""
    data = _bytes(source)
    if _turned(data):
        return None
    with open_av(data) as container:
        stream = next(s for s in container.streams.video if not is_cover(s))
        context, clock = stream.codec_context, clips._clock(container, stream)
        width, height, codec = context.width, context.height, context.name.removeprefix("lib").split("-")[0]
        codec = "av1" if codec == "dav1d" else codec
        if (clock is None or width * height > spec.max_pixels or clock.duration * clock.base > spec.max_seconds
                or container.format.name.split(",")[0] not in CONTAINERS or stream != container.streams.video[0]
                or codec not in (GPU_CODECS if gpu else CODECS) or context.pix_fmt not in ("yuv420p", "yuvj420p")):
            return None
        times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    end = clock.start + clock.duration
    if not times or (end - times[-1] - clock.frame) * clock.base > max(0.5, 0.1 * clock.duration * clock.base):
        return None
    wanted = (clock.start + int((i + 0.5) * clock.duration / spec.frames) for i in range(spec.frames))
    frames = np.int32([max(bisect.bisect_right(times, time) - 1, 0) for time in wanted])
    arrays = _array(data), frames, *_roi(width, height, spec, view, whole=True)
    return Feed(arrays, spec.frames * width * height * 3, (codec, context.pix_fmt), view)


ROUTES = {"image": image, "video": video, "audio": audio, "depth": depth}


def _bytes(source: Source) -> bytes:
    if not 0 < size_of(source) <= MAX_FILE:
        raise ValueError("empty or too large")
    return read_bytes(source)


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _ends(data: bytes, mark: bytes) -> bool:
    """Whether the file ends with ``mark``, zeros and line ends behind it aside."""
    return data[-1024:].rstrip(b"\0\r\n").endswith(mark)


def _roi(width: int, height: int, spec: VisualSpec, view: View, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the region, as (y, x); its sides exchanged where the view is flipped.

    ``whole``: begins and ends on whole pixels of the frame as scaled, where the cpu backend cuts a video.
    """
    left, top, right, bottom = region(width, height, spec, view)
    if whole:
        left, right = _on_pixels(left, right, width, spec.size)
        top, bottom = _on_pixels(top, bottom, height, spec.size)
    if view.flip:
        left, right = right, left
    return np.float32([top, left]), np.float32([bottom, right])


def _on_pixels(begin: float, end: float, length: int, size: int) -> tuple[float, float]:
    scale = size / (end - begin)
    full = max(round(length * scale), size)
    first = min(round(begin * scale), full - size)
    return first * length / full, (first + size) * length / full


def _turned(data: bytes) -> bool:
    """Whether a header of a track may ask for a rotation, which av tells only with a decoded frame.

    In mp4 and mov: a ``tkhd`` box whose matrix is not the identity (ISO 14496-12, 8.3.2); in Matroska: a Projection
    element.
    """
    if data.startswith(b"\x1aE\xdf\xa3"):
        return b"\x76\x70" in data[:4096]
    upright = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16))
    place = data.find(b"tkhd")
    while place >= 0:
        matrix = place + (56 if data[place + 4] else 44)  # version 1 has times of 64 bits
        if data[matrix:matrix + 20] != upright:
            return True
        place = data.find(b"tkhd", place + 4)
    return False
