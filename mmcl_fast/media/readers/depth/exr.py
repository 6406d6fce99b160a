"""The depth channel of an OpenEXR file, by the library OpenEXR where it is installed, and by FFmpeg otherwise.

FFmpeg stays because PyAV is always installed. It lacks DWA and newer compressions, several parts and whole numbers,
and it does not notice damage inside a chunk.
"""

from __future__ import annotations

import io
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.media.readers.depth.exr_header import SAVE, UINT, Channel, Part, choose_channel, read_parts
from mmcl_fast.media.spec import VisualSpec

INSTALL = f"pip install 'mmcl-fast[exr]', or {SAVE}"
FFMPEG_COMPRESSIONS = 8  # none to B44A
MOST_CHANNELS = 16  # of all parts; OpenEXR decodes each of them, FFmpeg only the one that is wanted


def read_exr(data: bytes, spec: VisualSpec) -> np.ndarray:
    """Return the depth channel ``[H, W]`` over the display window: float16, float32 or uint32, 0 where no data are.

    Both ways give the same values. ``choose_channel`` says which channel it is.

    Raises:
        MediaError: there is no such channel, the file is damaged or too large, or only OpenEXR could read it.
    """
    parts = read_parts(data, spec)
    number, channel = choose_channel(parts)
    if channel.sampling != (1, 1):
        raise MediaError(f"channel {channel.name.decode(errors='replace')!r} is subsampled: {SAVE}")
    library, problem = _import_openexr(), _ffmpeg_problem(parts, channel)
    if problem is None and (library is None or not _suits_openexr(parts)):
        pixels = _decode_by_ffmpeg(data, parts[0], channel)
    elif library is None:
        raise MediaError(f"{problem}: {INSTALL}")
    else:
        _limit_channels(parts, spec)
        pixels = _decode_by_openexr(library, data, number, channel)
    return _place_in_display_window(pixels, parts[number])


@cache
def _import_openexr() -> ModuleType | None:
    try:
        import OpenEXR
    except ImportError:
        return None
    return OpenEXR


def _ffmpeg_problem(parts: list[Part], channel: Channel) -> str | None:
    """Return why FFmpeg cannot read a channel; None: it can."""
    if len(parts) > 1:
        return "an OpenEXR file with several parts"
    if parts[0].compression >= FFMPEG_COMPRESSIONS:
        return "an OpenEXR file with DWA or a newer compression"
    name = channel.name.decode(errors="replace")
    if channel.pixel_type == UINT:
        return f"an OpenEXR file whose channel {name!r} holds whole numbers"
    if len(channel.name) == 2:  # no name of two letters ends in ".Y"
        return f"an OpenEXR file whose channel {name!r} has a name of two letters"
    return None


def _suits_openexr(parts: list[Part]) -> bool:
    """Return whether the file has few channels, and only names that the library's Python module can decode."""
    names = [channel.name for part in parts for channel in part.channels]
    return len(names) <= MOST_CHANNELS and all(name.isascii() for name in names)


def _limit_channels(parts: list[Part], spec: VisualSpec) -> None:
    """Raise MediaError for a file whose channels would take too much memory together."""
    count = 0
    for part in parts:
        left, top, right, bottom = part.data_window
        count += (right - left + 1) * (bottom - top + 1) * len(part.channels)
    if count > MOST_CHANNELS * spec.max_pixels:
        raise MediaError(
            f"{count} numbers in all channels, the limit is {MOST_CHANNELS} times max_pixels: "
            f"{SAVE}, or raise max_pixels"
        )


def _place_in_display_window(pixels: np.ndarray, part: Part) -> np.ndarray:
    if part.data_window == part.display_window:
        return pixels
    left, top, right, bottom = part.display_window
    canvas = np.zeros((bottom - top + 1, right - left + 1), pixels.dtype)
    x, y = part.data_window[0] - left, part.data_window[1] - top
    inside = pixels[max(0, -y) : max(0, len(canvas) - y), max(0, -x) : max(0, canvas.shape[1] - x)]
    x, y = max(0, x), max(0, y)
    canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return canvas


def _decode_by_openexr(library: ModuleType, data: bytes, number: int, channel: Channel) -> np.ndarray:
    """Decode one channel over the data window of the part ``number``."""
    # Without threads of its own: the loader's threads and processes decode one file each.
    with _silence_stdout(), library.File(io.BytesIO(data), separate_channels=True, num_threads=0) as file:
        if len(file.parts) <= number:  # it leaves out what it cannot decode
            raise MediaError("an OpenEXR file that is damaged: replace it")
        return file.parts[number].channels[channel.name.decode("utf-8", "replace")].pixels


class _OtherThreads:
    """Passes on what other threads write to a stream, and drops what this thread writes."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_stdout_lock = threading.Lock()


@contextmanager
def _silence_stdout() -> Iterator[None]:
    """Keep commands' output clean: OpenEXR prints a line to ``sys.stdout`` for each part that it cannot decode."""
    with _stdout_lock:  # costs little, because OpenEXR holds the interpreter's lock while it decodes
        before, proxy = sys.stdout, _OtherThreads(sys.stdout)
        sys.stdout = proxy
        try:
            yield
        finally:
            if sys.stdout is proxy:
                sys.stdout = before


def _decode_by_ffmpeg(data: bytes, part: Part, wanted: Channel) -> np.ndarray:
    """Decode one channel over the data window, after changes to the header.

    FFmpeg knows the channels R, G, B, A and Y, alone or behind a layer's name and a dot. So the wanted channel gets a
    name of the same length that ends in Y. The others get names that FFmpeg passes over. Both windows are moved to the
    origin, because FFmpeg ignores where the display window begins.
    """
    import av

    patched, options = bytearray(data), {}
    for channel in part.channels:
        length = len(channel.name)
        new_name = b"_" * length
        if channel is wanted:
            new_name = b"Y" if length == 1 else b"_" * (length - 2) + b".Y"
            options = {"layer": "_" * (length - 2)} if length > 1 else {}
        patched[channel.offset : channel.offset + length] = new_name
    left, top, right, bottom = part.data_window
    for offset in part.window_offsets:
        struct.pack_into("<4i", patched, offset, 0, 0, right - left, bottom - top)
    if top and part.tile is None:  # chunks of rows begin with the first row's number, tiles with their own
        for chunk in part.chunks:
            (row,) = struct.unpack_from("<i", data, chunk)
            struct.pack_into("<i", patched, chunk, row - top)
    decoder = av.CodecContext.create("exr", "r")
    decoder.thread_count, decoder.options = 1, options
    frame = (decoder.decode(av.Packet(bytes(patched))) or decoder.decode(None))[0]
    plane = np.frombuffer(memoryview(frame.planes[0]), np.float16 if "f16" in frame.format.name else np.float32)
    return plane.reshape(frame.height, -1)[:, : frame.width]
