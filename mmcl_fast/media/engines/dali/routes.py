"""The choice of files that DALI decodes, made from their headers before anything is decoded.

A route takes ``(source, spec, view, gpu)`` and returns a Feed, or None to leave the file to the CPU backend. It returns
None if DALI would refuse the file or decode it to other pixels. A header that breaks a limit is left to the CPU
backend, too, which gives the right message. A route may raise anything for broken bytes, which means None, too.
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

MAX_FILE = 1 << 28  # bytes; a larger file is not read into memory at once
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP")  # not TIFF and JPEG 2000: DALI reads broken files with holes
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
CPU_CODECS = ("vp8", "vp9", "mjpeg")  # codecs that DALI decodes without a GPU
GPU_CODECS = ("h264", "hevc", "av1", "mpeg4", *CPU_CODECS)  # decoded by NVDEC
MAX_WINDOWS = 4  # of a longer recording the CPU backend reads only the wanted part


@dataclass(frozen=True)
class Feed:
    """The inputs of the pipeline for one item.

    Attributes:
        arrays: one numpy array for each input of the pipeline.
        cost: bytes of the decoded item.
        kind: format and mode. DALI can decode either all files of a kind or none.
        view: the random view.
        samples, rate: of a recording, by its header.
        seconds: duration of a video.
    """

    arrays: tuple[np.ndarray, ...]
    cost: int
    kind: tuple[str, ...]
    view: View
    samples: int = 0
    rate: int = 0
    seconds: float = 0.0


def route_image(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Accept images of 8 bits in grey or RGB, without transparency or animation, and not cut short."""
    from PIL import Image

    data = _read_limited(source, spec)
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as im:
        if (
            im.format not in IMAGE_FORMATS
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
            # A decoder may fill a file that is cut short with grey. Without Adobe's transform the colours are RGB. An
            # orientation without EXIF comes from XMP, which DALI does not read.
            if (
                not _ends_with(data, b"\xff\xd9")
                or im.info.get("adobe_transform") == 0
                or (orientation != 1 and "exif" not in im.info)
            ):
                return None
        elif im.format == "PNG":  # getexif would decode the pixels
            if not _ends_with(data, b"IEND\xaeB`\x82") or _may_be_turned(data):
                return None
        elif im.format == "WEBP":
            if data[12:16] not in (b"VP8 ", b"VP8L") or _little_endian(data[4:8]) + 8 != len(data):
                return None
        elif _little_endian(data[2:6]) > len(data) or not _is_plain_bmp(im):
            return None
        width, height = im.size if orientation not in (5, 6, 7, 8) else im.size[::-1]
        kind = (im.format, im.mode)
    return Feed((_array(data), *_roi(width, height, spec, view)), width * height * 3, kind, view)


def route_depth(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Accept upright PNG of 16 bits in grey."""
    from PIL import Image

    data = _read_limited(source, spec)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
        if (
            not im.mode.startswith("I")
            or im.width * im.height > spec.max_pixels
            or im.info.get("interlace")
            or getattr(im, "is_animated", False)
            or not _ends_with(data, b"IEND\xaeB`\x82")
            or _may_be_turned(data)
        ):
            return None
        return Feed((_array(data),), im.width * im.height * 2, ("PNG", im.mode), view)


def route_audio(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Accept short WAV, FLAC and Ogg files whose header states their true length, and no chains."""
    import soundfile

    data = _read_limited(source, spec)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, samples = file.samplerate, file.frames
        seconds = samples / rate
        check_format(rate, file.channels)
        if make_plan(data, file, to_end=True) != ReadPlan():
            return None
        if file.format not in AUDIO_FORMATS or not 0 < seconds <= min(MAX_WINDOWS * spec.seconds, spec.max_seconds):
            return None
        return Feed((_array(data),), samples * 4, (file.format, file.subtype), view, samples, rate)


def route_video(source: Source, spec: VisualSpec, view: View, gpu: bool) -> Feed | None:
    """Accept upright mp4, mov, mkv and webm files: one video track, 8 bits, 4:2:0, a true duration in the header.

    DALI 2.4's decoder can crash the process over a damaged file. So the first frame is decoded here, which also gives
    the rotation. Container and frames must state the same size. AVI, with its index at the end, is not accepted.
    """
    data = _read_limited(source, spec)
    with open_av(data) as container:
        stream = find_video_track(container)
        if stream is None or len(container.streams.video) > 1:  # DALI may choose another track, such as a cover
            return None
        context, timeline = stream.codec_context, timeline_from_header(container, stream)
        width, height = context.width, context.height
        codec = {"libdav1d": "av1", "libvpx-vp9": "vp9"}.get(context.name, context.name)
        if (
            timeline is None
            or (spec.resize == "crop" and pixel_aspect_ratio(stream) != 1)
            or width * height > spec.max_pixels
            or timeline.seconds > spec.max_seconds
            or not _container_states_size(data, container, width, height)
            or codec not in (GPU_CODECS if gpu else CPU_CODECS)
        ):
            return None
        context.thread_count = 1
        times, frame = [], None
        for packet in container.demux(stream):
            if packet.size:
                if packet.pts is None or packet.is_discard:  # the time of the frame is unknown, or it is never shown
                    return None
                times.append(packet.pts)
                if packet.is_keyframe and not _key_frame_has_size(bytes(packet), codec, width, height):
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
    arrays = _array(data), frames, *_roi(width, height, spec, view, on_pixels=True)
    cost = spec.frames * width * height * 3
    return Feed(arrays, cost, (codec, frame.format.name), view, seconds=timeline.seconds)


ROUTES = {"image": route_image, "video": route_video, "audio": route_audio, "depth": route_depth}


def _read_limited(source: Source, spec: VisualSpec) -> bytes:
    """Return all bytes. Raises ValueError for an empty file or one that is too large."""
    if not 0 < size_of(source) <= min(MAX_FILE, spec.max_bytes):
        raise ValueError("empty, no file or too large")
    return read_bytes(source)


def _little_endian(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _may_be_turned(data: bytes) -> bool:
    """Return whether a PNG may state an orientation, which DALI ignores and Pillow may see only behind the pixels."""
    return png.ORIENTATION in png.chunk_names(data)


def _is_plain_bmp(im: Any) -> bool:
    """Return whether a BMP has 24 bits, or 8 of grey, and no compression. Readers disagree about others."""
    codec, _, _, arguments = im.tile[0]
    return codec == "raw" and arguments[0] in ("BGR", "L")


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _ends_with(data: bytes, mark: bytes) -> bool:
    """Return whether the file ends with ``mark``, apart from zeros and line ends."""
    return data[-1024:].rstrip(b"\0\r\n").endswith(mark)


def _roi(
    width: int, height: int, spec: VisualSpec, view: View, on_pixels: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return begin and end of the view's region as (y, x). For a flipped view left and right are exchanged.

    ``on_pixels``: round to whole pixels of the scaled frame, where the CPU backend cuts a video.
    """
    left, top, right, bottom = view_region(width, height, spec, view)
    if on_pixels:
        left, right = _on_pixels(left, right, width, spec.size)
        top, bottom = _on_pixels(top, bottom, height, spec.size)
    if view.flip:
        left, right = right, left
    return np.array([top, left], np.float32), np.array([bottom, right], np.float32)


def _on_pixels(begin: float, end: float, length: int, size: int) -> tuple[float, float]:
    """Round a range so that it begins and ends on whole pixels after scaling to ``size``."""
    scale = size / (end - begin)
    full = max(round(length * scale), size)
    first = min(round(begin * scale), full - size)
    return first * length / full, (first + size) * length / full


def _container_states_size(data: bytes, container: Any, width: int, height: int) -> bool:
    """Return whether the header of an mp4, mov, mkv or webm file states this size; PyAV may have it from the codec.

    A sample entry holds both numbers in 16 bits (ISO 14496-12, 12.1.3). Matroska has PixelWidth (B0) and PixelHeight
    (BA).
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


def _key_frame_has_size(packet: bytes, codec: str, width: int, height: int) -> bool:
    """Return whether a key frame has this size. Otherwise DALI's decoder without a GPU writes beyond its buffer.

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
