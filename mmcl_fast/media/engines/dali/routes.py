"""Which files DALI decodes, found by a look at the header before anything is decoded.

A route is ``(source, spec, view, gpu) -> Feed | None``; None: the cpu backend reads the file, because DALI would
refuse it, would decode it otherwise, or because the header breaks a limit, which the cpu backend says properly.
A route may raise anything for broken bytes; the engine takes that for None.
"""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcl_fast.media.dsp.views import View, view_region
from mmcl_fast.media.formats import PILLOW_FORMATS
from mmcl_fast.media.readers.audio.audio import ReadPlan, make_plan
from mmcl_fast.media.readers.audio.sample_checks import check_format
from mmcl_fast.media.readers.image import pillow_image, png
from mmcl_fast.media.readers.video.display_matrix import UPRIGHT, pixel_aspect_ratio, read_display_matrix
from mmcl_fast.media.readers.video.timeline import timeline_from_header
from mmcl_fast.media.readers.video.tracks import find_video_track
from mmcl_fast.media.source import Source, open_av, read_bytes, size_of
from mmcl_fast.media.spec import VisualSpec

MAX_FILE = 1 << 28  # bytes; larger files are not read whole into memory
PICTURES = ("JPEG", "MPO", "PNG", "WEBP", "BMP")  # not TIFF, JPEG 2000: DALI reads broken ones with holes in them
SOUNDS = ("WAV", "WAVEX", "FLAC", "OGG")
CODECS = ("vp8", "vp9", "mjpeg")  # that DALI decodes without a GPU
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
        seconds: that a clip plays.
    """

    arrays: tuple[np.ndarray, ...]
    cost: int
    kind: tuple[str, ...]
    view: View
    samples: int = 0
    rate: int = 0
    seconds: float = 0.0


def image(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Pictures of 8 bits in grey or RGB, without transparency, not animated, not cut short."""
    from PIL import Image

    data = _bytes(source, spec)
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as im:
        if (
            im.format not in PICTURES
            or im.mode not in ("RGB", "L")
            or im.has_transparency_data
            or pillow_image.has_16_bits(im)
            or im.width * im.height > spec.max_pixels
            or im.info.get("interlace")
            or (im.format != "MPO" and getattr(im, "is_animated", False))
        ):
            return None
        orientation = 1
        if im.format in ("JPEG", "MPO"):
            orientation = im.getexif().get(0x0112, 1)
            # Cut short: a decoder may fill the rest with grey. Without Adobe's transform: RGB, not YCbCr.
            if (
                not _ends(data, b"\xff\xd9")
                or im.info.get("adobe_transform") == 0
                or (orientation != 1 and "exif" not in im.info)
            ):  # but in XMP
                return None
        elif im.format == "PNG":  # getexif would decode it
            if not _ends(data, b"IEND\xaeB`\x82") or _may_be_turned(data):
                return None
        elif im.format == "WEBP":
            if data[12:16] not in (b"VP8 ", b"VP8L") or _number(data[4:8]) + 8 != len(data):
                return None
        elif _number(data[2:6]) > len(data) or not _plain_bmp(im):
            return None
        width, height = im.size if orientation not in (5, 6, 7, 8) else im.size[::-1]
        kind = (im.format, im.mode)
    return Feed((_array(data), *_roi(width, height, spec, view)), width * height * 3, kind, view)


def depth(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """PNG of 16 bits in grey, not turned."""
    from PIL import Image

    data = _bytes(source, spec)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
        if (
            not im.mode.startswith("I")
            or im.width * im.height > spec.max_pixels
            or im.info.get("interlace")
            or getattr(im, "is_animated", False)
            or not _ends(data, b"IEND\xaeB`\x82")
            or _may_be_turned(data)
        ):
            return None
        return Feed((_array(data),), im.width * im.height * 2, ("PNG", im.mode), view)


def audio(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """WAV, FLAC and OGG of a few windows at most, whose header states their true length and which are no chain."""
    import soundfile

    data = _bytes(source, spec)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, samples = file.samplerate, file.frames
        seconds = samples / rate
        check_format(rate, file.channels)
        if make_plan(data, file, whole=True) != ReadPlan():
            return None
        if file.format not in SOUNDS or not 0 < seconds <= min(LONG * spec.seconds, spec.max_seconds):
            return None
        return Feed((_array(data),), samples * 4, (file.format, file.subtype), view, samples, rate)


def video(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Upright mp4, mov, mkv and webm of 8 bits in 4:2:0 with one film, whose packets last as the header says.

    DALI 2.4's decoder can crash the process over a damaged file: so the first frame is decoded here, which also tells
    the rotation, container and frames must state one size, and AVI, with its index at the end, is left out.
    """
    data = _bytes(source, spec)
    with open_av(data) as container:
        stream = find_video_track(container)
        if stream is None or len(container.streams.video) > 1:  # DALI may take another one, such as a cover
            return None
        context, timeline = stream.codec_context, timeline_from_header(container, stream)
        width, height = context.width, context.height
        codec = {"libdav1d": "av1", "libvpx-vp9": "vp9"}.get(context.name, context.name)
        if (
            timeline is None
            or (spec.resize == "crop" and pixel_aspect_ratio(stream) != 1)
            or width * height > spec.max_pixels
            or timeline.seconds > spec.max_seconds
            or not _states(data, container, width, height)
            or codec not in (GPU_CODECS if gpu else CODECS)
        ):
            return None
        context.thread_count = 1
        times, frame = [], None
        for packet in container.demux(stream):
            if packet.size:
                if packet.pts is None or packet.is_discard:  # nothing says when it is shown, or it never is
                    return None
                times.append(packet.pts)
                if packet.is_keyframe and not _sized(bytes(packet), codec, width, height):
                    return None
            if frame is None:
                frame = next(iter(packet.decode()), None)
    end = timeline.start + timeline.duration
    if (
        frame is None
        or read_display_matrix(frame) not in (None, UPRIGHT)
        or (frame.width, frame.height) != (width, height)
        or frame.format.name not in ("yuv420p", "yuvj420p")
        or (end - max(times) - timeline.frame_duration) * timeline.tick
        > max(0.5, 0.1 * timeline.duration * timeline.tick)
    ):
        return None
    times.sort()
    wanted = (timeline.start + int((i + 0.5) * timeline.duration / spec.frames) for i in range(spec.frames))
    frames = np.array([max(bisect.bisect_right(times, time) - 1, 0) for time in wanted], np.int32)
    arrays = _array(data), frames, *_roi(width, height, spec, view, whole=True)
    cost = spec.frames * width * height * 3
    return Feed(arrays, cost, (codec, frame.format.name), view, seconds=timeline.seconds)


ROUTES = {"image": image, "video": video, "audio": audio, "depth": depth}


def _bytes(source: Source, spec: VisualSpec) -> bytes:
    if not 0 < size_of(source) <= min(MAX_FILE, spec.max_bytes):
        raise ValueError("empty, no file or too large")
    return read_bytes(source)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _may_be_turned(data: bytes) -> bool:
    """Whether a PNG may state an orientation, which DALI does not read; Pillow knows only what precedes the pixels."""
    return png.ORIENTATION in png.chunk_names(data)


def _plain_bmp(im: Any) -> bool:
    """Whether a BMP has 24 bits, or 8 of grey, and no compression: others differ between readers."""
    codec, _, _, how = im.tile[0]
    return codec == "raw" and how[0] in ("BGR", "L")


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _ends(data: bytes, mark: bytes) -> bool:
    """Whether the file ends with ``mark``, zeros and line ends behind it aside."""
    return data[-1024:].rstrip(b"\0\r\n").endswith(mark)


def _roi(width: int, height: int, spec: VisualSpec, view: View, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the region, as (y, x); its sides exchanged where the view is flipped.

    ``whole``: begins and ends on whole pixels of the frame as scaled, where the cpu backend cuts a video.
    """
    left, top, right, bottom = view_region(width, height, spec, view)
    if whole:
        left, right = _on_pixels(left, right, width, spec.size)
        top, bottom = _on_pixels(top, bottom, height, spec.size)
    if view.flip:
        left, right = right, left
    return np.array([top, left], np.float32), np.array([bottom, right], np.float32)


def _on_pixels(begin: float, end: float, length: int, size: int) -> tuple[float, float]:
    scale = size / (end - begin)
    full = max(round(length * scale), size)
    first = min(round(begin * scale), full - size)
    return first * length / full, (first + size) * length / full


def _states(data: bytes, container: Any, width: int, height: int) -> bool:
    """Whether the header of an mp4, mov, mkv or webm file holds this size, as av need not have it from there.

    A sample entry holds both in 16 bits (ISO 14496-12, 12.1.3), Matroska has PixelWidth (B0) and PixelHeight (BA).
    """
    kind = container.format.name.split(",")[0]
    if kind == "mov":
        return width.to_bytes(2, "big") + height.to_bytes(2, "big") in data
    return kind == "matroska" and all(
        any(
            mark + bytes([0x80 + size]) + number.to_bytes(size, "big") in data
            for size in (1, 2, 3, 4, 8)
            if number < 1 << 8 * size
        )
        for mark, number in ((b"\xb0", width), (b"\xba", height))
    )


def _sized(packet: bytes, codec: str, width: int, height: int) -> bool:
    """Whether a key frame is of this size: of another, DALI's decoder without a GPU writes beyond its buffer.

    JPEG: a baseline frame header (ITU-T T.81, B.2.2). VP8: RFC 6386, 9.1. VP9: 16 bits each, less one, behind 36 bits
    in profile 0 (bitstream specification, 6.2).
    """
    if codec == "mjpeg":
        return b"\xff\xc0\0\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") in packet
    if codec == "vp8":
        return packet[6:10] == width.to_bytes(2, "little") + height.to_bytes(2, "little")
    if codec == "vp9":
        return int.from_bytes(packet[4:9], "big") >> 4 & 0xFFFFFFFF == width - 1 << 16 | height - 1
    return True
