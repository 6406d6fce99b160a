"""The bytes of audio that a header states, to find files that are cut short and to repair headers without a size.

A writer that cannot seek back, into a pipe or before a crash, leaves a placeholder for the size. Then the audio reaches
to the end of the file, as FFmpeg and sox assume.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from mmcl_fast.media.readers.audio.file_part import FilePart, make_part
from mmcl_fast.media.source import Source

MAX_HEADER = 1 << 20  # bytes; where the audio begins later, its header is trusted
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
TAG_CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"iXML", b"_PMX", b"JUNK", b"junk", b"smpl", b"fact")
MAX_TAGS_SIZE = 1 << 16  # bytes at the file's end that may be chunks of metadata
PLACEHOLDER_SIZES = range(0x7FFF0000, 0x80010000)  # arecord, sox, mplayer and espeak leave one of these


@dataclass(frozen=True)
class StatedSize:
    """The stated size of something in a file.

    Attributes:
        start: offset of its first byte.
        size: in bytes; None: the header leaves it open.
        what: its name in messages.
    """

    start: int
    size: int | None
    what: str = "audio"


def read_stated_size(file: BinaryIO) -> StatedSize | None:
    """Return the size that the header of an open file states for its audio or for the whole file; None: no size."""
    file.seek(0)
    data = file.read(16)
    for begin, read in _READERS.items():
        if data.startswith(begin):
            try:
                return read(file)
            except (struct.error, IndexError):  # the header itself is cut
                return None
    return _boxes(file) if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") else None


def find_truncation(file: BinaryIO) -> str | None:
    """Return the sign that an open file ends before its stated size, for a message; None: there is none."""
    found, size = read_stated_size(file), file.seek(0, 2)
    if found is None or found.size is None or found.start + found.size <= size:
        return None
    return f"ends after {max(0, size - found.start)} of {found.size} bytes of {found.what}"


def repair_size(source: Source, file: BinaryIO) -> FilePart | None:
    """Return a WAV, RF64, W64, AIFF or CAF file with the size that its header leaves open; None: nothing to repair."""
    found, end = read_stated_size(file), file.seek(0, 2)
    if found is None or found.size is not None or found.start >= end:
        return None
    file.seek(0)
    header = bytearray(file.read(found.start))
    if header[:2] in (b"RI", b"RF", b"BW"):
        end = _end_before_tags(file, found.start, end)
    size = end - found.start
    if header[:4] in (b"RIFF", b"RF64", b"BW64") and end < 0xFFFFFFFF:  # below 4 GiB an RF64 file is as well a RIFF one
        header[:8] = b"RIFF" + (end - 8).to_bytes(4, "little")
        header[-4:] = size.to_bytes(4, "little")
    elif header[:4] == b"RIFX" and end < 0xFFFFFFFF:
        header[4:8] = (end - 8).to_bytes(4, "big")
        header[-4:] = size.to_bytes(4, "big")
    elif header[:4] == b"FORM" and end < 0xFFFFFFFF:
        header[4:8] = (end - 8).to_bytes(4, "big")
        header[-12:-8] = (size + 8).to_bytes(4, "big")
    elif header[:4] == b"caff":
        header[-12:-4] = (size + 4).to_bytes(8, "big")
    elif header[:4] == b"riff":
        header[16:24] = end.to_bytes(8, "little")
        header[-8:] = (size + 24).to_bytes(8, "little")
    else:
        return None
    return make_part(source, found.start, end, bytes(header))


def _end_before_tags(file: BinaryIO, start: int, end: int) -> int:
    """Return where the audio of a RIFF file ends: at its end, or before chunks of metadata that reach exactly there."""
    base = max(start, end - MAX_TAGS_SIZE)
    file.seek(base)
    data = file.read(end - base)
    for mark in TAG_CHUNKS:
        place = data.rfind(mark)
        if place >= 0:
            at = place
            while data[at : at + 4] in TAG_CHUNKS:
                size = int.from_bytes(data[at + 4 : at + 8], "little")
                at += 8 + size + size % 2
            if at == len(data):
                return _end_before_tags(file, start, base + place)  # there may be more before these
    return end


def _riff(file: BinaryIO) -> StatedSize | None:
    """Read WAV and AVI (RIFF), RF64 and BW64 (EBU Tech 3306), or RIFX, whose numbers are big-endian."""
    file.seek(0)
    kind, size, form = struct.unpack("<4sI4s", file.read(12))
    order = ">" if kind == b"RIFX" else "<"
    if form != b"WAVE":
        return None if form != b"AVI " or _is_placeholder(size) else StatedSize(8, size, "its RIFF chunk")
    long_size, place = None, 12
    while place < MAX_HEADER:
        file.seek(place)
        mark, size = struct.unpack(order + "4sI", file.read(8))
        if mark == b"ds64":
            (long_size,) = struct.unpack("<8xQ", file.read(16))
        if mark == b"data":
            if kind in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
                size = long_size or 0
                return StatedSize(place + 8, None if size == 0 or size >= 1 << 62 else size)
            return StatedSize(place + 8, None if _is_placeholder(size) else size)
        place += 8 + size + size % 2
    return None


def _w64(file: BinaryIO) -> StatedSize | None:
    place = 40
    while place < MAX_HEADER:
        file.seek(place)
        mark, size = struct.unpack("<16sQ", file.read(24))
        if mark == W64_DATA:
            return StatedSize(place + 24, size - 24 if 24 < size < 1 << 62 else None)
        place += max(24, size + -size % 8)
    return None


def _form(file: BinaryIO) -> StatedSize | None:
    """Read AIFF, AIFF-C or an Amiga's IFF."""
    place = 12
    while place < MAX_HEADER:
        file.seek(place)
        mark, size = struct.unpack(">4sI", file.read(8))
        if mark == b"SSND":
            return StatedSize(place + 16, None if _is_placeholder(size) else max(0, size - 8))
        if mark == b"BODY":
            return StatedSize(place + 8, None if _is_placeholder(size) else size)
        place += 8 + size + size % 2
    return None


def _caf(file: BinaryIO) -> StatedSize | None:
    """Read Apple's Core Audio Format, whose data chunk begins with an edit count of 4 bytes."""
    place = 8
    while place < MAX_HEADER:
        file.seek(place)
        mark, size = struct.unpack(">4sq", file.read(12))
        if mark == b"data":
            return StatedSize(place + 16, size - 4 if size > 4 else None)
        place += 12 + max(0, size)
    return None


def _au(file: BinaryIO) -> StatedSize | None:
    file.seek(0)
    data = file.read(12)
    start, size = struct.unpack(("<" if data[:4] == b"dns." else ">") + "4xII", data)
    return StatedSize(start, None if _is_placeholder(size) else size)


def _nist(file: BinaryIO) -> StatedSize | None:
    """Read NIST SPHERE: a header of text with its own size in the second line."""
    file.seek(0)
    text = file.read(1024)
    numbers = {name: int(value) for name, value in re.findall(rb"\n(\w+) -i (\d+)", text)}
    fields = [numbers.get(name) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    start, coding = text[8:16].strip(), re.search(rb"\nsample_coding -s\d+ (\S+)", text)
    if None in fields or not start.isdigit() or (coding and coding[1] not in (b"pcm", b"ulaw", b"alaw")):
        return None
    count, channels, width = fields
    return StatedSize(int(start), count * channels * width or None)  # type: ignore[operator]


def _boxes(file: BinaryIO) -> StatedSize | None:
    """Read the last box of MP4, M4A or MOV (ISO 14496-12). None: it does not reach beyond the end of the file."""
    end, place = file.seek(0, 2), 0
    while place < end:
        file.seek(place)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: it reaches to the end of the file
            return None
        if place + size > end:
            return StatedSize(place, size, "its last box") if head[4:8] in (b"mdat", b"moov", b"moof") else None
        place += size
    return None


def _ebml(file: BinaryIO) -> StatedSize | None:
    """Read the segment behind the header of Matroska and WebM (RFC 8794). All bits of a size set: it is left open."""
    file.seek(4)
    data = file.read(64)
    size, width = _vint(data)
    place = 4 + width + size
    file.seek(place)
    data = file.read(12)
    if data[:4] != b"\x18\x53\x80\x67":
        return None
    size, width = _vint(data[4:])
    return StatedSize(place + 4 + width, None if size == (1 << 7 * width) - 1 else size, "its segment")


def _vint(data: bytes) -> tuple[int, int]:
    """Return a variable-length number of EBML, and its width in bytes."""
    width = 9 - data[0].bit_length()
    return int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1), width


def _is_placeholder(size: int) -> bool:
    """Return whether a size of 32 bits is the placeholder of a writer that did not know the size."""
    return size == 0 or size in PLACEHOLDER_SIZES or size >= 0xFFFF0000


_READERS: dict[bytes, Callable[[BinaryIO], StatedSize | None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b"FORM": _form,
    b"caff": _caf,
    b".snd": _au,
    b"dns.": _au,
    b"NIST_1A": _nist,
    b"\x1a\x45\xdf\xa3": _ebml,
}
